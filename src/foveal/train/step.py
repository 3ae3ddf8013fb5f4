"""One training step on finished groups: score, advantages, prepare, update. It does not know where groups
come from."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from foveal.objectives.terms import count, term_mean, zero_outside
from foveal.policy.forward import micro_batches, prompts_of
from foveal.policy.model import Policy
from foveal.ranges import BACKWARD, FORWARD, OPTIMIZER, REFERENCE, SCORING, UPDATE, span, spanned
from foveal.spec import FovealError
from foveal.train.contract import require_advantages, require_terms
from foveal.types import (
    CLEAN,
    Batch,
    Count,
    Inputs,
    Objective,
    Scores,
    Term,
    TokenStats,
    ViewName,
    ViewScores,
)

TAIL_NATS = 1.0
"""Tokens with kl_prcp above this many nats count into its tail share: k3's mean alone misleads."""


@dataclass(frozen=True, kw_only=True)
class StepSettings:
    """How a batch is cut and which log-probabilities are the old policy's."""

    temperature: float
    micro_batch_tokens: int
    mini_batches: int = 1
    max_grad_norm: float = 1.0
    score_old: bool = False
    """Score the old log-probabilities; otherwise the sampler's own are taken where it saw the clean
    pictures."""
    average_over: Literal["mini_batch", "micro_batch"] = "mini_batch"
    """What a term is averaged over; "micro_batch" takes the mean of micro-batch means, as the official codes
    do."""
    skip_idle: bool = True
    """Leave out of the update completions that cannot change it: `Objective.needed`."""


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """What a step did. `per_token` holds the detached measures, and terms of other names, [B T], as seen
    before each update."""

    metrics: Mapping[str, float]
    per_token: Mapping[str, Tensor]
    batch: Batch
    updates: int
    """Updates tried, skipped ones counted."""


@dataclass(kw_only=True)
class _Tally:
    """Sums over micro-batches of what is logged."""

    sums: dict[str, float] = field(default_factory=dict)
    tokens: dict[str, float] = field(default_factory=dict)
    losses: dict[str, float] = field(default_factory=dict)
    per_token: dict[str, Tensor] = field(default_factory=dict)
    norms: list[float] = field(default_factory=list)
    ratio_max: float = 0.0
    parity_max: float = 0.0
    skipped: int = 0

    def add(self, measure: Term, rows: Tensor, size: torch.Size) -> None:
        """Count a measure's values on these rows, and keep them."""
        values = measure.per_token.detach()[measure.mask].double()
        self.sums[measure.name] = self.sums.get(measure.name, 0.0) + float(values.sum())
        self.tokens[measure.name] = self.tokens.get(measure.name, 0.0) + float(measure.mask.sum())
        self.keep(measure, rows, size)

    def keep(self, term: Term, rows: Tensor, size: torch.Size) -> None:
        """Keep a term's values on these rows."""
        values = term.per_token.detach()
        whole = self.per_token.setdefault(term.name, torch.full(size, math.nan))
        whole[rows] = torch.where(term.mask, values, math.nan).float().cpu()


@spanned(SCORING)
def score(
    inputs: Inputs, policy: Policy, reference: Policy | None, objective: Objective, settings: StepSettings
) -> Scores:
    """Everything that is known without gradient before the first update: old, reference and scored views."""
    wanted = {view: objective.score_rows(view, inputs) for view in objective.score_views}
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
    views = {view: found[view] for view in objective.score_views}
    return Scores(old_logprobs=old, ref_logprobs=ref_logprobs, views=views)


