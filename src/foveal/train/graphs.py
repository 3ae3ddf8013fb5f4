"""The views of a micro-batch, forward and backward: their graphs at once, or one after another.

The loss compares views, so it needs the values of all of them together, but each graph only for its own
backward. With x_v the log-probabilities and entropies of view v, dL/dw = sum over v of dL/dx_v dx_v/dw. So
where values are known, the terms take them as leaves beside the one view that is run; their backward gives
each leaf its dL/dx_v, and the leaf's view is then run with gradient and goes backward from there. Every view
still has one forward and one backward, and no two graphs are held.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from foveal.objectives.terms import zero_outside
from foveal.policy.model import Policy
from foveal.ranges import BACKWARD, FORWARD, span
from foveal.spec import FovealError
from foveal.train.contract import require_terms
from foveal.train.loss import sum_terms
from foveal.train.settings import StepSettings
from foveal.types import CLEAN, Batch, Count, Objective, Sampling, Term, TokenStats, ViewName, ViewScores


@dataclass(frozen=True, kw_only=True)
class Micro:
    """A micro-batch, and what makes a loss of its terms."""

    batch: Batch
    counts: Mapping[str, Count]
    """Denominators of each term by name."""
    share: float
    """Weight of its means in the loss."""


@dataclass(frozen=True, kw_only=True)
class Ran:
    """What the forwards of a micro-batch gave, for the log: values of the policy as it ran, leaves aside."""

    now: Mapping[ViewName, TokenStats]
    rows: Mapping[ViewName, Tensor]
    """Completions (Bool [B]) that were run under each view."""
    terms: Sequence[Term]


def kept_for_update(sampling: Sampling, objective: Objective, settings: StepSettings) -> Sampling:
    """The sampling in rows of a micro-batch, with what it should keep because it saves a forward later:
    entropies, the prompts' graph, products of completions.

    Entropies make the clean view known, in scoring or as a leaf, and are logged for all completions: those
    that the update skips included. Prompts are held where a step fits one
    micro-batch; where views go apart only if always, since their graph would stand beside each view's.
    """
    apart = _goes_apart(objective, settings)
    row = settings.micro_batch_tokens
    hold = {"auto": 0 if apart else row, "always": sys.maxsize, "never": 0}
    products = {"auto": row, "always": sys.maxsize, "never": 0}
    reused = CLEAN in objective.update_views and not settings.score_old
    return replace(
        sampling,
        entropies=not settings.score_old,
        row_tokens=settings.micro_batch_tokens,
        hold_tokens=hold[settings.hold_prompts],
        product_tokens=products[settings.hold_products] if reused else 0,
    )


def _goes_apart(objective: Objective, settings: StepSettings) -> bool:
    """Whether views go apart in a step's first update, given that the sampler records entropies."""
    views, known = set(objective.update_views), {CLEAN, *objective.score_views}
    if objective.uses_distributions or settings.view_graphs == "together" or len(views) < 2:
        return False
    unknown = views if objective.chooses_in_update else views - known
    return settings.view_graphs == "apart" or len(unknown) <= 1


def run_views(
    policy: Policy, micro: Micro, objective: Objective, settings: StepSettings, *, fresh: bool
) -> Ran:
    """Run the update's views and add the gradient of the micro-batch's loss.

    `fresh`: the policy is still the one that was scored, so that what was recorded or scored is its own.
    """
    every = micro.batch.inputs.completion_mask.any(-1)
    rows = {
        view: objective.rows(view, micro.batch) if settings.skip_idle else every
        for view in objective.update_views
    }
    views = _Views(policy=policy, micro=micro, objective=objective, settings=settings, rows=rows)
    known = _known(micro.batch, settings, rows) if fresh and not objective.chooses_in_update else {}
    wanted = _leaves(objective, settings, rows, known)
    if not wanted:
        return views.backward({})
    leaves = {view: views.leaf(view, known.get(view)) for view in wanted}
    # What is kept of the first graph is detached: nothing of it is held beside the next one.
    now = {view: _detached(stats) for view, stats in views.backward(leaves).now.items()}
    for view, leaf in leaves.items():
        now[view] = views.finish(view, leaf)
    with torch.no_grad():
        return Ran(now=now, rows=rows, terms=objective.terms(micro.batch, now))


def _known(
    batch: Batch, settings: StepSettings, rows: Mapping[ViewName, Tensor]
) -> dict[ViewName, ViewScores]:
    """Views whose values are known and finite on every token that counts of their rows (Bool [B])."""
    found = dict(batch.scores.views)
    if CLEAN in rows:
        found[CLEAN] = _recorded(batch, found.get(CLEAN), trusted=not settings.score_old)
    whole = {}
    for view, chosen in rows.items():
        if view in found:
            finite = found[view].logprobs.isfinite() & found[view].entropy.isfinite()
            if bool((finite | ~_counted(batch, chosen)).all()):
                whole[view] = found[view]
    return whole


