"""One training step on finished groups: score, advantages, prepare, update. It does not know where groups
come from."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from foveal.policy.forward import micro_batches
from foveal.policy.model import Policy
from foveal.ranges import OPTIMIZER, REFERENCE, SCORING, span, spanned
from foveal.spec import FovealError
from foveal.train.contract import require_advantages
from foveal.train.rows import mini_batch_rows, select, select_inputs
from foveal.train.settings import StepSettings
from foveal.train.tally import Tally
from foveal.train.update import accumulate
from foveal.types import CLEAN, Batch, Inputs, Objective, Scores, ViewName, ViewScores


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """What a step did. `per_token` holds the detached measures, and terms of other names, [B T], as seen
    before each update."""

    metrics: Mapping[str, float]
    per_token: Mapping[str, Tensor]
    batch: Batch
    updates: int
    """Updates tried, skipped ones counted."""
    distrusted: bool = False
    """What the sampler recorded was further off than allowed: the step was made on scored values."""


@spanned(SCORING)
def score(
    inputs: Inputs, policy: Policy, reference: Policy | None, objective: Objective, settings: StepSettings
) -> Scores:
    """Everything that is known without gradient before the first update: old, reference and scored views."""
    every = inputs.completion_mask.any(-1)
    wanted = {
        view: objective.score_rows(view, inputs) if settings.skip_idle else every
        for view in objective.score_views
    }
    unknown = inputs.sampled_elsewhere
    if settings.score_old:
        unknown = torch.ones_like(inputs.correct)
    if unknown is not None:
        wanted[CLEAN] = wanted[CLEAN] | unknown if CLEAN in wanted else unknown
    found = _score_views(policy, inputs, wanted, settings)
    ref_logprobs = None
    if objective.uses_reference:
        if reference is None:
            raise ValueError("the objective uses a reference policy, but none was given")
        every = torch.ones_like(inputs.correct)
        with span(REFERENCE):
            ref_logprobs = _score_view(reference, inputs, CLEAN, every, settings).logprobs
    old = inputs.sampled_logprobs
    if unknown is not None:
        old = torch.where(unknown.unsqueeze(-1), found[CLEAN].logprobs, old)
    return Scores(old_logprobs=old, ref_logprobs=ref_logprobs, views=found)


def _score_views(
    policy: Policy, inputs: Inputs, wanted: Mapping[ViewName, Tensor], settings: StepSettings
) -> dict[ViewName, ViewScores]:
    """The wanted completions (Bool [B]) of each view.

    Without a picture every view is the clean one: its scores are taken over, or where it is not scored what
    was recorded, so that differences between views are exactly 0 there and not rounding.
    """
    blind = torch.tensor([not len(inputs.prompts[p].grids) for p in inputs.prompt_index.tolist()])
    blind = blind.to(inputs.correct)
    clean = wanted.get(CLEAN, torch.zeros_like(inputs.correct))
    found: dict[ViewName, ViewScores] = {}
    for view in sorted(wanted, key=lambda name: name != CLEAN):
        rows = wanted[view]
        if view == CLEAN:
            found[view] = _score_clean(policy, inputs, rows, settings)
            continue
        taken, recorded = rows & blind & clean, rows & blind & ~clean
        whole = recorded & _entropies_recorded(inputs)
        scores = _score_view(policy, inputs, view, rows & ~taken & ~whole, settings)
        _take_recorded(scores, inputs, recorded, entropies=whole)
        if bool(taken.any()):
            scores.logprobs[taken] = found[CLEAN].logprobs[taken]
            scores.entropy[taken] = found[CLEAN].entropy[taken]
        found[view] = replace(scores, rows=rows)
    return found


def _entropies_recorded(inputs: Inputs) -> Tensor:
    """Completions (Bool [B]) whose entropies the sampler recorded."""
    entropies = inputs.sampled_entropies
    return torch.zeros_like(inputs.correct) if entropies is None else entropies.isfinite().all(-1)


def _take_recorded(scores: ViewScores, inputs: Inputs, rows: Tensor, *, entropies: Tensor) -> None:
    """Put what was recorded of completions (Bool [B] each) in place of their scores."""
    scores.logprobs[rows] = inputs.sampled_logprobs[rows].to(scores.logprobs)
    if inputs.sampled_entropies is not None:
        scores.entropy[entropies] = inputs.sampled_entropies[entropies].to(scores.entropy)


def _score_clean(policy: Policy, inputs: Inputs, chosen: Tensor, settings: StepSettings) -> ViewScores:
    """Scores of the chosen completions (Bool [B]) on the clean pictures: what was recorded in sampling, where
    that may stand for the old policy and holds entropies too, needs no forward."""
    known = torch.zeros_like(chosen)
    if not settings.score_old:
        known = chosen & _entropies_recorded(inputs)
        if inputs.sampled_elsewhere is not None:
            known = known & ~inputs.sampled_elsewhere
    scores = _score_view(policy, inputs, CLEAN, chosen & ~known, settings)
    _take_recorded(scores, inputs, known, entropies=known)
    return replace(scores, rows=chosen)


def _score_view(
    policy: Policy, inputs: Inputs, view: ViewName, chosen: Tensor, settings: StepSettings
) -> ViewScores:
    """Scores of the chosen completions (Bool [B]), NaN in the others."""
    wide = torch.promote_types(next(policy.parameters()).dtype, torch.float32)
    logprobs = torch.full_like(inputs.sampled_logprobs, math.nan, dtype=wide)
    entropy = torch.full_like(logprobs, math.nan)
    with torch.no_grad():
        places = chosen.nonzero()[:, 0].cpu()
        for rows in micro_batches(inputs, tokens=settings.micro_batch_tokens, rows=places):
            with span(view):
                stats = policy(select_inputs(inputs, rows), view, temperature=settings.temperature)
            logprobs[rows], entropy[rows] = stats.logprobs.to(wide), stats.entropy.to(wide)
    return ViewScores(logprobs=logprobs, entropy=entropy, rows=chosen)


def prepare(inputs: Inputs, scores: Scores, objective: Objective) -> Batch:
    """Advantages over the whole batch, then the objective's choice of tokens and weights."""
    advantages = objective.advantages(inputs)
    require_advantages(advantages, inputs, objective)
    batch = objective.prepare(Batch(inputs=inputs, scores=scores, advantages=advantages))
    if not isinstance(batch, Batch):
        raise FovealError(f"objective {objective.type!r}: prepare gives {batch!r}; expected the batch")
    return batch