def _score_views(
    policy: Policy, inputs: Inputs, wanted: Mapping[ViewName, Tensor], settings: StepSettings
) -> dict[ViewName, ViewScores]:
    """The wanted completions (Bool [B]) of each view.

    Without a picture every view is the clean one: its scores are taken over, so that differences between
    views are exactly 0 there and not rounding.
    """
    blind = torch.tensor([not len(inputs.prompts[p].grids) for p in inputs.prompt_index.tolist()])
    blind = blind.to(inputs.correct) & wanted.get(CLEAN, torch.zeros_like(inputs.correct))
    found: dict[ViewName, ViewScores] = {}
    for view in sorted(wanted, key=lambda name: name != CLEAN):
        rows = wanted[view]
        if view == CLEAN:
            found[view] = _score_clean(policy, inputs, rows, settings)
            continue
        scores = _score_view(policy, inputs, view, rows & ~blind, settings)
        taken = (rows & blind).nonzero()[:, 0]
        if len(taken):
            scores.logprobs[taken] = found[CLEAN].logprobs[taken]
            scores.entropy[taken] = found[CLEAN].entropy[taken]
        found[view] = replace(scores, rows=rows)
    return found


def _score_clean(policy: Policy, inputs: Inputs, chosen: Tensor, settings: StepSettings) -> ViewScores:
    """Scores of the chosen completions (Bool [B]) on the clean pictures: what was recorded in sampling, where
    that may stand for the old policy and holds entropies too, needs no forward."""
    entropies = inputs.sampled_entropies
    known = torch.zeros_like(chosen)
    if entropies is not None and not settings.score_old:
        known = chosen & entropies.isfinite().all(-1)
        if inputs.sampled_elsewhere is not None:
            known = known & ~inputs.sampled_elsewhere
    scores = _score_view(policy, inputs, CLEAN, chosen & ~known, settings)
    if entropies is not None:
        scores.logprobs[known] = inputs.sampled_logprobs[known].to(scores.logprobs)
        scores.entropy[known] = entropies[known].to(scores.entropy)
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


@spanned(UPDATE)
def accumulate(
    policy: Policy, mini: Batch, objective: Objective, settings: StepSettings, *, tally: _Tally, rows: Tensor
) -> None:
    """Add the gradient of a mini-batch, micro-batch by micro-batch, with its own denominators.

    `rows` are the places of the mini-batch's completions in the step's batch.
    """
    whole = {name: count(mask) for name, mask in objective.masks(mini).items()}
    for name in whole:
        tally.losses.setdefault(name, 0.0)
    needed = None
    if settings.skip_idle and settings.average_over == "mini_batch":
        needed = objective.needed(mini).nonzero()[:, 0].cpu()
    parts = micro_batches(mini.inputs, tokens=settings.micro_batch_tokens, rows=needed)
    policy.held.keep_if_worth(
        [mini.inputs.prompts[p] for part in parts for p in prompts_of(mini.inputs, part)]
    )
    for part in parts:
        micro = select(mini, part)
        counts, share = whole, 1.0
        if settings.average_over == "micro_batch":
            counts = {name: count(mask) for name, mask in objective.masks(micro).items()}
            share = 1.0 / len(parts)
        now = {}
        for view in objective.update_views:
            with span(FORWARD, view):
                now[view] = policy(
                    micro.inputs, view, rows=objective.rows(view, micro), temperature=settings.temperature
                )
        terms = objective.terms(micro, now)
        require_terms(terms, counts, micro, objective)
        loss = share * sum_terms(terms, counts, objective)
        if loss.requires_grad:
            with span(BACKWARD):
                loss.backward()  # type: ignore[no-untyped-call]
        _watch(tally, objective, micro, now, terms, counts, share=share, places=rows[part])
    if policy.held.rows:
        with span(BACKWARD):
            policy.held.backward()


def sum_terms(terms: Iterable[Term], counts: Mapping[str, Count], objective: Objective) -> Tensor:
    """The loss: sum over terms of coef times the mean over the term's mask, with the given denominators."""
    total = torch.zeros(())
    for term in terms:
        total = total + term.coef * _mean(term, counts, objective)
    return total


def _mean(term: Term, counts: Mapping[str, Count], objective: Objective) -> Tensor:
    return term_mean(
        term, aggregation=objective.aggregation, count=counts[term.name], horizon=objective.horizon
    )


