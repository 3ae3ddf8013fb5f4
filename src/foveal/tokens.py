"""What is known of completion tokens in the update, and the terms that are made of it.

Axes: B completions, T completion tokens, K chosen tokens, V vocabulary.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from jaxtyping import Bool, Float
from torch import Tensor

Aggregation = Literal["token_mean", "sequence_mean", "sequence_sum"]
"""How a term's tokens become one number: the mean over all tokens; the mean over completions of each one's
mean; the mean over completions of each one's sum, divided by a constant (`Objective.horizon`).
"""


@dataclass(frozen=True, kw_only=True)
class TokenStats:
    """One forward of one view; carries gradient, valid until backward.

    Rows that were not computed (`Objective.rows`) hold zeros: a term's mask must leave them out.
    `log_probs_at(mask)` gives the full log-distributions at the chosen tokens, in row-major order.
    """

    logprobs: Float[Tensor, "B T"]
    entropy: Float[Tensor, "B T"]
    log_probs_at: Callable[[Bool[Tensor, "B T"]], Float[Tensor, "K V"]]


@dataclass(frozen=True, kw_only=True)
class Term:
    """A named per-token term of the loss: `coef` times the mean of `per_token` over `mask`."""

    name: str
    coef: float
    per_token: Float[Tensor, "B T"]
    mask: Bool[Tensor, "B T"]
    aggregation: Aggregation | None = None
    """How this term is averaged; None is the objective's way."""


@dataclass(frozen=True, kw_only=True)
class Count:
    """Denominators of a term over the whole mini-batch, all micro-batches and ranks."""

    tokens: float
    sequences: float
