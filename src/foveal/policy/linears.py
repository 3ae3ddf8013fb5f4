"""Linear layers in float32 on a CPU: torch's own matrix product, or oneDNN's where that is faster.

Both are exact float32 and differ in the order of their sums. Which is faster depends on the processor: see
`foveal.train.measure`.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Literal, TypeGuard, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foveal.spec import FovealError

LinearsName = Literal["auto", "torch", "onednn"]

PACKED_ROWS = 32
"""Rows of a decoding step for which oneDNN lays a weight out; other numbers of rows can use that layout."""

ROUNDING = 1e-6
"""Relative L2 distance from float64 that is float32's rounding; products of 16-bit numbers are off by
1e-3."""


@dataclass(frozen=True, kw_only=True)
class Linears:
    """Which products of linear layers oneDNN makes; torch makes the others."""

    forward: bool = False
    """x W^T + b."""
    input_grad: bool = False
    """g W."""
    weight_grad: bool = False
    """g^T x."""
    decode: bool = False
    """x W^T + b of a few rows, by a copy of W in oneDNN's own layout."""

    @classmethod
    def of(cls, names: Mapping[str, object]) -> "Linears":
        """From `names` as they were recorded; what is missing or unknown there is torch's."""
        return cls(**{kind.name: names.get(kind.name) == "onednn" for kind in fields(cls)})

    @property
    def names(self) -> dict[str, str]:
        """Whose each product is, "torch" or "onednn"."""
        return {kind: "onednn" if chosen else "torch" for kind, chosen in asdict(self).items()}

    @property
    def trained(self) -> bool:
        """Whether a layer's own products, other than those of decoding, change."""
        return self.forward or self.input_grad or self.weight_grad

    def product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """x W^T + b [.. n] of x [.. k], without a gradient."""
        return (_onednn if self.forward else F.linear)(x, weight, bias)

    def grad_of_input(self, grad: Tensor, weight: Tensor) -> Tensor:
        """g W [R, k] of g [R, n] and W [n, k]."""
        return _onednn(grad, weight.t()) if self.input_grad else grad @ weight

    def grad_of_weight(self, grad: Tensor, x: Tensor) -> Tensor:
        """g^T x [n, k] of g [R, n] and x [R, k]."""
        return _onednn(grad.t(), x.t()) if self.weight_grad else grad.t() @ x


PLAIN = Linears()
ONEDNN = Linears(forward=True, input_grad=True, weight_grad=True, decode=True)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, linears: Linears) -> Tensor:
    """`F.linear`, to rounding, with gradients; second-order ones are made of torch's products.

    What oneDNN does not take here (other types and devices, autocast, sharded weights) is `F.linear`.
    """
    if not (linears.trained and fits(x, weight, bias)):
        return F.linear(x, weight, bias)
    if torch.is_grad_enabled():
        stand_in = _Linear.apply(x, weight, bias, linears)  # type: ignore[no-untyped-call]
        given = (None if t is None else t.detach() for t in (x, weight, bias))
        found: Tensor = _Product.apply(stand_in, *given, linears)  # type: ignore[no-untyped-call]
        return found
    return linears.product(x, weight, bias)


def known_linear(module: nn.Linear, x: Tensor, known: Tensor, total: Tensor | None = None) -> Tensor:
    """x W^T + b (+ total) [S, n] of x [S, k] by a plain layer, with gradients, where the last rows of what it
    gives are known [K, n] already: only the others are made."""
    linears: Linears = getattr(module, "linears", PLAIN)
    chosen = linears if fits(x, module.weight, module.bias) else PLAIN
    found: Tensor = _Known.apply(x, module.weight, module.bias, total, known, chosen)  # type: ignore[no-untyped-call]
    return found


