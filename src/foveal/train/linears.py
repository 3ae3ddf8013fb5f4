"""Whose matrix products a run's linear layers take: measured at start, recorded in the run folder and reused
on resume, since other products round differently."""

import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from foveal.policy.linears import (
    ONEDNN,
    PACKED_ROWS,
    PLAIN,
    FixedLinear,
    Linears,
    linear,
    linears_of,
    onednn_fault,
    plain_linear,
)
from foveal.policy.model import Policy

ROWS = 1024
"""Rows of a product that stands for those of training."""

SIDE = 1024
"""Larger weights are measured as a block of this side: rates no longer rise beyond it."""

SHAPES = 2
"""Shapes of weights that are measured: those that hold most of the model's numbers."""

SMALLEST = 1 << 16
"""Numbers in the largest of these weights below which nothing is measured: calls then cost as much as
products."""

ROUNDS, LEAST_ROUNDS, LIMIT_S = 15, 3, 0.4
"""Rounds of all products, and the CPU seconds after which no further one begins once there were a few."""

MARGIN = 0.05
"""Share of torch's time that oneDNN must save."""

TOKENS = 32
"""Tokens of a completion over which laying out the weights for decoding is spread."""

CALLS = 8
"""Products of decoding that are timed together: one of a small model is a few calls long."""


def choose_linears(
    name: str,
    policy: Policy,
    *others: Policy | None,
    recorded: Mapping[str, Any],
    message: Callable[[str], None],
) -> dict[str, Any]:
    """Set the products of the linear layers of a run's policies, and tell how they were chosen.

    The configured ones; under "auto" the recorded ones, where they can run; else what is measured.
    Raises: FovealError as `linears_of`.
    """
    chosen, found = None, dict[str, Any]()
    if name == "auto":
        chosen = _recorded(recorded, policy, message)
    if chosen is None:
        found = measure_linears(name, policy)
        chosen = Linears.of(found["linears"])
    for each in filter(None, (policy, *others)):
        each.use_linears(chosen)
    return found


def _recorded(recorded: Mapping[str, Any], policy: Policy, message: Callable[[str], None]) -> Linears | None:
    """The recorded products; None where there are none, or they cannot be made here, which `message` says."""
    names = recorded.get("linears")
    if not isinstance(names, Mapping):
        return None
    chosen = Linears.of(names)
    fault = None if chosen == PLAIN else _fault(policy)
    if fault is None:
        return chosen
    message(
        f"linear layers multiplied with oneDNN, which cannot run here: {fault}; chosen again, so numbers "
        f"differ by rounding from those of a run that was never moved"
    )
    return None


def measure_linears(name: str, policy: Policy) -> dict[str, Any]:
    """Choose the products of linear layers, kind by kind, unless they are given.

    oneDNN's are taken on a CPU in float32 where they agree with float64 and save `MARGIN`.
    Raises: FovealError as `linears_of`.
    """
    chosen = linears_of(name, device=policy.device, dtype=next(policy.parameters()).dtype)
    if name != "auto":
        return {"linears": chosen.names, "linears_chosen_by": "config"}
    fault = _fault(policy)
    if fault:
        return {"linears": chosen.names, "linears_chosen_by": f"fallback: {fault}"}
    shapes = _shapes(policy.model)
    if max((n * k for n, k in shapes), default=0) < SMALLEST:
        return {"linears": chosen.names, "linears_chosen_by": "size"}
    seconds = _seconds(shapes)
    faster = {kind: found["onednn"] <= (1 - MARGIN) * found["torch"] for kind, found in seconds.items()}
    return {
        "linears": Linears(**faster).names,
        "linears_chosen_by": "measurement",
        "linears_ms": {kind: {n: round(1e3 * s, 4) for n, s in of.items()} for kind, of in seconds.items()},
    }


def _fault(policy: Policy) -> str | None:
    return onednn_fault(policy.device, next(policy.parameters()).dtype)


def _shapes(model: nn.Module) -> dict[tuple[int, int], float]:
    """Blocks [n, k] of the linear layers that hold most of the model's numbers, and how many of them there
    are."""
    layers = Counter((m.out_features, m.in_features) for m in model.modules() if plain_linear(m))
    found: dict[tuple[int, int], float] = {}
    for n, k in sorted(layers, key=lambda shape: -layers[shape] * shape[0] * shape[1])[:SHAPES]:
        high, wide = min(n, SIDE), min(k, SIDE)
        found[high, wide] = found.get((high, wide), 0.0) + layers[n, k] * n * k / (high * wide)
    return found


def _seconds(shapes: Mapping[tuple[int, int], float]) -> dict[str, dict[str, float]]:
    """CPU seconds of each kind of product in all layers, by torch and by oneDNN: the best of several
    rounds, in which they take turns."""
    layers = [(_Layer(n, k), count) for (n, k), count in shapes.items()]
    contenders = {"torch": PLAIN, "onednn": ONEDNN}
    kinds = tuple(PLAIN.names)
    best = [{kind: dict.fromkeys(contenders, float("inf")) for kind in kinds} for _ in layers]
    end = time.thread_time() + LIMIT_S
    for turn in range(ROUNDS):
        if turn >= LEAST_ROUNDS and time.thread_time() > end:
            break
        for (layer, _), found in zip(layers, best, strict=True):
            for kind in kinds:
                for name, linears in contenders.items():
                    found[kind][name] = min(found[kind][name], getattr(layer, kind)(linears))
    return {
        kind: {
            name: sum(count * found[kind][name] for (_, count), found in zip(layers, best, strict=True))
            for name in contenders
        }
        for kind in kinds
    }


class _Layer:
    """One layer's products; a method of each kind gives the seconds of one."""

    def __init__(self, n: int, k: int) -> None:
        draw = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(n, k, generator=draw))
        self.x = torch.randn(ROWS, k, generator=draw).requires_grad_()
        self.few = torch.randn(PACKED_ROWS, k, generator=draw)
        self.grad = torch.randn(ROWS, n, generator=draw)

    def forward(self, linears: Linears) -> float:
        with torch.enable_grad():
            return _timed(lambda: linear(self.x, self.weight, None, linears))

    def input_grad(self, linears: Linears) -> float:
        return _timed(lambda: linears.grad_of_input(self.grad, self.weight.detach()))

    def weight_grad(self, linears: Linears) -> float:
        return _timed(lambda: linears.grad_of_weight(self.grad, self.x.detach()))

    def decode(self, linears: Linears) -> float:
        fixed: list[FixedLinear] = []
        laid_out = _timed(lambda: fixed.append(FixedLinear(self.weight, None, linears)))
        return _timed(lambda: [fixed[0](self.few) for _ in range(CALLS)]) / CALLS + laid_out / TOKENS


def _timed(work: Callable[[], object]) -> float:
    """CPU seconds of this thread, which busy cores do not stretch; of several threads it is one of those at
    work."""
    start = time.thread_time()
    work()
    return time.thread_time() - start
