"""Surrogates that weigh a token by its whole sequence, or by a ratio without gradient: pure functions."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from foveal.objectives.terms import bounded, masked_sum, zero_outside

SEQUENCE_LOG_RATIO_LIMIT = 10.0
"""Upper bound on the log-ratio of a sequence, nats, before the exponential; verl's value. Below there is
none: the exponential goes to 0."""


def gspo_log_ratio(
    logprobs: Float[Tensor, "B T"], old_logprobs: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"]
) -> Float[Tensor, "B T"]:
    """GSPO's log-ratio on each token: the mean over its completion, with the token's own gradient.

    s_i = sum_t (l - l_old) m / n_i; on token t: l - sg(l) + sg(s_i), at most `SEQUENCE_LOG_RATIO_LIMIT`
    (gradient 0 beyond); NaN where one is not finite, 0 outside the mask. Each token of a completion has the
    same value, and the gradient on its l is that of its own ratio.

    >>> import torch
    >>> new, old = torch.tensor([[-1.0, -2.0]]), torch.tensor([[-2.0, -1.5]])
    >>> gspo_log_ratio(new, old, torch.tensor([[True, True]])).tolist()
    [[0.25, 0.25]]

    Source: GSPO arXiv:2507.18071, its GSPO-token; the limit is verl's.
    """
    own = zero_outside(logprobs, mask)
    change = (own - zero_outside(old_logprobs, mask)).detach()
    mean = masked_sum(change, mask, dim=-1) / mask.sum(-1).clamp(min=1)
    log_ratio = own - own.detach() + mean.unsqueeze(-1)
    return zero_outside(bounded(log_ratio, -math.inf, SEQUENCE_LOG_RATIO_LIMIT), mask)


def cispo_loss(
    logprobs: Float[Tensor, "B T"],
    log_ratio: Float[Tensor, "B T"],
    advantages: Float[Tensor, "B T"],
    *,
    clip_low: float,
    clip_high: float,
) -> Float[Tensor, "B T"]:
    """CISPO's loss of each token: -sg(clip(r, 1 - clip_low, 1 + clip_high)) A l, r = e^log_ratio.

    Gradient flows into `logprobs` alone and never vanishes: a clipped token still counts, with a bounded
    weight. `clip_low` of 1 or more leaves small ratios as they are.

    >>> import torch
    >>> one = torch.tensor([1.0])
    >>> cispo_loss(-one, 3 * one, one, clip_low=1.0, clip_high=0.5).item()
    1.5

    Source: MiniMax-M1 arXiv:2506.13585, its CISPO.
    """
    most = min(1 + clip_high, torch.finfo(log_ratio.dtype).max)
    weight = log_ratio.detach().exp().clamp(1 - clip_low, most)
    return -weight * advantages * logprobs
