"""From plain tensors to the batch that an objective reads, and from its terms to one number."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import torch
from jaxtyping import Bool, Float
from pydantic import ValidationError
from torch import Tensor

from foveal.objectives.dvrp import DVRP
from foveal.objectives.extension import Extension
from foveal.objectives.papo import PAPO
from foveal.objectives.surrogate import Surrogate
from foveal.objectives.terms import count as count_of
from foveal.objectives.terms import masked_mean, term_mean
from foveal.spec import ConfigError, FovealError, explain
from foveal.types import CLEAN, Batch, Count, Inputs, Objective, Scores, TokenStats, ViewName, ViewScores

Made = TypeVar("Made", bound=Objective)

ENTROPY, ENTROPY_SHIFT = "policy/entropy", "perception/entropy_shift"
"""Measures that are left out when the entropies they need were not given."""


class Loss(NamedTuple):
    """What a loss function gives: `loss, measures = foveal.losses.grpo(...)`."""

    loss: Float[Tensor, ""]
    """What to call `backward` on."""
    measures: dict[str, Tensor]
    """Numbers to log, detached and without dimensions, under the names of metrics.jsonl: `loss/TERM` is what
    a term adds to the loss; other values are means over completion tokens."""


@dataclass(frozen=True, kw_only=True)
class View:
    """What the policy says of the completions under one view of the pictures."""

    logprobs: Float[Tensor, "B T"]
    entropy: Float[Tensor, "B T"] | None = None
    log_probs: Float[Tensor, "B T V"] | None = None


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """The tensors of one call."""

    method: str
    clean: View
    old_logprobs: Float[Tensor, "B T"]
    advantages: Float[Tensor, "B T"] | Float[Tensor, "B"]
    completion_mask: Bool[Tensor, "B T"]
    ref_logprobs: Float[Tensor, "B T"] | None = None
    correct: Bool[Tensor, "B"] | None = None
    others: Mapping[ViewName, View | None] = field(default_factory=dict)
    """By view, those that were given; None: the argument of that view was left out."""


def configured(method: type[Made], settings: Mapping[str, Any]) -> Made:
    """The objective with these fields.

    Raises: ConfigError for a value that it does not take.
    """
    try:
        return method.model_validate(dict(settings))
    except ValidationError as error:
        name = method.model_fields["type"].default
        raise ConfigError(explain(error, method, where=f"losses.{name}")) from error


def evaluate(objective: Objective, tokens: Tokens, *, counts: Mapping[str, Count] | None) -> Loss:
    """The loss of these tokens, after the objective has chosen its tokens and weights."""
    return reduce(objective, objective.prepare(batch_of(objective, tokens)), tokens, counts=counts)


def batch_of(objective: Objective, tokens: Tokens) -> Batch:
    """The tensors in the carrier that objectives read; shapes and missing arguments are checked.

    Raises: FovealError, naming the argument.
    """
    _require_shapes(tokens)
    _require_arguments(objective, tokens)
    mask = tokens.completion_mask.bool()
    old = tokens.old_logprobs.detach()
    advantages = tokens.advantages.detach()
    if advantages.dim() == 1:
        advantages = advantages.unsqueeze(-1).expand(mask.shape)
    scored = {CLEAN: ViewScores(logprobs=old, entropy=_entropy(tokens.clean).detach())}
    for name, view in _given(tokens).items():
        scored[name] = ViewScores(logprobs=view.logprobs.detach(), entropy=_entropy(view).detach())
    reference = None if tokens.ref_logprobs is None else tokens.ref_logprobs.detach()
    return Batch(
        inputs=inputs_of(mask, old, correct=tokens.correct),
        scores=Scores(old_logprobs=old, ref_logprobs=reference, views=scored),
        advantages=torch.where(mask, advantages, torch.zeros((), dtype=advantages.dtype, device=mask.device)),
    )


def inputs_of(
    mask: Bool[Tensor, "B T"],
    old_logprobs: Float[Tensor, "B T"],
    *,
    correct: Bool[Tensor, "B"] | None = None,
    rewards: Float[Tensor, "B"] | None = None,
    group_size: int | None = None,
) -> Inputs:
    """Completions without prompts or pictures: an objective's maths reads neither."""
    rows = len(mask)
    none = torch.zeros(rows, dtype=torch.bool, device=mask.device)
    return Inputs(
        prompts=(),
        prompt_index=torch.arange(rows, device=mask.device) // (group_size or max(1, rows)),
        completion_ids=torch.zeros_like(mask, dtype=torch.long),
        completion_mask=mask,
        sampled_logprobs=old_logprobs,
        rewards=old_logprobs.new_zeros(rows) if rewards is None else rewards,
        correct=none if correct is None else correct.bool(),
        lengths=mask.sum(-1),
        truncated=none,
        vision={},
    )


