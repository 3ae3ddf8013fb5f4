"""Which of the exact ways a packed row attends on this device; a GPU's kernels are tried before they are
trusted."""

from typing import get_args

import torch
from torch import Tensor

from foveal.policy.attention import AttentionPath
from foveal.policy.merge import RowParts, attend
from foveal.policy.segments import Flash, Kernel, Tiled
from foveal.spec import FovealError

HALVES = (torch.bfloat16, torch.float16)
"""What CUDA's flash kernels take."""

WIDEST_HEAD = 256
"""Of those kernels; a head's width must also be a multiple of 8."""

FLASH_BOUND = 0.03
"""Relative L2 distance of `flash` from `tiled` that is rounding: bfloat16 has 8 bits. A wrong log-sum-exp or
segment is off by far more."""


def require_path_name(name: str) -> None:
    """Raises: FovealError for a name that is no way to attend."""
    require_known(name, ("auto", *get_args(AttentionPath)), setting="attention")


def require_known(name: str, known: tuple[str, ...], *, setting: str) -> None:
    """Raises: FovealError for a value that a setting of the model does not have."""
    if name not in known:
        raise FovealError(
            f"{setting} = {name!r}; expected {', '.join(map(repr, known[:-1]))} or {known[-1]!r}; change "
            f"[model] {setting}"
        )


def attention_path(name: str, *, device: torch.device, dtype: torch.dtype, head_width: int) -> AttentionPath:
    """The way to attend that a setting means on a device.

    "auto": split on a CPU; on CUDA flash where its kernels fit and agree with tiled, else tiled; dense
    elsewhere.
    Raises: FovealError, when the named way cannot run there.
    """
    require_path_name(name)
    if name == "auto":
        if device.type == "cpu":
            return "split"
        if device.type != "cuda":
            return "dense"
        return "tiled" if flash_fault(device, dtype, head_width) else "flash"
    chosen: AttentionPath = name  # type: ignore[assignment]
    fault = path_fault(chosen, device=device, dtype=dtype, head_width=head_width)
    if fault:
        raise FovealError(
            f"attention = {name!r} cannot run here: {fault}; change [model] attention to 'auto', or its "
            f"device or dtype"
        )
    return chosen


def path_fault(
    name: AttentionPath, *, device: torch.device, dtype: torch.dtype, head_width: int
) -> str | None:
    """Why a way to attend cannot run on a device, or None."""
    if name == "split" and device.type != "cpu":
        return f"its kernels are those of a CPU, and the device is {device}"
    return flash_fault(device, dtype, head_width) if name == "flash" else None


def flash_fault(device: torch.device, dtype: torch.dtype, head_width: int) -> str | None:
    """Why CUDA's flash kernels are not to be used, or None: they are run once on a small ragged row."""
    if device.type != "cuda":
        return f"its kernels are CUDA's, and the device is {device}"
    if dtype not in HALVES:
        return f"its kernels take 16-bit numbers, and the dtype is {dtype}"
    if head_width % 8 or head_width > WIDEST_HEAD:
        return f"its kernels take heads of a multiple of 8 up to {WIDEST_HEAD}, and these have {head_width}"
    try:
        gap = kernel_gap(Flash(), device, dtype, head_width)
    except (RuntimeError, AttributeError) as error:
        return f"its kernels failed: {str(error).splitlines()[0]}"
    if not gap <= FLASH_BOUND:
        return f"its kernels are off by {gap:.2g} of the norm; expected at most {FLASH_BOUND}"
    return None


def kernel_gap(kernel: Kernel, device: torch.device, dtype: torch.dtype, head_width: int) -> float:
    """Largest relative L2 distance from `Tiled`, over output and gradients of a small ragged row."""
    # Unequal lengths, a prompt without completions, a completion of one token, grouped heads, more than one
    # block of a kernel.
    parts = RowParts.of((5, 3, 150, 1), (1, 7, 0, 140, 2, 1), (0, 0, 0, 2, 2, 3), device=device)
    size = sum(parts.own.query_lengths)
    draw = torch.Generator().manual_seed(0)
    given = [torch.randn(size, heads, head_width, generator=draw) for heads in (4, 2, 2, 4)]
    query, key, value, grad = (x.to(device, dtype) for x in given)
    found = _outcome(kernel, query, key, value, grad, parts)
    wanted = _outcome(Tiled(), query, key, value, grad, parts)
    gaps = [
        float((a.double() - b.double()).norm() / b.double().norm())
        for a, b in zip(found, wanted, strict=True)
    ]
    return float(torch.tensor(gaps).max())


def _outcome(
    kernel: Kernel, query: Tensor, key: Tensor, value: Tensor, grad: Tensor, parts: RowParts
) -> list[Tensor]:
    """Output, and gradients of queries, keys and values."""
    with torch.enable_grad():
        query, key, value = (x.detach().clone().requires_grad_() for x in (query, key, value))
        output = attend(query, key, value, parts, query.shape[-1] ** -0.5, kernel=kernel)
        return [output.detach(), *torch.autograd.grad(output, (query, key, value), grad)]