def _recorded(batch: Batch, scored: ViewScores | None, *, trusted: bool) -> ViewScores:
    """The clean view: as scored, else as recorded where that is trusted. Completions that were sampled under
    another view are always scored."""
    inputs, logprobs = batch.inputs, batch.scores.old_logprobs
    entropy = inputs.sampled_entropies if trusted else None
    if entropy is None:
        entropy = torch.full_like(logprobs, torch.nan)
    if scored is None:
        return ViewScores(logprobs=logprobs, entropy=entropy)
    return ViewScores(
        logprobs=torch.where(scored.logprobs.isnan(), logprobs, scored.logprobs),
        entropy=torch.where(scored.entropy.isnan(), entropy, scored.entropy),
    )


def _leaves(
    objective: Objective,
    settings: StepSettings,
    rows: Mapping[ViewName, Tensor],
    known: Mapping[ViewName, ViewScores],
) -> list[ViewName]:
    """The views to be taken as leaves: all that run but one, or none."""
    running = [view for view, chosen in rows.items() if bool(chosen.any())]
    unknown = [view for view in running if view not in known]
    apart = settings.view_graphs == "apart"
    if settings.view_graphs == "auto":
        apart = len(unknown) <= 1 and not objective.uses_distributions
    if not apart or len(running) < 2:
        return []
    live = max(unknown or running, key=lambda view: int(rows[view].sum()))
    return [view for view in running if view != live]


@dataclass(frozen=True, kw_only=True)
class _Views:
    """The views of one micro-batch; `rows` are the completions (Bool [B]) of each that are run."""

    policy: Policy
    micro: Micro
    objective: Objective
    settings: StepSettings
    rows: Mapping[ViewName, Tensor]

    def run(self, view: ViewName) -> TokenStats:
        """One forward."""
        with span(FORWARD, view):
            found: TokenStats = self.policy(
                self.micro.batch.inputs, view, rows=self.rows[view], temperature=self.settings.temperature
            )
        return found

    def leaf(self, view: ViewName, known: ViewScores | None) -> TokenStats:
        """A view's values as leaves, 0 where it is not run; from a forward without gradient where they are
        not known."""
        found: ViewScores | TokenStats | None = known
        if found is None:
            with torch.no_grad():
                found = self.run(view)
        counted = _counted(self.micro.batch, self.rows[view])
        return TokenStats(
            logprobs=zero_outside(found.logprobs, counted).requires_grad_(),
            entropy=zero_outside(found.entropy, counted).requires_grad_(),
            log_probs_at=_not_kept,
        )

    def backward(self, leaves: Mapping[ViewName, TokenStats]) -> Ran:
        """Run the other views; the loss goes backward into them and into the leaves."""
        micro, objective = self.micro, self.objective
        now = {view: leaves[view] if view in leaves else self.run(view) for view in self.rows}
        terms = objective.terms(micro.batch, now)
        require_terms(terms, micro.counts, micro.batch, objective)
        loss = micro.share * sum_terms(terms, micro.counts, objective)
        if loss.requires_grad:
            with span(BACKWARD):
                loss.backward()  # type: ignore[no-untyped-call]
        return Ran(now=now, rows=self.rows, terms=terms)

    def finish(self, view: ViewName, leaf: TokenStats) -> TokenStats:
        """Run a leaf's view and go backward from its gradient; gives what was run.

        A view that no term took a gradient of stays as it was known, but for the clean one, which is what
        the sampler is held against.
        """
        slopes = (leaf.logprobs.grad, leaf.entropy.grad)
        taken = any(slope is not None for slope in slopes)
        if not taken and view != CLEAN:
            return _detached(leaf)
        with torch.set_grad_enabled(taken):
            stats = self.run(view)
        given = {
            value: slope.to(value.dtype)
            for value, slope in zip((stats.logprobs, stats.entropy), slopes, strict=True)
            if slope is not None and value.requires_grad
        }
        if given:
            with span(BACKWARD):
                torch.autograd.backward(tuple(given), tuple(given.values()))
        return _detached(stats)


def _counted(batch: Batch, rows: Tensor) -> Tensor:
    """Tokens that count, of these completions."""
    return batch.inputs.completion_mask & rows.unsqueeze(-1)


def _detached(stats: TokenStats) -> TokenStats:
    return TokenStats(
        logprobs=stats.logprobs.detach(), entropy=stats.entropy.detach(), log_probs_at=_not_kept
    )


def _not_kept(mask: Tensor) -> Tensor:
    raise FovealError(
        "log_probs_at was called on a view whose graph is run apart from the others, so that its "
        "distributions are not there; expected an objective with uses_distributions = True, which is run "
        'together; add that property to the objective, or set optimizer.view_graphs = "together"'
    )
