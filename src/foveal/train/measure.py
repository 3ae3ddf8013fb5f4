"""Choices for the machine at start: those that are measured are recorded in the run folder and reused on
resume."""

import ctypes
import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, get_args

import torch

from foveal.config import RunConfig
from foveal.policy.attention import AttentionPath
from foveal.policy.model import Policy
from foveal.policy.paths import path_fault
from foveal.policy.probe import RowShape, fastest_path

PROBE_SIZE = 384
PROBE_REPEATS = 12
PROBE_LIMIT_S = 0.5
"""Seconds of one probe: threads that wait for busy cores must not hold up the start."""


def measure(*, threads: int) -> dict[str, Any]:
    """Choose the number of CPU threads, unless it is given: two threads on busy cores can be ten times
    slower than one."""
    if threads > 0:
        return {"threads": threads, "threads_chosen_by": "config"}
    seconds = {}
    cores = os.cpu_count() or 1
    before = torch.get_num_threads()
    for candidate in sorted({1, 2, cores // 2, cores} - {0}):
        if candidate <= cores:
            torch.set_num_threads(candidate)
            seconds[candidate] = _probe()
    torch.set_num_threads(before)
    best = min(seconds, key=lambda n: (seconds[n], n))
    return {
        "threads": best,
        "threads_chosen_by": "probe",
        "probe_s": {str(n): round(s, 5) for n, s in seconds.items()},
    }


def choose_threads(
    configured: int, recorded: Mapping[str, Any], *, message: Callable[[str], None]
) -> dict[str, Any]:
    """The number of CPU threads, as `measure` tells it: the configured one (0 is none); else the one that was
    measured before, where this machine has so many cores; else measured now."""
    if configured == 0 and recorded.get("threads_chosen_by") == "probe":
        known, cores = recorded["threads"], os.cpu_count() or 1
        if 1 <= known <= cores:
            return {"threads": known}
        message(f"threads were {known}, and this machine has {cores} cores; measured again")
    return measure(threads=configured)


def choose_attention(
    config: RunConfig,
    policy: Policy,
    *,
    longest: int,
    recorded: Mapping[str, Any],
    message: Callable[[str], None],
) -> dict[str, Any]:
    """Set the policy's way to attend, and tell how it was chosen.

    The configured one; under "auto" the recorded one, where it can run; else the fastest on a row of prompts
    of `longest` tokens with completions of the largest length.
    """
    if config.model.attention != "auto":
        return {"attention": policy.attention_path, "attention_chosen_by": "config"}
    text = policy.model.config.get_text_config()  # type: ignore[union-attr, operator]
    shape = RowShape(
        prompt=longest,
        completion=config.sampling.max_new_tokens,
        group=config.sampling.group_size,
        prompts=config.sampling.prompts_per_step,
        heads=text.num_attention_heads,
        kv_heads=text.num_key_value_heads,
        width=getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads,
    )
    device, dtype = policy.device, next(policy.parameters()).dtype
    known: AttentionPath | None = recorded.get("attention")
    if known is not None and known in get_args(AttentionPath):
        fault = path_fault(known, device=device, dtype=dtype, head_width=shape.width)
        if fault is None:
            policy.attention_path = known
            return {}
        message(f"attention was {known!r}, which cannot run here: {fault}; chosen again")
    policy.attention_path, seconds = fastest_path(policy.attention_path, shape, device=device, dtype=dtype)
    return {
        "attention": policy.attention_path,
        "attention_chosen_by": "probe",
        "attention_s": {path: round(value, 5) for path, value in seconds.items()},
    }


def chosen_head(policy: Policy, *, message: Callable[[str], None]) -> dict[str, str]:
    """How the head's maths runs, for the run's record; tells where it had to give way.

    Raises: FovealError, when the way that is asked for cannot run.
    """
    if policy.head.fault is None:
        return {"head": policy.head.path}
    message(f"the head runs plain: {policy.head.fault}")
    return {"head": policy.head.path, "head_fault": policy.head.fault}


MALLOC_OPTIONS = {-1: 2**31 - 1, -2: 64 << 20, -3: 32 << 20}
"""Values of glibc's M_TRIM_THRESHOLD, M_TOP_PAD and M_MMAP_THRESHOLD (its largest), bytes."""


def keep_freed_memory() -> bool:
    """Let the C allocator keep what a step frees for the next one; whether it was asked to.

    Tensors of up to 32 MiB are otherwise given back and faulted in anew at each use: 5 % of a step of a small
    model on a CPU. The peak stays the same. Only for glibc on Linux.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    return all(mallopt(option, value) == 1 for option, value in MALLOC_OPTIONS.items())


def _probe() -> float:
    """Wall seconds of a small forward and backward, the best of a few."""
    x = torch.randn(PROBE_SIZE, PROBE_SIZE, requires_grad=True)
    w = torch.randn(PROBE_SIZE, PROBE_SIZE, requires_grad=True)
    best, end = float("inf"), time.perf_counter() + PROBE_LIMIT_S
    for _ in range(PROBE_REPEATS):
        if time.perf_counter() > end:
            break
        start = time.perf_counter()
        torch.softmax(torch.nn.functional.gelu(x @ w) @ w, dim=-1).square().sum().backward()  # type: ignore[no-untyped-call]
        best = min(best, time.perf_counter() - start)
    return best
