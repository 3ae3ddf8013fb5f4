"""Where a policy looks: per completion token, how much the picture changes what the policy would say."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from foveal.data.collate import collate
from foveal.keys import Key
from foveal.objectives.terms import k3
from foveal.spec import FovealError
from foveal.types import CLEAN, REMOVED, Group, Inputs, Perturbation, TokenStats, ViewName

TAIL_NATS = 1.0
"""A token above this is in the tail: k3 has single tokens of 13 nats where the mean is 0.4."""

_HALF_CHARACTER = "�"  # what a tokenizer decodes the first bytes of a longer character to


class Policy(Protocol):
    """The part of `foveal.policy.Policy` that is used here."""

    processor: Any

    def forward(
        self, inputs: Inputs, view: ViewName, *, rows: Tensor | None = None, temperature: float = 1.0
    ) -> TokenStats:
        """Log-probabilities and entropies of the completions under one view."""
        ...


@dataclass(frozen=True, kw_only=True)
class TokenHeat:
    """One completion with what each of its tokens owes to the picture. All in nats, one entry a token."""

    problem_id: str
    index: int
    """Which completion of its group."""
    token_ids: tuple[int, ...]
    texts: tuple[str, ...]
    """The tokens as text; joined, they are the completion. A piece of a character is "" until it is whole."""
    kl_prcp: tuple[float, ...]
    """k3 estimate of KL(policy on clean || policy on removed)."""
    entropy_shift: tuple[float, ...]
    """Entropy on removed minus entropy on clean; negative where hiding the picture makes the policy surer."""

    def tokens(self) -> list[dict[str, str | float]]:
        """Plain rows, as the gallery of a report wants them."""
        rows = zip(self.texts, self.kl_prcp, self.entropy_shift, strict=True)
        return [{"text": text, "kl_prcp": kl, "entropy_shift": shift} for text, kl, shift in rows]


@dataclass(frozen=True, kw_only=True)
class HeatSummary:
    """Over all tokens of many completions, in nats."""

    tokens: int
    kl_prcp_mean: float
    kl_prcp_median: float
    kl_prcp_tail_fraction: float
    """Share of tokens above `TAIL_NATS`."""
    entropy_shift_mean: float


def looking(
    policy: Policy,
    groups: Sequence[Group],
    *,
    perturbations: Mapping[ViewName, Perturbation],
    key: Key,
    view: ViewName = REMOVED,
    temperature: float = 1.0,
    batch_size: int = 8,
) -> list[TokenHeat]:
    """Heat of every token of finished completions, in order; `batch_size` groups are run at once.

    Raises: FovealError, when `perturbations` has nothing for `view`.
    """
    if view not in perturbations:
        known = ", ".join(sorted(perturbations)) or "none"
        raise FovealError(
            f"there is no perturbation for the view {view!r} (there are: {known}); add [perturbations.{view}]"
        )
    found: list[TokenHeat] = []
    donors = [group.problem for group in groups]
    for start in range(0, len(groups), batch_size):
        batch = groups[start : start + batch_size]
        inputs = collate(
            batch,
            processor=policy.processor,
            views=(CLEAN, view),
            perturbations=perturbations,
            key=key,
            donors=donors,
        )
        ids = [(group.problem.id, i) for group in batch for i in range(len(group.completions))]
        found += token_heat(policy, inputs, completions=ids, view=view, temperature=temperature)
    return found


def token_heat(
    policy: Policy,
    inputs: Inputs,
    *,
    completions: Sequence[tuple[str, int]],
    view: ViewName = REMOVED,
    temperature: float = 1.0,
) -> list[TokenHeat]:
    """Heat of collated completions; row b is `completions[b]`: (problem id, index in its group)."""
    with torch.no_grad():
        clean = policy.forward(inputs, CLEAN, rows=None, temperature=temperature)
        removed = policy.forward(inputs, view, rows=None, temperature=temperature)
        heat = kl_prcp(clean.logprobs, removed.logprobs).cpu().numpy()
        shift = (removed.entropy.double() - clean.entropy.double()).cpu().numpy()
    ids, mask = inputs.completion_ids.cpu().numpy(), inputs.completion_mask.cpu().numpy()
    found = []
    for row, (problem_id, index) in enumerate(completions):
        token_ids = [int(i) for i in ids[row][mask[row]]]
        found.append(
            TokenHeat(
                problem_id=problem_id,
                index=index,
                token_ids=tuple(token_ids),
                texts=pieces(token_ids, decode=policy.processor.decode),
                kl_prcp=tuple(float(v) for v in heat[row][mask[row]]),
                entropy_shift=tuple(float(v) for v in shift[row][mask[row]]),
            )
        )
    return found


def kl_prcp(logprobs: Float[Tensor, "B T"], removed_logprobs: Float[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    """Per-token k3 estimate `exp(d) - 1 - d` with `d = removed - clean`, in nats; 0 where both agree.

    Source: arXiv:2507.06448v5, low_var_kl of its code.
    Differs from its code: float64, and no bound at 10 nats, since here it is measured and not optimised.
    """
    return k3(logprobs.double(), removed_logprobs.double(), value_limit=None)


def summarize(heats: Sequence[TokenHeat]) -> HeatSummary:
    """Mean, median and tail over all tokens of all completions.

    Raises: FovealError, when there is no token.
    """
    kl = np.array([v for heat in heats for v in heat.kl_prcp])
    shift = np.array([v for heat in heats for v in heat.entropy_shift])
    if not kl.size:
        raise FovealError("there are no completion tokens to summarise; give at least one completion")
    return HeatSummary(
        tokens=int(kl.size),
        kl_prcp_mean=float(kl.mean()),
        kl_prcp_median=float(np.median(kl)),
        kl_prcp_tail_fraction=float((kl > TAIL_NATS).mean()),
        entropy_shift_mean=float(shift.mean()),
    )


def pieces(token_ids: Sequence[int], *, decode: Callable[[Sequence[int]], str]) -> tuple[str, ...]:
    """The text each token adds. Decoding a token alone would lose spaces and split characters.

    Each token is decoded behind the last whole one, and what that one gave by itself is taken off.
    """
    texts: list[str] = []
    before, done = 0, 0
    for end in range(1, len(token_ids) + 1):
        known = decode(token_ids[before:done])
        text = decode(token_ids[before:end])
        if text.endswith(_HALF_CHARACTER) and end < len(token_ids):
            texts.append("")
            continue
        texts.append(text[len(known) :])
        before, done = done, end
    return tuple(texts)