def fits(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether oneDNN's product of these is defined: plain float32 tensors on a CPU."""
    given = (x, weight) if bias is None else (x, weight, bias)
    return (
        all(
            t.dtype == torch.float32 and t.device.type == "cpu" and type(t) in (Tensor, nn.Parameter)
            for t in given
        )
        and x.dim() > 0
        and x.shape[-1] == weight.shape[-1]
        and not torch.is_autocast_enabled("cpu")
    )


class _Linear(torch.autograd.Function):
    """The layer without its product: what a backward needs, held in front of it.

    A forward that gradient checkpointing makes again ends with the last tensor that is held. torch's own
    layers hold theirs first; a function like this one does so as it ends, and the product of a layer's last
    linear layer would be made for nothing.
    """

    @staticmethod
    def forward(ctx, x, weight, bias, linears):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN205
        for_input, for_weight, *_ = ctx.needs_input_grad
        ctx.save_for_backward(x if for_weight else None, weight if for_input else None)
        ctx.linears = linears
        return x.new_empty(()).expand(*x.shape[:-1], len(weight))

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN205
        return *_gradients(ctx, grad), None  # type: ignore[no-untyped-call]


class _Product(torch.autograd.Function):
    """The product in the place of what stands for it."""

    @staticmethod
    def forward(ctx, stand_in, x, weight, bias, linears):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN205
        return linears.product(x, weight, bias)

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN205
        return grad, None, None, None, None


class _Known(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, total, known, linears):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN205
        for_input, for_weight, *_ = ctx.needs_input_grad
        ctx.save_for_backward(x if for_weight else None, weight if for_input else None)
        ctx.linears = linears
        first = len(x) - len(known)
        if not first:
            return known
        made = linears.product(x[:first], weight, bias)
        return torch.cat([made if total is None else made.add_(total[:first]), known])

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN205
        of_total = grad if ctx.needs_input_grad[3] else None
        return *_gradients(ctx, grad), of_total, None, None  # type: ignore[no-untyped-call]


def _gradients(ctx, grad):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Of the input, the weight and the bias."""
    x, weight = ctx.saved_tensors
    # With create_graph autograd looks into this function, and oneDNN's product is opaque to it.
    linears = PLAIN if torch.is_grad_enabled() else ctx.linears
    rows = grad.reshape(-1, grad.shape[-1])
    of_input = of_weight = of_bias = None
    if weight is not None:
        of_input = linears.grad_of_input(rows, weight).view(*grad.shape[:-1], weight.shape[1])
    if x is not None:
        of_weight = linears.grad_of_weight(rows, x.reshape(-1, x.shape[-1]))
    if ctx.needs_input_grad[2]:
        of_bias = rows.sum(0)
    return of_input, of_weight, of_bias


def _onednn(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x W^T + b by oneDNN; x and W may be strided."""
    if x.shape[-1] == 0:  # which oneDNN refuses
        return F.linear(x, weight, bias)
    # A strided bias is read as if it were contiguous.
    bias = None if bias is None else bias.contiguous()
    found: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return found


class RoutedLinear(nn.Linear):
    """A linear layer whose products are chosen; in every other respect the layer that it was."""

    linears: Linears = PLAIN

    def forward(self, input: Tensor) -> Tensor:
        """x W^T + b."""
        return linear(input, self.weight, self.bias, self.linears)


def plain_linear(module: object) -> TypeGuard[nn.Linear]:
    """Whether a layer is an ordinary linear one, whose weights can be read: an adapter's or a quantised one
    is not."""
    return type(module) in (nn.Linear, RoutedLinear)


def route(model: nn.Module, linears: Linears) -> None:
    """Let a model's ordinary linear layers make their products so; names and weights stay."""
    for module in filter(plain_linear, model.modules()):
        module.__class__ = RoutedLinear if linears.trained else nn.Linear
        vars(module).pop("linears", None)
        if linears.trained:
            vars(module)["linears"] = linears


class FixedLinear:
    """A linear layer for as long as its weight [n, k] stays as it is: decoding. No gradient flows."""

    def __init__(self, weight: Tensor, bias: Tensor | None, linears: Linears) -> None:
        self._bias = None if bias is None else bias.detach().contiguous()
        self._packed = linears.decode and fits(weight, weight, bias) and weight.numel() > 0
        weight = weight.detach()
        if self._packed:
            weight = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), PACKED_ROWS)
        self._weight = weight

    def __call__(self, x: Tensor) -> Tensor:
        """x W^T + b [R, n] of x [R, k]."""
        if self._packed:
            return _onednn(x, self._weight, self._bias)
        return F.linear(x, self._weight, self._bias)

    def added(self, total: Tensor, x: Tensor) -> Tensor:
        """total + x W^T, of a layer without a bias."""
        if self._packed:
            return _onednn(x, self._weight).add_(total)
        return torch.addmm(total, x, self._weight.t())


def linears_of(name: str, *, device: torch.device, dtype: torch.dtype) -> Linears:
    """The products that a setting means on a device; "auto" means torch's until they are measured.

    Raises: FovealError for an unknown name, and for "onednn" where it cannot run.
    """
    known = get_args(LinearsName)
    if name not in known:
        raise FovealError(
            f"linears = {name!r}; expected {', '.join(map(repr, known[:-1]))} or {known[-1]!r}; change "
            f"[model] linears"
        )
    if name != "onednn":
        return PLAIN
    fault = onednn_fault(device, dtype)
    if fault:
        raise FovealError(
            f"linears = 'onednn' cannot run here: {fault}; change [model] linears to 'auto', or its device "
            f"or dtype"
        )
    return ONEDNN


def onednn_fault(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why oneDNN's products are not to be used, or None: small ones are made before they are trusted."""
    if device.type != "cpu":
        return f"it is a library for CPUs, and the device is {device}"
    if dtype != torch.float32:
        return f"its exact products are those of float32, and the dtype is {dtype}"
    library = torch.backends.mkldnn
    if not (library.is_available() and library.enabled):  # type: ignore[no-untyped-call]
        return "this torch has no oneDNN, or it is turned off"
    try:
        gap = rounding_gap()
    except (RuntimeError, AttributeError, TypeError) as error:
        return f"its product failed: {str(error).splitlines()[0]}"
    if not gap <= ROUNDING:
        return f"its products are off by {gap:.2g} of the norm; expected at most {ROUNDING}"
    return None


def rounding_gap() -> float:
    """Largest relative L2 distance from float64, over a small layer's output, gradients and decoding."""
    draw = torch.Generator().manual_seed(0)
    x, weight, bias, grad = (
        torch.randn(*size, generator=draw) for size in ((2, 67, 300), (129, 300), (129,), (2, 67, 129))
    )
    found = _outcome(x, weight, bias, grad, ONEDNN)
    wanted = _outcome(x.double(), weight.double(), bias.double(), grad.double(), PLAIN)
    gaps = [float((a - b).norm() / b.norm()) for a, b in zip(found, wanted, strict=True)]
    return float(torch.tensor(gaps).max())


def _outcome(x: Tensor, weight: Tensor, bias: Tensor, grad: Tensor, linears: Linears) -> list[Tensor]:
    """Output, gradients of input, weight and bias, and a decoding step."""
    with torch.enable_grad():
        x, weight, bias = (t.detach().clone().requires_grad_() for t in (x, weight, bias))
        output = linear(x, weight, bias, linears)
        grads = torch.autograd.grad(output, (x, weight, bias), grad)
    return [output.detach(), *grads, FixedLinear(weight, bias, linears)(x[0].detach())]
