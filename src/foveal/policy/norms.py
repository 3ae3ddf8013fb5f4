"""RMSNorm in few passes over memory, forward and backward.

Autograd on the ordinary expression keeps every intermediate tensor and goes over memory some twenty times.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

WIDE = (torch.float32, torch.float64)
"""Types in which the norm is computed as it is; in others it is the module's own, which is then wider."""


def fits(x: Tensor, weight: Tensor) -> bool:
    """Whether `rms_norm` is what the module would compute."""
    return x.dtype in WIDE and weight.dtype == x.dtype and not torch.is_autocast_enabled(x.device.type)


def rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """y = r x weight with r = 1 / sqrt(mean(x^2) + epsilon) over the last axis.

    With s = sum_i dy_i weight_i x_i over the n numbers of a row: dx = r (dy weight) - (r^3 s / n) x, and
    dweight = sum over rows of dy x r.
    """
    found: Tensor = _RMSNorm.apply(x, weight, epsilon)  # type: ignore[no-untyped-call]
    return found


class FixedNorm:
    """y = x weight / sqrt(mean(x^2) + epsilon) over the last axis, for as long as the weight stays as it is:
    decoding. No gradient flows.

    On a CPU few rows cost by the call, and torch's norm is seven of them there: with n numbers in a row,
    y = x (weight sqrt(n)) / hypot(|x|, sqrt(n epsilon)) is four.
    """

    def __init__(self, weight: Tensor, epsilon: float) -> None:
        self._weight, self._epsilon = weight.detach(), epsilon
        size = len(weight)
        self._scaled = self._weight * size**0.5
        self._least = torch.tensor((size * epsilon) ** 0.5, dtype=weight.dtype, device=weight.device)

    def __call__(self, x: Tensor) -> Tensor:
        """The norm of x [R, n]."""
        if x.device.type == "cpu" and fits(x, self._weight):
            norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
            return x.div(torch.hypot(norm, self._least)).mul_(self._scaled)
        return F.rms_norm(x, self._weight.shape, self._weight, self._epsilon)


def _rate(x: Tensor, epsilon: float) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return norm.square().div(x.shape[-1]).add(epsilon).rsqrt()


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, epsilon):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN205
        rate = _rate(x, epsilon)
        ctx.save_for_backward(x, weight, rate)
        ctx.epsilon = epsilon
        return (x * rate).mul_(weight)

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN205
        x, weight, rate = ctx.saved_tensors
        if torch.is_grad_enabled():  # with create_graph: r is a function of x
            rate = _rate(x, ctx.epsilon)
        along = grad * x
        rows = along.reshape(-1, x.shape[-1])
        of_input = of_weight = None
        if ctx.needs_input_grad[0]:
            share = rows.mv(weight).view_as(rate) * rate.pow(3) / -x.shape[-1]
            of_input = torch.addcmul(grad * weight * rate, x, share)
        if ctx.needs_input_grad[1]:
            of_weight = rows.t().mv(rate.reshape(-1))
        return of_input, of_weight, None