def reduce(objective: Objective, batch: Batch, tokens: Tokens, *, counts: Mapping[str, Count] | None) -> Loss:
    """Terms to the loss, and what is worth logging.

    Raises: FovealError, when `counts` lacks a term.
    """
    now = {CLEAN: _stats(CLEAN, tokens.clean, tokens)}
    now |= {name: _stats(name, view, tokens) for name, view in _given(tokens).items()}
    whole = {name: count_of(mask) for name, mask in objective.masks(batch).items()}
    if counts is not None:
        lacking = [name for name in whole if name not in counts]
        if lacking:
            raise FovealError(
                f"losses.{tokens.method}: counts has no {', '.join(lacking)}; expected the tokens and "
                f"sequences of the whole mini-batch for each of {', '.join(whole)}; "
                f"foveal.losses.count(mask) gives them"
            )
        for name in whole:
            _require_count(tokens.method, name, counts[name])
        whole = {name: counts[name] for name in whole}
    loss = torch.zeros((), device=batch.inputs.completion_mask.device)
    measures: dict[str, Tensor] = {}
    for term in objective.terms(batch, now):
        share = term.coef * term_mean(
            term, aggregation=objective.aggregation, count=whole[term.name], horizon=objective.horizon
        )
        loss = loss + share
        measures[f"loss/{term.name}"] = share.detach()
    unknown = {ENTROPY, ENTROPY_SHIFT} if tokens.clean.entropy is None else set()
    if any(view.entropy is None for view in _given(tokens).values()):
        unknown |= {ENTROPY_SHIFT}
    for measure in objective.measures(batch, now):
        name = measure.name if "/" in measure.name else f"{measure.name}/mean"
        if name not in measures and name not in unknown:
            measures[name] = masked_mean(measure.per_token.detach(), measure.mask)
    return Loss(loss=loss, measures=measures)


def _given(tokens: Tokens) -> dict[ViewName, View]:
    return {name: view for name, view in tokens.others.items() if view is not None}


def _entropy(view: View) -> Float[Tensor, "B T"]:
    """NaN where it was not given: what needs it has been refused, what merely logs it is left out."""
    return torch.full_like(view.logprobs, torch.nan) if view.entropy is None else view.entropy


def _stats(name: ViewName, view: View, tokens: Tokens) -> TokenStats:
    def log_probs_at(chosen: Bool[Tensor, "B T"]) -> Float[Tensor, "K V"]:
        if view.log_probs is None:
            argument = "log_probs" if name == CLEAN else f"{name}_log_probs"
            raise FovealError(
                f"losses.{tokens.method}: the exact divergence compares whole distributions, but {argument} "
                f"was not given; pass log-probabilities of all tokens, [B T V], or choose the sampled "
                f"estimator 'k3'"
            )
        return view.log_probs[chosen]

    return TokenStats(logprobs=view.logprobs, entropy=_entropy(view), log_probs_at=log_probs_at)


def _require_count(method: str, name: str, given: object) -> None:
    if not isinstance(given, Count) or not (given.tokens >= 0 and given.sequences >= 0):
        raise FovealError(
            f"losses.{method}: counts[{name!r}] is {given!r}; expected a Count of tokens and sequences, as "
            f"foveal.losses.count(mask) gives it"
        )


def chain(objective: Objective) -> Iterator[Objective]:
    """The objective, the base that it holds, and so on."""
    yield objective
    if isinstance(objective, Extension):
        yield from chain(objective.base)


def _require_arguments(objective: Objective, tokens: Tokens) -> None:
    where, given = f"losses.{tokens.method}", _given(tokens)
    for view in objective.views:
        if view != CLEAN and view not in given:
            raise FovealError(
                f"{where} compares the picture with the view {view!r}, but {view}_logprobs was not given; "
                f"pass log-probabilities of the same tokens under that view, [B T]"
            )
    if objective.uses_reference and tokens.ref_logprobs is None:
        raise FovealError(
            f"{where}: kl_coef is above 0, but ref_logprobs was not given; pass the reference policy's "
            f"log-probabilities, [B T], or set kl_coef = 0"
        )
    for part in chain(objective):
        wants_correct = isinstance(part, PAPO) and (part.weighting != "all" or part.sft_coef > 0)
        if wants_correct and tokens.correct is None:
            raise FovealError(
                f"{where}: weighting and sft_coef ask which completions are right, but correct was not "
                f"given; pass a bool for each completion, [B]"
            )
        for view in _entropies_of(part):
            found = tokens.clean if view == CLEAN else given.get(view)
            if found is not None and found.entropy is None:
                argument = "entropy" if view == CLEAN else f"{view}_entropy"
                raise FovealError(
                    f"{where}: these settings use the entropy over the vocabulary, but {argument} was not "
                    f"given; pass it in nats, [B T] (foveal.losses.from_logits gives it)"
                )


