"""Batches without a model: a view is a leaf tensor of logits, so that gradients are read off it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from foveal.objectives.terms import aggregate, count, term_mean
from foveal.types import Batch, Inputs, Objective, Scores, TokenStats, ViewScores, VisionInputs

VOCABULARY = 5


@dataclass(frozen=True)
class Case:
    """A batch and, for each view, the logits that the policy gives now."""

    batch: Batch
    logits: dict[str, Tensor]

    @property
    def now(self) -> dict[str, TokenStats]:
        return {
            view: token_stats(logits, self.batch.inputs.completion_ids)
            for view, logits in self.logits.items()
        }


def token_stats(logits: Tensor, ids: Tensor) -> TokenStats:
    log_probs = logits.log_softmax(-1)
    return TokenStats(
        logprobs=log_probs.gather(-1, ids.unsqueeze(-1)).squeeze(-1),
        entropy=-(log_probs.exp() * log_probs).sum(-1),
        log_probs_at=lambda mask: log_probs[mask],
    )


def ragged(lengths: Sequence[int], width: int) -> Tensor:
    return torch.arange(width) < torch.tensor(lengths).unsqueeze(-1)


def make_case(
    lengths: Sequence[int] = (5, 2, 4, 1),
    *,
    width: int = 6,
    rewards: Sequence[float] = (1.0, 0.0, 0.9, 0.1),
    groups: Sequence[int] = (0, 0, 1, 1),
    views: Sequence[str] = ("clean", "removed", "preserved"),
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    spread: float = 0.3,
) -> Case:
    """Rows of the given lengths; the policy has moved a little (`spread`) since it was scored."""
    noise = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=noise, dtype=torch.float64).to(dtype)

    rows = len(lengths)
    mask = ragged(lengths, width)
    ids = torch.randint(VOCABULARY, (rows, width), generator=noise)
    old = {view: 1.5 * normal(rows, width, VOCABULARY) for view in views}
    scored = {view: token_stats(logits, ids) for view, logits in old.items()}
    inputs = Inputs(
        prompts=(),
        prompt_index=torch.tensor(groups),
        completion_ids=ids,
        completion_mask=mask,
        sampled_logprobs=scored["clean"].logprobs,
        rewards=torch.tensor(rewards, dtype=dtype),
        correct=torch.tensor(rewards) > 0.5,
        lengths=torch.tensor(lengths),
        truncated=torch.zeros(rows, dtype=torch.bool),
        vision={view: VisionInputs(pixels=()) for view in views},
        breakdown={"facts": 1 - torch.tensor(rewards, dtype=dtype)},
        segments={"facts": mask & (torch.arange(width) < 2)},
    )
    scores = Scores(
        old_logprobs=scored["clean"].logprobs,
        ref_logprobs=scored["clean"].logprobs + 0.5 * normal(rows, width),
        views={
            view: ViewScores(logprobs=stats.logprobs, entropy=stats.entropy) for view, stats in scored.items()
        },
    )
    batch = Batch(inputs=inputs, scores=scores, advantages=torch.zeros(rows, width, dtype=dtype))
    now = {view: (logits + spread * normal(*logits.shape)).requires_grad_() for view, logits in old.items()}
    return Case(batch, now)


def prepared(objective: Objective, case: Case) -> Case:
    batch = replace(case.batch, advantages=objective.advantages(case.batch.inputs))
    return Case(objective.prepare(batch), case.logits)


def total_loss(objective: Objective, case: Case, counts: Mapping | None = None) -> Tensor:
    """What the trainer backs through; `counts` of the whole mini-batch when the case is a part of it."""
    if counts is None:
        counts = {name: count(mask) for name, mask in objective.masks(case.batch).items()}
    terms = objective.terms(case.batch, case.now)
    return sum(
        (
            term.coef
            * term_mean(
                term,
                aggregation=objective.aggregation,
                count=counts[term.name],
                horizon=objective.horizon,
            )
            for term in terms
        ),
        start=torch.zeros(()),
    )


def gradients(objective: Objective, case: Case) -> dict[str, Tensor]:
    """d loss / d logits of each view; zeros where the loss does not reach."""
    case = prepared(objective, case)
    loss = total_loss(objective, case)
    found = torch.autograd.grad(loss, list(case.logits.values()), allow_unused=True)
    return {
        view: torch.zeros_like(logits) if grad is None else grad
        for (view, logits), grad in zip(case.logits.items(), found, strict=True)
    }


def is_bit_for_bit(objective: Objective, base: Objective, case: Case) -> bool:
    """Whether loss, gradients, views and measures of two objectives are the same."""
    cases = [prepared(o, case) for o in (objective, base)]
    losses = [total_loss(o, c) for o, c in zip((objective, base), cases, strict=True)]
    found, wanted = gradients(objective, case), gradients(base, case)
    names = [
        [m.name for m in o.measures(c.batch, c.now)] for o, c in zip((objective, base), cases, strict=True)
    ]
    return (
        (objective.score_views, objective.update_views) == (base.score_views, base.update_views)
        and torch.equal(losses[0], losses[1])
        and all(torch.equal(found[view], wanted[view]) for view in wanted)
        and names[0] == names[1]
    )


def measure(objective: Objective, case: Case, name: str) -> float:
    """The mean of a measure over its mask."""
    found = [term for term in objective.measures(case.batch, case.now) if term.name == name]
    assert len(found) == 1, [term.name for term in objective.measures(case.batch, case.now)]
    assert not found[0].per_token.requires_grad
    mean = aggregate(found[0].per_token, found[0].mask, aggregation="token_mean", count=count(found[0].mask))
    return float(mean)


def part(case: Case, rows: Sequence[int]) -> Case:
    """Some rows of a prepared case, as a micro-batch; gradients still reach the whole case's logits."""
    index = torch.tensor(rows)
    batch, inputs, scores = case.batch, case.batch.inputs, case.batch.scores
    ref = scores.ref_logprobs
    return Case(
        Batch(
            inputs=replace(
                inputs,
                prompt_index=inputs.prompt_index[index],
                completion_ids=inputs.completion_ids[index],
                completion_mask=inputs.completion_mask[index],
                sampled_logprobs=inputs.sampled_logprobs[index],
                rewards=inputs.rewards[index],
                correct=inputs.correct[index],
                lengths=inputs.lengths[index],
                truncated=inputs.truncated[index],
                breakdown={name: values[index] for name, values in inputs.breakdown.items()},
                segments={name: mask[index] for name, mask in inputs.segments.items()},
            ),
            scores=Scores(
                old_logprobs=scores.old_logprobs[index],
                ref_logprobs=None if ref is None else ref[index],
                views={
                    view: ViewScores(logprobs=score.logprobs[index], entropy=score.entropy[index])
                    for view, score in scores.views.items()
                },
            ),
            advantages=batch.advantages[index],
            selections={name: mask[index] for name, mask in batch.selections.items()},
            weights={name: weight[index] for name, weight in batch.weights.items()},
        ),
        {view: logits[index] for view, logits in case.logits.items()},
    )
