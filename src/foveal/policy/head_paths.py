"""Whether the head's maths runs compiled on a device: a compiler is tried before it is trusted."""

from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import get_args

import torch
from torch import Tensor

from foveal.policy.head import token_stats
from foveal.policy.paths import require_known
from foveal.policy.vocabulary import HeadPath
from foveal.spec import FovealError

VALUE_BOUND = 1e-5
"""Relative L2 distance of compiled from plain log-probabilities and entropies that is rounding: both are sums
in float32."""

GRADIENT_BOUNDS = {2: 0.01, 4: 1e-5, 8: 1e-5}
"""The same of gradients, by the bytes of the weights' type."""

TRIAL_ROWS = (24, 7)
"""Two numbers of rows: code for one of them alone would be compiled anew for each batch."""

TRIAL_WIDTH = 64


@dataclass(frozen=True, kw_only=True)
class HeadChoice:
    """How the head's maths runs."""

    path: HeadPath
    fault: str | None = None
    """Why it is not compiled, where that was tried."""


def require_head_name(name: str) -> None:
    """Raises: FovealError for a name that is no way to run the head."""
    require_known(name, ("auto", *get_args(HeadPath)), setting="head")


def head_choice(name: str, *, device: torch.device, dtype: torch.dtype, words: int) -> HeadChoice:
    """The way to run the head that a setting means on a device.

    "auto": compiled on CUDA, once it agrees with plain; plain elsewhere.
    Raises: FovealError, when compiled is asked for and cannot run.
    """
    require_head_name(name)
    if name == "plain" or (name == "auto" and device.type != "cuda"):
        return HeadChoice(path="plain")
    fault = compile_fault(device, dtype, words)
    if fault is None:
        return HeadChoice(path="compiled")
    if name == "compiled":
        raise FovealError(
            f"head = 'compiled' cannot run here: {fault}; change [model] head to 'auto' or 'plain'"
        )
    return HeadChoice(path="plain", fault=fault)


@cache
def compile_fault(device: torch.device, dtype: torch.dtype, words: int) -> str | None:
    """Why the compiled head is not to be used, or None: it is run on a few rows of as many words."""
    try:
        values, gradients = compiled_gaps(device, dtype, words)
    except Exception as error:  # a compiler, its linker and its driver fail in ways of all kinds
        return f"it cannot be compiled: {_first_line(error)}"
    bound = GRADIENT_BOUNDS[dtype.itemsize]
    if not values <= VALUE_BOUND:
        return f"compiled values are off by {values:.2g} of the norm; expected at most {VALUE_BOUND}"
    if not gradients <= bound:
        return f"compiled gradients are off by {gradients:.2g} of the norm; expected at most {bound}"
    return None


def compiled_gaps(device: torch.device, dtype: torch.dtype, words: int) -> tuple[float, float]:
    """Largest relative L2 distances of compiled from plain: of values, and of gradients.

    Of log-probabilities alone, as without an entropy term, and of both.
    """
    values, gradients = [0.0], [0.0]
    for rows, entropy_weight in product(TRIAL_ROWS, (0.0, 0.5)):
        found = _outcome("compiled", rows, words, device, dtype, entropy_weight)
        wanted = _outcome("plain", rows, words, device, dtype, entropy_weight)
        gaps = [_gap(a, b) for a, b in zip(found, wanted, strict=True)]
        values += gaps[:2]
        gradients += gaps[2:]
    # Not Python's max, for which no number is larger than a NaN.
    return float(torch.tensor(values).max()), float(torch.tensor(gradients).max())


def _outcome(
    path: HeadPath, rows: int, words: int, device: torch.device, dtype: torch.dtype, entropy_weight: float
) -> list[Tensor]:
    """Log-probabilities and entropies of random states, and gradients by states and weights."""
    draw = torch.Generator().manual_seed(rows)
    hidden, weight = (torch.randn(n, TRIAL_WIDTH, generator=draw) for n in (rows, words))
    targets = torch.randint(words, (rows,), generator=draw).to(device)
    grad = torch.randn(rows, generator=draw).to(device)
    with torch.enable_grad():
        # Steep enough that some words are likely, as in a trained model.
        hidden, weight = (x.div(2).to(device, dtype).requires_grad_() for x in (hidden, weight))
        logprobs, entropy = token_stats(hidden, weight, None, targets, temperature=0.9, path=path)
        loss = (grad * logprobs).sum()
        if entropy_weight:
            loss = loss + entropy_weight * (grad * entropy).sum()
        return [logprobs.detach(), entropy.detach(), *torch.autograd.grad(loss, (hidden, weight))]


def _gap(found: Tensor, wanted: Tensor) -> float:
    return float((found.double() - wanted.double()).norm() / wanted.double().norm())


def _first_line(error: Exception) -> str:
    """Of what a compiler said, which torch wraps."""
    error = getattr(error, "inner_exception", error)
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