def _entropies_of(part: Objective) -> list[ViewName]:
    """Views whose entropy over the vocabulary enters the loss."""
    if isinstance(part, Surrogate) and part.entropy_bonus_coef > 0:
        return [CLEAN]
    if isinstance(part, PAPO) and part.entropy_kind == "full":
        own = {CLEAN: part.entropy_coef, part.removed_view: part.removed_entropy_coef}
        return [view for view, coef in own.items() if coef > 0]
    if isinstance(part, DVRP) and part.entropy_kind == "full" and part.views_entropy_coef > 0:
        return [part.removed_view, part.noised_view]
    return []


def require_shape(method: str, name: str, part: object, wanted: tuple[int, ...]) -> None:
    """Nothing for None.

    Raises: FovealError, naming the argument, for what is no tensor of this shape: another shape would be
    broadcast, and the loss be another one.
    """
    if part is None:
        return
    if not isinstance(part, Tensor):
        raise FovealError(
            f"losses.{method}: {name} is a {type(part).__name__}; expected a tensor of the shape {wanted}"
        )
    if tuple(part.shape) != wanted:
        whose = "one per completion" if len(wanted) == 1 else "that of logprobs"
        raise FovealError(
            f"losses.{method}: {name} has the shape {tuple(part.shape)}; expected {whose}, {wanted}"
        )


def _require_shapes(tokens: Tokens) -> None:
    """Raises: FovealError."""
    method, clean = tokens.method, tokens.clean
    if not isinstance(clean.logprobs, Tensor) or clean.logprobs.dim() != 2:
        given = getattr(clean.logprobs, "shape", None)
        what = f"is a {type(clean.logprobs).__name__}" if given is None else f"has the shape {tuple(given)}"
        raise FovealError(
            f"losses.{method}: logprobs {what}; expected one value per completion token, a tensor [B T]"
        )
    wanted = tuple(clean.logprobs.shape)
    for name, part in (("old_logprobs", tokens.old_logprobs), ("completion_mask", tokens.completion_mask)):
        if part is None:
            raise FovealError(f"losses.{method}: {name} is None; expected a tensor of the shape {wanted}")
        require_shape(method, name, part, wanted)
    require_shape(method, "ref_logprobs", tokens.ref_logprobs, wanted)
    require_shape(method, "entropy", clean.entropy, wanted)
    for view, given in _given(tokens).items():
        require_shape(method, f"{view}_logprobs", given.logprobs, wanted)
        require_shape(method, f"{view}_entropy", given.entropy, wanted)
    _require_distributions(tokens, wanted)
    advantages = tokens.advantages
    if not isinstance(advantages, Tensor) or tuple(advantages.shape) not in (wanted, wanted[:1]):
        given = getattr(advantages, "shape", None)
        what = f"is a {type(advantages).__name__}" if given is None else f"has the shape {tuple(given)}"
        raise FovealError(
            f"losses.{method}: advantages {what}; expected one per completion, {wanted[:1]}, or one per "
            f"token, {wanted}"
        )
    require_shape(method, "correct", tokens.correct, wanted[:1])


def _require_distributions(tokens: Tokens, wanted: tuple[int, ...]) -> None:
    """Raises: FovealError, unless all whole distributions are over one vocabulary of more than one token."""
    views = {"log_probs": tokens.clean, **{f"{name}_log_probs": v for name, v in _given(tokens).items()}}
    given = {name: view.log_probs for name, view in views.items() if view.log_probs is not None}
    vocabulary = max((part.shape[-1] for part in given.values() if part.dim() == 3), default=0)
    for name, part in given.items():
        if tuple(part.shape) != (*wanted, vocabulary):
            raise FovealError(
                f"losses.{tokens.method}: {name} has the shape {tuple(part.shape)}; expected [B T V], "
                f"{(*wanted, vocabulary or 'V')}: log-probabilities of the whole vocabulary for each token"
            )