def train_step(
    policy: Policy,
    reference: Policy | None,
    optimizer: torch.optim.Optimizer,
    inputs: Inputs,
    objective: Objective,
    settings: StepSettings,
) -> StepResult:
    """Score, prepare and update on finished groups. An update whose gradient is not finite is skipped and
    counted.

    What the sampler recorded is held against the first mini-batch's forward, before anything is updated.
    Where it is further off than `parity_limit`, or recorded products than `product_gap_limit`, that gradient
    is thrown away and the step is made anew on scored values. Completions of later mini-batches, and those
    that are not run, are not checked.

    Where it is left by an exception, nothing stays that the next step would take for its own.
    """
    try:
        return _train_step(policy, reference, optimizer, inputs, objective, settings)
    except BaseException:
        # Held prompts have gathered a part of this step's gradient, which goes backward with them.
        policy.held.clear()
        raise


def _train_step(
    policy: Policy,
    reference: Policy | None,
    optimizer: torch.optim.Optimizer,
    inputs: Inputs,
    objective: Objective,
    settings: StepSettings,
) -> StepResult:
    first, *later = mini_batch_rows(inputs, settings.mini_batches)

    def begin(how: StepSettings) -> tuple[Batch, Tally]:
        """Everything up to the gradient of the first mini-batch."""
        batch = prepare(inputs, score(inputs, policy, reference, objective, how), objective)
        tally = Tally.of(inputs)
        zero_gradients(policy)
        accumulate(policy, select(batch, first), objective, how, tally=tally, rows=first)
        return batch, tally

    batch, tally = begin(settings)
    gap = tally.product_gap_max
    off = not settings.score_old and tally.parity > settings.parity_limit
    wrong = gap is not None and not gap <= settings.product_gap_limit
    if off or wrong:
        settings = replace(settings, score_old=True)
        batch, tally = begin(settings)
        tally.product_gap(gap)
    # A policy that is not finite is no fault of the sampler.
    distrusted = off or (wrong and not math.isnan(tally.parity))
    _update(policy, optimizer, settings, tally)
    for rows in later:
        zero_gradients(policy)
        accumulate(policy, select(batch, rows), objective, settings, tally=tally, rows=rows)
        _update(policy, optimizer, settings, tally)
    return StepResult(
        metrics=tally.metrics(batch),
        per_token=tally.per_token,
        batch=batch,
        updates=len(tally.norms),
        distrusted=distrusted,
    )


def zero_gradients(policy: Policy) -> None:
    """One of 0 for every trained weight: a missing gradient is a zero one, so that optimizer state exists for
    all of them from the first step.

    They are kept from step to step. Made anew in each backward, they would lie among its temporaries and keep
    the memory between them from being used again.
    """
    for parameter in _trained(policy):
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        else:
            parameter.grad.zero_()


@spanned(OPTIMIZER)
def _update(policy: Policy, optimizer: torch.optim.Optimizer, settings: StepSettings, tally: Tally) -> None:
    weights, most = _trained(policy), settings.max_grad_norm
    norm = torch.nn.utils.get_total_norm([p.grad for p in weights if p.grad is not None])
    tally.norms.append(float(norm))
    if not math.isfinite(tally.norms[-1]):
        tally.skipped += 1
        return
    # Else torch would multiply every gradient by 1, to rounding.
    if tally.norms[-1] > most:
        torch.nn.utils.clip_grads_with_norm_(weights, most, norm)
    optimizer.step()


def _trained(policy: Policy) -> list[torch.nn.Parameter]:
    return [p for p in policy.parameters() if p.requires_grad]
