"""Means of token losses and whitening as the official codes compute them.

The library's `objectives.terms.aggregate` divides by the tokens (or rows with tokens) of the whole
mini-batch; these divide by counts of their own, with an epsilon that the library does not need.
"""

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from foveal.spec import FovealError

EPSILON = 1e-8
"""Added to counts and variances in PAPO's and verl's codes."""

PapoMode = Literal["token", "seq"]
VerlMode = Literal["token-mean", "seq-mean-token-sum", "seq-mean-token-mean", "seq-mean-token-sum-norm"]


def papo_average(
    values: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"], *, mode: PapoMode, epsilon: float = EPSILON
) -> Float[Tensor, ""]:
    """PAPO's mean. token: sum x m / (N + epsilon); seq: mean over ALL B rows of sum_t x m / (n_i + epsilon).

    Differs from the library: an empty row counts as a row of loss 0 in `seq`, and NaN outside the mask
    spreads.
    Raises: FovealError for another mode.
    """
    weights = mask.to(values.dtype)
    if mode == "token":
        return (values * weights).sum() / (weights.sum() + epsilon)
    if mode == "seq":
        return ((values * weights).sum(-1) / (weights.sum(-1) + epsilon)).mean()
    raise FovealError(f"PAPO's loss mode {mode!r} is unknown; use 'token' or 'seq'")


def verl_average(
    values: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    *,
    mode: VerlMode,
    dp_size: float = 1,
    batch_tokens: float | None = None,
    batch_rows: float | None = None,
    scale: float | None = None,
) -> Float[Tensor, ""]:
    """verl's mean: a sum over these rows, divided by a count of the whole batch, times the number of ranks.

    token-mean: sum x m / batch_tokens. seq-mean-token-sum and seq-mean-token-mean: sum over rows (of the sum,
    or of the mean with 1e-8 in the denominator) / batch_rows. seq-mean-token-sum-norm: sum x m / scale, with
    neither rows nor `dp_size`. Counts that are not given are those of these rows, without empty ones; `scale`
    is then T.

    Differs from the library: an empty mask gives NaN; the last mode does not divide by rows.
    Raises: FovealError for another mode.
    """
    weights = mask.to(values.dtype)
    own = weights.sum(-1)
    full = torch.where(mask, values, values.new_zeros(()))
    if mode == "token-mean":
        return full.sum() / (weights.sum() if batch_tokens is None else batch_tokens) * dp_size
    sums = (values * weights).sum(-1)
    if mode == "seq-mean-token-sum-norm":
        return sums.sum() / (mask.shape[-1] if scale is None else scale)
    rows = (own > 0).sum() if batch_rows is None else batch_rows
    if mode == "seq-mean-token-sum":
        return sums[own > 0].sum() / rows * dp_size
    if mode == "seq-mean-token-mean":
        return (sums / (own + EPSILON))[own > 0].sum() / rows * dp_size
    raise _unknown_verl_mode(mode)


def cppo_average(
    values: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    *,
    mode: VerlMode,
    dp_size: float = 1,
    batch_tokens: float | None = None,
    batch_rows: float | None = None,
    scale: float | None = None,
) -> Float[Tensor, ""]:
    """The mean in CPPO's recipe, where the number of ranks DIVIDES and empty rows count.

    token-mean: sum x m / (N dp_size + 1e-8). All other modes divide by B dp_size (or batch_rows dp_size),
    also seq-mean-token-sum-norm, after its division by `scale` (T when not given).

    Differs from the library in empty rows, and from verl in both.
    Raises: FovealError for another mode.
    """
    weights = mask.to(values.dtype)
    own = weights.sum(-1)
    sums = (values * weights).sum(-1)
    if mode == "token-mean":
        return sums.sum() / ((own.sum() if batch_tokens is None else batch_tokens) * dp_size + EPSILON)
    rows = (len(mask) if batch_rows is None else batch_rows) * dp_size
    if mode == "seq-mean-token-sum":
        return sums.sum() / rows
    if mode == "seq-mean-token-mean":
        return (sums / (own + EPSILON)).sum() / rows
    if mode == "seq-mean-token-sum-norm":
        return (sums / (mask.shape[-1] if scale is None else scale)).sum() / rows
    raise _unknown_verl_mode(mode)


def _unknown_verl_mode(mode: str) -> FovealError:
    return FovealError(
        f"loss mode {mode!r} is unknown; use 'token-mean', 'seq-mean-token-sum', 'seq-mean-token-mean' or "
        "'seq-mean-token-sum-norm'"
    )


def papo_variance(values: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"]) -> Float[Tensor, ""]:
    """Variance over the mask: mean square around the mean, both over N + 1e-8, times N / (N - 1).

    That last factor is left out for N <= 1, where verl raises.
    """
    size = mask.sum().to(values.dtype)
    variance = papo_average((values - papo_average(values, mask, mode="token")).square(), mask, mode="token")
    return variance if size <= 1 else variance * (size / (size - 1))


def papo_whiten(
    values: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"], *, epsilon: float = EPSILON
) -> Float[Tensor, "B T"]:
    """(x - mean) / sqrt(var + epsilon) of the mask's statistics, on ALL tokens.

    Differs from `foveal.advantages.whiten`, which is 0 outside the mask and for equal values.
    """
    mean = papo_average(values, mask, mode="token")
    return (values - mean) * (papo_variance(values, mask) + epsilon).rsqrt()


def verl_whiten(values: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    """`papo_whiten` over at least two tokens.

    Raises: FovealError for fewer, as verl does.
    """
    if mask.sum() <= 1:
        raise FovealError(
            f"verl whitens over two tokens or more, but the mask has {int(mask.sum())}; use a larger batch, "
            "or foveal.advantages.whiten, which gives 0"
        )
    return papo_whiten(values, mask)
