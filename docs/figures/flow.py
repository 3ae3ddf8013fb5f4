"""What an objective reads and where its gradient goes, found by running it on a small batch without a model.

Each source (old and reference log-probabilities, scores of a view, advantages) is changed alone: a term that
changes reads it. Gradients are those that autograd gives for the logits of each view.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from foveal.types import (
    CLEAN,
    Aggregation,
    Batch,
    Inputs,
    Objective,
    Scores,
    TokenStats,
    ViewName,
    ViewScores,
)

ROWS, TOKENS, VOCABULARY = 8, 7, 5
ADVANTAGES, OLD, REFERENCE = "advantages", "old", "reference"


def scored(view: ViewName) -> str:
    """Name of a view's scores among the sources."""
    return f"score:{view}"


Terms = dict[str, tuple[Tensor, tuple[ViewName, ...]]]
"""By name, a term's values on its mask, and the views that get gradient from it."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Tokens or weights that are chosen once a step."""

    kind: str
    """"tokens" or "weights"."""
    sources: tuple[str, ...]
    """What decides it."""
    terms: tuple[str, ...]
    """The terms that it decides."""


@dataclass(frozen=True, kw_only=True)
class Flow:
    """The data flow of an objective. Sources are `ADVANTAGES`, `OLD`, `REFERENCE` and `scored(view)`."""

    sampled: Mapping[ViewName, float]
    """Share of each group's completions that is sampled under each view, at the first step."""
    scored: tuple[ViewName, ...]
    updated: tuple[ViewName, ...]
    reference: bool
    coefs: Mapping[str, float]
    """Coefficient of each term."""
    averages: Mapping[str, Aggregation]
    """How each term is averaged."""
    gradient: Mapping[str, tuple[ViewName, ...]]
    """For each term, the views that get gradient from it."""
    reads: Mapping[str, tuple[str, ...]]
    """For each term, the sources that its values come from, other than through `chosen`."""
    chosen: Mapping[str, Choice]
    """By name, the choices that some term follows."""


def flow_of(objective: Objective) -> Flow:
    """The data flow of `objective` as its own methods show it."""
    inputs, scores, logits = _example(objective)
    batch = _prepared(objective, inputs, scores)
    plain = _terms(objective, batch, logits)
    changed = _changes(objective, batch)
    reads: dict[str, list[str]] = {name: [] for name in plain}
    deciding: dict[str, list[str]] = {name: [] for name in (*batch.selections, *batch.weights)}
    for source, other in changed.items():
        held = replace(other, selections=batch.selections, weights=batch.weights)
        for name in _differing(plain, _terms(objective, held, logits)):
            reads[name].append(source)
        again = objective.prepare(replace(other, selections={}, weights={}))
        for name, value in {**batch.selections, **batch.weights}.items():
            if not torch.equal(value, {**again.selections, **again.weights}[name]):
                deciding[name].append(source)
    chosen = {}
    for name, other in _other_choices(batch).items():
        follow = _differing(plain, _terms(objective, other, logits))
        if follow:
            kind = "tokens" if name in batch.selections else "weights"
            chosen[name] = Choice(kind=kind, sources=tuple(deciding[name]), terms=tuple(follow))
    terms = objective.terms(batch, _now(logits, inputs.completion_ids))
    return Flow(
        sampled=dict(objective.sample_views(0, steps=100)),
        scored=objective.score_views,
        updated=objective.update_views,
        reference=objective.uses_reference,
        coefs={term.name: term.coef for term in terms},
        averages={term.name: term.aggregation or objective.aggregation for term in terms},
        gradient={name: values[1] for name, values in plain.items()},
        reads={name: tuple(found) for name, found in reads.items()},
        chosen=chosen,
    )