def _watch(
    tally: _Tally,
    objective: Objective,
    micro: Batch,
    now: Mapping[ViewName, TokenStats],
    terms: Sequence[Term],
    counts: Mapping[str, Count],
    *,
    share: float,
    places: Tensor,
) -> None:
    """Log what this micro-batch saw; `share` is the weight of its means in the loss."""
    with torch.no_grad():
        size = tally.per_token["sampled_logprobs"].shape
        measures = _first_of_each_name(objective.measures(micro, now))
        for measure in measures.values():
            tally.add(measure, places, size)
        for name, term in _first_of_each_name(terms).items():
            if name not in measures:
                tally.keep(term, places, size)
        for term in terms:
            mean = _mean(term, counts, objective)
            tally.losses[term.name] = tally.losses.get(term.name, 0.0) + share * term.coef * float(mean)
        if CLEAN in now:
            mask = micro.inputs.completion_mask
            drift = zero_outside(now[CLEAN].logprobs - micro.scores.old_logprobs, mask).abs().max()
            tally.ratio_max = _larger(tally.ratio_max, float(drift.exp()))
            if not tally.norms:
                if micro.inputs.sampled_elsewhere is not None:
                    mask = mask & ~micro.inputs.sampled_elsewhere.unsqueeze(-1)
                gap = zero_outside(now[CLEAN].logprobs - micro.inputs.sampled_logprobs, mask).abs().max()
                tally.parity_max = _larger(tally.parity_max, float(gap))


def _first_of_each_name(terms: Iterable[Term]) -> dict[str, Term]:
    """Methods that hold one another may log the same thing: it is counted once."""
    found: dict[str, Term] = {}
    for term in terms:
        found.setdefault(term.name, term)
    return found


def _larger(first: float, second: float) -> float:
    """The larger number, NaN where one of them is: `max` would keep or lose it by the order of the two."""
    return math.nan if math.isnan(first) or math.isnan(second) else max(first, second)


def train_step(
    policy: Policy,
    reference: Policy | None,
    optimizer: torch.optim.Optimizer,
    inputs: Inputs,
    objective: Objective,
    settings: StepSettings,
) -> StepResult:
    """Score, prepare and update on finished groups. An update whose gradient is not finite is skipped and
    counted."""
    batch = prepare(inputs, score(inputs, policy, reference, objective, settings), objective)
    tally = _Tally(per_token={"sampled_logprobs": inputs.sampled_logprobs})
    for rows in mini_batch_rows(inputs, settings.mini_batches):
        optimizer.zero_grad(set_to_none=True)
        accumulate(policy, select(batch, rows), objective, settings, tally=tally, rows=rows)
        _update(policy, optimizer, settings, tally)
    metrics = _metrics(batch, tally)
    return StepResult(metrics=metrics, per_token=tally.per_token, batch=batch, updates=len(tally.norms))


@spanned(OPTIMIZER)
def _update(policy: Policy, optimizer: torch.optim.Optimizer, settings: StepSettings, tally: _Tally) -> None:
    parameters = [p for p in policy.parameters() if p.requires_grad]
    for parameter in parameters:
        if parameter.grad is None:
            # A missing gradient is a zero one: optimizer state exists for every parameter from the first
            # step.
            parameter.grad = torch.zeros_like(parameter)
    norm = torch.nn.utils.clip_grad_norm_(parameters, settings.max_grad_norm)
    tally.norms.append(float(norm))
    if math.isfinite(tally.norms[-1]):
        optimizer.step()
    else:
        tally.skipped += 1


def mini_batch_rows(inputs: Inputs, parts: int) -> list[Tensor]:
    """Completions (Int [K], on the CPU) of each mini-batch: whole groups, dealt out in order and as evenly as
    possible."""
    owners = inputs.prompt_index.cpu()
    shares = torch.arange(len(inputs.prompts)).tensor_split(parts)
    return [torch.isin(owners, share).nonzero()[:, 0] for share in shares if len(share)]


