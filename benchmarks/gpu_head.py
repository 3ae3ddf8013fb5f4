"""The head alone: forward and backward from hidden states, over rows; ours, and fused kernels of others.

Others are measured where they are installed and give log-probability and entropy of each token, both with
gradient.
"""

import time
from collections.abc import Callable

import torch
from gpu_model import SHAPES
from gpu_parts import Numbers, Work
from torch import Tensor

from foveal.policy.head import token_stats
from foveal.policy.head_paths import compile_fault
from foveal.policy.vocabulary import HeadPath

HEADS = ("plain", "compiled", "liger", "verl")
HEAD_NUMBERS = ("seconds", "first_s", "peak_gib", "logprob_rms", "entropy_rms", "gradient")
"""Median seconds; those of the first call, in which is compiled; memory above the inputs; distances from
float32: root mean square in nats, relative L2 norm of the gradients."""

ROWS = (1024, 2048, 4096, 8192, 16384)
TINY_ROWS = (8, 24)

Head = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""Log-probabilities and entropies [n] of hidden states [n, H], weights [V, H] and targets [n]."""


def heads(work: Work, name: str) -> Numbers:
    """One way to run the head, over growing numbers of rows, in the shape's width and vocabulary."""
    found = head_of(work, name)
    if isinstance(found, str):
        return {"note": found}
    rows = TINY_ROWS if work.maker.shape == "tiny" else ROWS
    try:
        return {"measured": [measured(work, found, count) for count in rows]}
    except Exception as error:
        if name in ("plain", "compiled"):
            raise
        # Another's failure is no failure of ours.
        return {"note": f"failed: {type(error).__name__}: {str(error).splitlines()[0]}"}


def head_of(work: Work, name: str) -> Head | str:
    """The way of that name, or why there is none here."""
    if name == "plain":
        return ours("plain")
    if name == "compiled":
        words = SHAPES[work.maker.shape]["text"]["vocab_size"]
        fault = compile_fault(work.maker.device, work.dtype, words) if work.cuda else "the device is no GPU"
        return fault or ours("compiled")
    if not work.cuda:
        return "the device is no GPU"
    try:
        return liger() if name == "liger" else verl()
    except ImportError as error:
        return f"not installed: {error}"


def ours(path: HeadPath) -> Head:
    def run(hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        return token_stats(hidden, weight, None, targets, temperature=1.0, path=path)

    return run


def liger() -> Head:
    from liger_kernel.ops import LigerFusedLinearScaledCrossEntropyFunction as Fused

    def run(hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        nll, entropy = Fused.apply(hidden, weight, targets, 1.0, -100, 1, True)
        return -nll, entropy

    return run


def verl() -> Head:
    from verl.utils.kernel.linear_cross_entropy import linear_cross_entropy

    def run(hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        logprobs, entropy = linear_cross_entropy(hidden, weight, targets, 1.0, "none", None)
        return logprobs, entropy

    return run


def measured(work: Work, head: Head, rows: int) -> Numbers:
    """Seconds, memory above the inputs, and the distance from float32 of a loss over both outputs."""
    text = SHAPES[work.maker.shape]["text"]
    device, draw = work.maker.device, torch.Generator().manual_seed(rows)
    width, words = text["hidden_size"], text["vocab_size"]
    hidden, weight = (torch.randn(n, width, generator=draw) for n in (rows, words))
    leaves = [x.to(device, work.dtype).requires_grad_() for x in (hidden, 2 * weight / width**0.5)]
    targets = torch.randint(words, (rows,), generator=draw).to(device)
    grads = torch.randn(2, rows, generator=draw).to(device)

    def run(head: Head = head, leaves: list[Tensor] = leaves) -> list[Tensor]:
        logprobs, entropy = head(*leaves, targets)
        loss = (grads[0] * logprobs).sum() + (grads[1] * entropy.float()).sum()
        return [logprobs.detach(), entropy.detach(), *torch.autograd.grad(loss, leaves)]

    work.sync()
    start = time.perf_counter()
    found = run()
    work.sync()
    result: Numbers = {"rows": rows, "first_s": time.perf_counter() - start}
    result |= _distances(found, run(ours("plain"), [x.detach().float().requires_grad_() for x in leaves]))
    del found
    result["peak_gib"] = _peak(run) if work.cuda else None
    result["seconds"] = work.seconds(run, repeats=5)
    return result


def _peak(run: Callable[[], object]) -> float:
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    return (torch.cuda.max_memory_allocated() - before) / 2**30


def _distances(found: list[Tensor], wanted: list[Tensor]) -> dict[str, float]:
    gaps = [(a.float() - b).double() for a, b in zip(found, wanted, strict=True)]
    off = sum(float(gap.square().sum()) for gap in gaps[2:])
    whole = sum(float(grad.double().square().sum()) for grad in wanted[2:])
    return {
        "logprob_rms": float(gaps[0].square().mean().sqrt()),
        "entropy_rms": float(gaps[1].square().mean().sqrt()),
        "gradient": (off / whole) ** 0.5,
    }
