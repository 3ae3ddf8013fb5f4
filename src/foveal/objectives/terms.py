"""The maths that objectives share: masked reductions, the clipped surrogate, divergences, token selection.

Tensors in, tensors out. Padding never reaches a formula (`zero_outside`) and never a sum (`masked_sum`), so
junk there gives exactly zero gradient, while a NaN on a token that counts stays a NaN.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from foveal.spec import FovealError
from foveal.types import Aggregation, Count, Term

LOG_RATIO_LIMIT = 20.0
"""Log-ratios are clamped to +-20 nats before the exponential: e^20 = 4.9e8 is far outside any clipping range,
and its products stay finite in float32. PAPO's and verl's value."""

KL_VALUE_LIMIT = 10.0
"""Bound on a single k3 value, nats, as in PAPO's and verl's code: one sampled token can reach e^20 and drown
a batch. Beyond it the gradient is exactly 0 (log-ratios above about 2.61 or below -11)."""

Estimator = Literal["k1", "abs", "k2", "k3"]
Rounding = Literal["floor", "ceil"]


def zero_outside(values: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The values on the mask, else 0 with exactly zero gradient, even where they are not finite."""
    return torch.where(mask, values, torch.zeros((), dtype=values.dtype, device=values.device))


def masked_sum(
    values: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"], *, dim: int | None = None
) -> Tensor:
    """Sum over the mask. An empty mask gives 0; a NaN inside stays a NaN, one outside is not seen.

    >>> masked_sum(torch.tensor([1.0, 2.0, float("nan")]), torch.tensor([True, True, False])).item()
    3.0
    """
    kept = zero_outside(values, mask)
    return kept.sum() if dim is None else kept.sum(dim)


