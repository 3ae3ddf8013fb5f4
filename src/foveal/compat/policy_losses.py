"""Policy losses of verl that the library does not offer as methods."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from foveal.compat.averages import EPSILON
from foveal.objectives.terms import log_ratio

WEIGHT_EPSILON = 1e-10
"""Added to a weight before its logarithm, as in verl."""


def gpg_loss(logprobs: Float[Tensor, "B T"], advantages: Float[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    """GPG: -A l on each token, with no ratio to the old policy.

    Source: arXiv:2504.02546, verl's "gpg".
    """
    return -advantages * logprobs


def sapo_loss(
    logprobs: Float[Tensor, "B T"],
    old_logprobs: Float[Tensor, "B T"],
    advantages: Float[Tensor, "B T"],
    *,
    tau_positive: float = 1.0,
    tau_negative: float = 1.05,
) -> Float[Tensor, "B T"]:
    """SAPO: -A sigmoid(tau (r - 1)) 4 / tau, a soft gate in place of a clip; tau by the sign of A.

    Source: arXiv:2511.20347, verl's "sapo".
    """
    tau = torch.full_like(advantages, tau_negative).masked_fill(advantages > 0, tau_positive)
    ratio = log_ratio(logprobs, old_logprobs).exp()
    return -advantages * torch.sigmoid(tau * (ratio - 1)) * (4 / tau)


def geometric_mean_loss(
    logprobs: Float[Tensor, "B T"],
    old_logprobs: Float[Tensor, "B T"],
    advantages: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    *,
    clip_low: float,
    clip_high: float,
    weights: Float[Tensor, "B T"] | None = None,
) -> Float[Tensor, "B"]:
    """GMPO's loss of each completion: -A_i exp(mean_t d), d the log-ratio clipped on the side that pays.

    d is at most clip_high where A > 0, at least -clip_low where A < 0, and 0 where A = 0 (bounds on the
    LOGARITHM, and no other clamp); A_i is the mean advantage of the completion. `weights` come in by their
    geometric mean. verl averages over all rows, empty ones too.

    Source: arXiv:2507.20673, verl's "geo_mean".
    """
    inside = mask.to(logprobs.dtype)
    size = inside.sum(-1) + EPSILON
    change = logprobs - old_logprobs
    change = torch.where(
        advantages > 0,
        change.clamp(max=clip_high),
        torch.where(advantages < 0, change.clamp(min=-clip_low), 0),
    )
    loss = -((advantages * inside).sum(-1) / size) * ((change * inside).sum(-1) / size).exp()
    if weights is None:
        return loss
    return loss * (((weights + WEIGHT_EPSILON).log() * inside).sum(-1) / size).exp()
