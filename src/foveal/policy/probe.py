"""The fastest of the exact ways to attend, measured on a row like those of the run."""

import time
from dataclasses import dataclass

import torch

from foveal.policy.attention import AttentionPath, PackedLayout

MARGIN = 0.7
"""Another way is taken when it needs less than this share of the usual one's time: where two are close, every
run of a configuration should take the same."""

LONGEST_ROW = 1024
"""Tokens of the row that is tried, unless one prompt with one completion is longer."""

REPEATS = 3
LIMIT_S = 0.2
"""Seconds after which a way is not tried again."""

DENSE_SCORES = 1 << 26
"""Scores above which the dense mask is not tried: it holds them several times (0.25 GiB in float32 each)."""


@dataclass(frozen=True, kw_only=True)
class RowShape:
    """What decides how fast a packed row attends."""

    prompt: int
    completion: int
    group: int
    prompts: int
    heads: int
    kv_heads: int
    width: int

    def fitted(self) -> "RowShape":
        """With fewer groups, completions and tokens, to about `LONGEST_ROW` tokens."""
        group = max(1, min(self.group, (LONGEST_ROW - self.prompt) // self.completion))
        completion = max(1, min(self.completion, LONGEST_ROW))
        prompts = max(1, min(self.prompts, LONGEST_ROW // (self.prompt + group * completion)))
        return RowShape(
            prompt=self.prompt,
            completion=completion,
            group=group,
            prompts=prompts,
            heads=self.heads,
            kv_heads=self.kv_heads,
            width=self.width,
        )

    @property
    def size(self) -> int:
        """Tokens of the row."""
        return self.prompts * (self.prompt + self.group * self.completion)


def fastest_path(
    usual: AttentionPath, shape: RowShape, *, device: torch.device, dtype: torch.dtype
) -> tuple[AttentionPath, dict[str, float]]:
    """The way to attend for rows of a shape, and the seconds of each one tried: forward and backward of one
    layer, the best of a few.

    `usual` is taken unless another needs less than `MARGIN` of its time.
    """
    shape = shape.fitted()
    others: list[AttentionPath] = ["tiled"]
    if shape.heads * shape.size**2 <= DENSE_SCORES:
        others.append("dense")
    ways = [usual, *(path for path in others if path != usual)]
    seconds: dict[str, float] = {path: _seconds(path, shape, device, dtype) for path in ways}
    best = min(ways, key=lambda path: seconds[path])
    return (best if seconds[best] < MARGIN * seconds[usual] else usual), seconds


def _seconds(path: AttentionPath, shape: RowShape, device: torch.device, dtype: torch.dtype) -> float:
    layout = PackedLayout(
        prompt_lengths=(shape.prompt,) * shape.prompts,
        completion_lengths=(shape.completion,) * shape.group * shape.prompts,
        completion_prompts=tuple(n for n in range(shape.prompts) for _ in range(shape.group)),
        device=device,
        path=path,
    )
    query, key, value = (
        torch.ones(1, heads, shape.size, shape.width, device=device, dtype=dtype, requires_grad=True)
        for heads in (shape.heads, shape.kv_heads, shape.kv_heads)
    )
    best, end = float("inf"), time.perf_counter() + LIMIT_S
    with torch.enable_grad():
        for _ in range(REPEATS):
            start = time.perf_counter()
            layout.attend(0, query, key, value, shape.width**-0.5).sum().backward()  # type: ignore[no-untyped-call]
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            best = min(best, time.perf_counter() - start)
            if time.perf_counter() > end:
                break
    return best