def _example(objective: Objective) -> tuple[Inputs, Scores, dict[ViewName, Tensor]]:
    """Two groups of four completions of several lengths; the policy has moved since it was scored."""
    noise = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=noise, dtype=torch.float64)

    lengths = torch.tensor([7, 5, 6, 4, 7, 3, 5, 6])
    mask = torch.arange(TOKENS) < lengths[:, None]
    ids = torch.randint(VOCABULARY, (ROWS, TOKENS), generator=noise)
    views = tuple(dict.fromkeys((*objective.views, *objective.sample_views(0, steps=100))))
    before = {view: 1.5 * normal(ROWS, TOKENS, VOCABULARY) for view in views}
    stats = _now(before, ids)
    inputs = Inputs(
        prompts=(),
        prompt_index=torch.arange(ROWS) // 4,
        completion_ids=ids,
        completion_mask=mask,
        sampled_logprobs=stats[CLEAN].logprobs,
        rewards=torch.tensor([1.0, 0.0, 0.9, 0.1, 0.9, 1.0, 0.0, 0.1], dtype=torch.float64),
        correct=torch.tensor([True, False, True, False, True, True, False, False]),
        lengths=lengths,
        truncated=torch.zeros(ROWS, dtype=torch.bool),
        vision={},
        breakdown={name: torch.rand(ROWS, generator=noise) for name in objective.uses_rewards},
        segments={name: mask & (torch.arange(TOKENS) < 3) for name in objective.uses_rewards},
    )
    scores = Scores(
        old_logprobs=stats[CLEAN].logprobs,
        ref_logprobs=stats[CLEAN].logprobs + 0.5 * normal(ROWS, TOKENS),
        views={
            view: ViewScores(logprobs=stats[view].logprobs, entropy=stats[view].entropy)
            for view in objective.score_views
        },
    )
    now = {view: (logits + 0.05 * normal(*logits.shape)).requires_grad_() for view, logits in before.items()}
    return inputs, scores, {view: now[view] for view in objective.update_views}


def _now(logits: Mapping[ViewName, Tensor], ids: Tensor) -> dict[ViewName, TokenStats]:
    """Each view's logits as the running policy would show them."""
    found = {}
    for view, values in logits.items():
        log_probs = values.log_softmax(-1)
        found[view] = TokenStats(
            logprobs=log_probs.gather(-1, ids.unsqueeze(-1)).squeeze(-1),
            entropy=-(log_probs.exp() * log_probs).sum(-1),
            log_probs_at=lambda mask, log_probs=log_probs: log_probs[mask],
        )
    return found


def _prepared(objective: Objective, inputs: Inputs, scores: Scores) -> Batch:
    return objective.prepare(Batch(inputs=inputs, scores=scores, advantages=objective.advantages(inputs)))


def _terms(objective: Objective, batch: Batch, logits: Mapping[ViewName, Tensor]) -> Terms:
    """For each term its values on its mask, and the views that get gradient from it."""
    found: Terms = {}
    for term in objective.terms(batch, _now(logits, batch.inputs.completion_ids)):
        values = torch.where(term.mask, term.per_token, 0.0)
        reached: tuple[ViewName, ...] = ()
        if values.requires_grad:
            uneven = values * torch.arange(1, values.numel() + 1).view_as(values)
            gradients = torch.autograd.grad(
                uneven.sum(), list(logits.values()), allow_unused=True, retain_graph=True
            )
            reached = tuple(
                view
                for view, gradient in zip(logits, gradients, strict=True)
                if gradient is not None and bool(gradient.abs().max() > 0)
            )
        found[term.name] = (values.detach(), reached)
    return found


def _differing(
    plain: Mapping[str, tuple[Tensor, object]], other: Mapping[str, tuple[Tensor, object]]
) -> list[str]:
    """The terms whose values are not the same."""
    return [name for name, (values, _) in other.items() if not torch.equal(values, plain[name][0])]


def _other_choices(batch: Batch) -> dict[str, Batch]:
    """The batch with one choice changed, for each choice."""
    mask = batch.inputs.completion_mask
    found = {
        name: replace(batch, selections={**batch.selections, name: mask & ~chosen})
        for name, chosen in batch.selections.items()
    }
    for name, weight in batch.weights.items():
        found[name] = replace(batch, weights={**batch.weights, name: 1.5 * weight + 0.1})
    return found


def _changes(objective: Objective, batch: Batch) -> dict[str, Batch]:
    """The batch with one source changed, for each source."""
    scores, ramp = batch.scores, torch.linspace(0.01, 0.3, TOKENS, dtype=torch.float64)
    turned = replace(batch.inputs, rewards=1 - batch.inputs.rewards, correct=~batch.inputs.correct)
    changed = {
        ADVANTAGES: replace(batch, inputs=turned, advantages=objective.advantages(turned)),
        OLD: replace(batch, scores=replace(scores, old_logprobs=scores.old_logprobs - ramp)),
    }
    if objective.uses_reference and scores.ref_logprobs is not None:
        moved = replace(scores, ref_logprobs=scores.ref_logprobs - ramp)
        changed[REFERENCE] = replace(batch, scores=moved)
    for view, found in scores.views.items():
        other = replace(found, logprobs=found.logprobs - ramp, entropy=found.entropy.flip(0, 1))
        changed[scored(view)] = replace(batch, scores=replace(scores, views={**scores.views, view: other}))
    return changed