def select(batch: Batch, rows: Tensor) -> Batch:
    """The batch of some completions (Int [K]); prompts and pictures stay, since rows point at them."""
    scores = batch.scores
    return replace(
        batch,
        inputs=select_inputs(batch.inputs, rows),
        scores=Scores(
            old_logprobs=scores.old_logprobs[rows],
            ref_logprobs=None if scores.ref_logprobs is None else scores.ref_logprobs[rows],
            views={view: found.take(rows) for view, found in scores.views.items()},
        ),
        advantages=batch.advantages[rows],
        selections={name: mask[rows] for name, mask in batch.selections.items()},
        weights={name: weight[rows] for name, weight in batch.weights.items()},
    )


def select_inputs(inputs: Inputs, rows: Tensor) -> Inputs:
    """The inputs of some completions (Int [K])."""
    return replace(
        inputs,
        prompt_index=inputs.prompt_index[rows],
        completion_ids=inputs.completion_ids[rows],
        completion_mask=inputs.completion_mask[rows],
        sampled_logprobs=inputs.sampled_logprobs[rows],
        rewards=inputs.rewards[rows],
        correct=inputs.correct[rows],
        lengths=inputs.lengths[rows],
        truncated=inputs.truncated[rows],
        sampled_elsewhere=None if inputs.sampled_elsewhere is None else inputs.sampled_elsewhere[rows],
        sampled_entropies=None if inputs.sampled_entropies is None else inputs.sampled_entropies[rows],
        breakdown={name: values[rows] for name, values in inputs.breakdown.items()},
        segments={name: mask[rows] for name, mask in inputs.segments.items()},
    )


def _metrics(batch: Batch, tally: _Tally) -> dict[str, float]:
    """The step's numbers by name; docs/metrics.md says what each is."""
    inputs = batch.inputs
    found = {f"loss/{name}": value for name, value in tally.losses.items()}
    found["loss/total"] = sum(tally.losses.values())
    for name, total in tally.sums.items():
        key = name if "/" in name else f"{name}/mean"
        found[key] = total / tally.tokens[name] if tally.tokens[name] else 0.0
    if "kl_prcp" in tally.sums:
        kl_prcp = tally.per_token["kl_prcp"]
        values = kl_prcp[kl_prcp.isfinite()]
        found["kl_prcp/mean"] = float(values.mean()) if len(values) else 0.0
        found["kl_prcp/median"] = float(values.median()) if len(values) else 0.0
        found["kl_prcp/variance"] = float(values.var(correction=0)) if len(values) else 0.0
        found["kl_prcp/tail_fraction"] = float((values > TAIL_NATS).float().mean()) if len(values) else 0.0
    if batch.scores.ref_logprobs is not None:
        scored = batch.scores.ref_logprobs[inputs.completion_mask]
        found["completion/reference_logprob"] = float(scored.mean()) if len(scored) else 0.0
    idle = (batch.advantages.abs().amax(-1) == 0).float().mean()
    found |= {
        "reward/mean": float(inputs.rewards.mean()),
        "reward/std": float(inputs.rewards.std()) if len(inputs.rewards) > 1 else 0.0,
        "reward/accuracy": float(inputs.correct.float().mean()),
        "reward/zero_advantage_fraction": float(idle),
        "completion/length_mean": float(inputs.lengths.float().mean()),
        "completion/truncated_fraction": float(inputs.truncated.float().mean()),
        "completion/nonfinite_count": float(inputs.nonfinite_count),
        "policy/ratio_max": tally.ratio_max,
        "policy/grad_norm": sum(tally.norms) / max(1, len(tally.norms)),
        "policy/skipped_count": float(tally.skipped),
        "sampler/parity_max": tally.parity_max,
    }
    return found