def masked_mean(values: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """Mean over the mask; 0 when it is empty."""
    return masked_sum(values, mask) / mask.sum().clamp(min=1)


def count(mask: Bool[Tensor, "B T"]) -> Count:
    """Tokens of a mask, and sequences: rows with at least one. Counts of micro-batches and ranks add up.

    >>> count(torch.tensor([[True, True], [False, False]]))
    Count(tokens=2.0, sequences=1.0)
    """
    return Count(tokens=float(mask.sum()), sequences=float(mask.any(-1).sum()))


def aggregate(
    per_token: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    *,
    aggregation: Aggregation,
    count: Count,
    horizon: int | None = None,
) -> Float[Tensor, ""]:
    """The share of these rows in a term's mean over the mini-batch; shares of micro-batches add up to it.

    token_mean: sum_it x_it m_it / tokens.
    sequence_mean: sum_i (sum_t x_it m_it / n_i) / sequences, n_i = sum_t m_it.
    sequence_sum: sum_i (sum_t x_it m_it / horizon) / sequences; a long completion counts for more, as in
    Dr.GRPO (arXiv:2503.20783).

    `count` holds the denominators of the whole mini-batch over all micro-batches and ranks (`count` of its
    mask); a row is never split over micro-batches. A count of 0 gives 0.
    Raises: FovealError for another aggregation.
    """
    if aggregation == "token_mean":
        total, denominator = masked_sum(per_token, mask), count.tokens
    elif aggregation == "sequence_mean":
        own = mask.sum(-1).clamp(min=1)
        total, denominator = (masked_sum(per_token, mask, dim=-1) / own).sum(), count.sequences
    elif aggregation == "sequence_sum":
        total, denominator = masked_sum(per_token, mask) / (horizon or 1), count.sequences
    else:
        raise FovealError(
            f"aggregation {aggregation!r} is unknown; use 'token_mean', 'sequence_mean' or 'sequence_sum'"
        )
    return total / denominator if denominator > 0 else total * 0.0


def term_mean(
    term: Term, *, aggregation: Aggregation, count: Count, horizon: int | None = None
) -> Float[Tensor, ""]:
    """The mean of a term (without its coefficient) as `aggregate`, in its own way where it has one."""
    return aggregate(
        term.per_token,
        term.mask,
        aggregation=term.aggregation or aggregation,
        count=count,
        horizon=horizon,
    )


def bounded(values: Float[Tensor, "*shape"], low: float, high: float) -> Float[Tensor, "*shape"]:
    """The values clamped to [low, high], gradient 0 beyond; infinities become NaN: no clamp hides one.

    >>> bounded(torch.tensor([2.0, 99.0, float("inf")]), 0.0, 10.0).tolist()
    [2.0, 10.0, nan]
    """
    return values.clamp(low, high) + (values - values).detach()


def log_ratio(logprobs: Float[Tensor, "B T"], old_logprobs: Float[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    """log(pi_theta / pi_old) of each token, clamped to +-`LOG_RATIO_LIMIT` (gradient 0 beyond); NaN where one
    of them is not finite."""
    return bounded(logprobs - old_logprobs, -LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)


def clipped_surrogate(
    log_ratio: Float[Tensor, "B T"],
    advantages: Float[Tensor, "B T"],
    *,
    clip_low: float,
    clip_high: float,
    dual_clip: float | None = None,
) -> Float[Tensor, "B T"]:
    """The clipped policy-gradient loss of each token.

    u = max(-A r, -A clip(r, 1 - clip_low, 1 + clip_high)), r = e^log_ratio; with a dual clip c > 1 and A < 0:
    min(u, -A c). The clip is made on the logarithm. Gradient on the log-ratio: -A r, or 0 where clipped.

    >>> advantage = torch.tensor([2.0])
    >>> clipped_surrogate(torch.tensor([0.1]), advantage, clip_low=0.2, clip_high=0.0).item()
    -2.0

    Source: PPO arXiv:1707.06347 Eq. 7; unequal bounds DAPO arXiv:2503.14476 Eq. 8; dual clip arXiv:1912.09729
    Eq. 4.
    """
    clipped = log_ratio.clamp(math.log1p(-clip_low), math.log1p(clip_high))
    loss = torch.maximum(-advantages * log_ratio.exp(), -advantages * clipped.exp())
    if dual_clip is None:
        return loss
    return torch.where(advantages < 0, torch.minimum(loss, -advantages * dual_clip), loss)


@dataclass(frozen=True, kw_only=True)
class Clipped:
    """Where `clipped_surrogate` has no gradient."""

    high: Bool[Tensor, "B T"]
    """A > 0 and the ratio above 1 + clip_high."""
    low: Bool[Tensor, "B T"]
    """A < 0 and the ratio below 1 - clip_low."""
    dual: Bool[Tensor, "B T"]
    """A < 0 and the ratio above dual_clip."""


def clipped_tokens(
    log_ratio: Float[Tensor, "B T"],
    advantages: Float[Tensor, "B T"],
    *,
    clip_low: float,
    clip_high: float,
    dual_clip: float | None = None,
) -> Clipped:
    """The tokens that the surrogate with the same arguments clips."""
    dual = torch.zeros_like(advantages, dtype=torch.bool)
    if dual_clip is not None:
        dual = (advantages < 0) & (log_ratio > math.log(dual_clip))
    return Clipped(
        high=(advantages > 0) & (log_ratio > math.log1p(clip_high)),
        low=(advantages < 0) & (log_ratio < math.log1p(-clip_low)),
        dual=dual,
    )


def k3(
    logprobs: Float[Tensor, "*shape"],
    other: Float[Tensor, "*shape"],
    *,
    log_ratio_limit: float = LOG_RATIO_LIMIT,
    value_limit: float | None = KL_VALUE_LIMIT,
) -> Float[Tensor, "*shape"]:
    """One-sample estimate of KL(p || q) that is never negative, from log p and log q of a token sampled from
    p.

    e^k - k - 1 with k = clamp(log q - log p, +-log_ratio_limit); the value is clamped to +-value_limit.
    Gradient on log p: 1 - e^k, on log q: e^k - 1; exactly 0 where a clamp acts. NaN where one is not finite.
    Source: http://joschu.net/blog/kl-approx.html; clamps as in PAPO's and verl's code.
    """
    k = bounded(other - logprobs, -log_ratio_limit, log_ratio_limit)
    value = k.exp() - k - 1
    return value if value_limit is None else value.clamp(-value_limit, value_limit)


def kl_estimate(
    logprobs: Float[Tensor, "*shape"], other: Float[Tensor, "*shape"], *, estimator: Estimator
) -> Float[Tensor, "*shape"]:
    """One-sample estimate of KL(p || q) in nats, from log p (`logprobs`) and log q (`other`) of a token
    sampled from p.

    With k = log q - log p: k1 = -k (unbiased, may be negative), abs = |k|, k2 = k^2 / 2, k3 = e^k - k - 1
    (clamped: `k3`). Used as a loss, the gradient of k3 on log p alone is that of KL(q || p), not of KL(p ||
    q).

    >>> kl_estimate(torch.tensor([-1.0]), torch.tensor([-2.0]), estimator="k1").item()
    1.0

    Raises: FovealError for another estimator.
    """
    if estimator == "k3":
        return k3(logprobs, other)
    if estimator == "k1":
        return logprobs - other
    if estimator == "k2":
        return 0.5 * (logprobs - other).square()
    if estimator == "abs":
        return (logprobs - other).abs()
    raise FovealError(f"KL estimator {estimator!r} is unknown; use 'k1', 'abs', 'k2' or 'k3'")


def exact_kl(log_p: Float[Tensor, "*shape V"], log_q: Float[Tensor, "*shape V"]) -> Float[Tensor, "*shape"]:
    """KL(p || q) = sum_v p_v (log p_v - log q_v) over the vocabulary, from full log-distributions.

    A token that p excludes (log p = -inf) counts 0; one that q alone excludes gives infinity, as it should.
    """
    p = log_p.exp()
    return (p * zero_outside(log_p - log_q, p > 0)).sum(-1)


def entropy(log_p: Float[Tensor, "*shape V"]) -> Float[Tensor, "*shape"]:
    """-sum_v p_v log p_v in nats, from full log-distributions; excluded tokens (log p = -inf) count 0."""
    p = log_p.exp()
    return -(p * zero_outside(log_p, p > 0)).sum(-1)


def scatter_tokens(values: Float[Tensor, "K"], mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    """Values of the K chosen tokens (row-major) at their places, 0 elsewhere; differentiable."""
    empty = torch.zeros(mask.shape, dtype=values.dtype, device=values.device)
    return empty.masked_scatter(mask, values)


def select_top(
    scores: Float[Tensor, "B T"],
    eligible: Bool[Tensor, "B T"],
    *,
    fraction: float,
    rounding: Rounding = "floor",
) -> Bool[Tensor, "B T"]:
    """The highest-scoring `fraction` of the eligible tokens of each row, at least one where any is eligible.

    Of c eligible tokens k = max(1, floor(c fraction)) are wanted (or ceil); all tokens not below the k-th
    largest score are taken, so ties do not depend on order, and a NaN is not left out. No gradient.

    >>> eligible = torch.tensor([[True, True, True, False]])
    >>> select_top(torch.tensor([[3.0, 1.0, 2.0, 9.0]]), eligible, fraction=0.5).tolist()
    [[True, False, False, False]]
    """
    if scores.shape[-1] == 0:
        return eligible
    scores = scores.detach()
    share = eligible.sum(-1, keepdim=True).double() * fraction
    wanted = (share.floor() if rounding == "floor" else share.ceil()).clamp(min=1).long()
    ranked = scores.masked_fill(~eligible, -math.inf).sort(-1, descending=True).values
    return eligible & ~(scores < ranked.gather(-1, wanted - 1))


def select_above_quantile(
    values: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"], *, fraction: float
) -> Bool[Tensor, "B T"]:
    """Tokens of each row's mask that are not below the row's (1 - fraction) quantile (linear interpolation).
    No gradient. A NaN is never left out, so that it stays one.

    >>> everything = torch.ones(1, 5, dtype=torch.bool)
    >>> select_above_quantile(torch.tensor([[1.0, 5.0, 3.0, 2.0, 4.0]]), everything, fraction=0.4).tolist()
    [[False, True, False, False, True]]

    Source: the token choice of PAPO's code (arXiv:2507.06448, `kl_prcp_token_level_mask`).
    """
    if values.shape[-1] == 0:
        return mask
    known = values.detach().masked_fill(~mask, math.nan)
    threshold = known.nanquantile(1 - fraction, dim=-1, keepdim=True)
    return mask & ~(known < threshold)


def spread_weights(
    selected: Bool[Tensor, "B T"], mask: Bool[Tensor, "B T"], *, aggregation: Aggregation
) -> Float[Tensor, "B T"]:
    """Weights w, 0 off `selected`, under which a mean of w x over `mask` is these rows' mean of x over
    `selected`.

    For selections that are known only in the update: the term is averaged over `mask`, whose count is known
    before, and each micro-batch contributes the mean over its own selected tokens with the weight of its
    share of the mask. The result depends on the split into micro-batches, by construction. In float64,
    whatever the default: the caller's loss may be.
    """
    chosen, inside = selected.double(), mask.double()
    if aggregation == "token_mean":
        return chosen * (inside.sum() / chosen.sum().clamp(min=1))
    rows = mask.any(-1).double().sum() / selected.any(-1).sum().clamp(min=1)
    if aggregation == "sequence_sum":
        return chosen * rows
    own = inside.sum(-1, keepdim=True) / chosen.sum(-1, keepdim=True).clamp(min=1)
    return chosen * own * rows
