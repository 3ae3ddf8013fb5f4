"""Segments of a row that are run in one call, padded to the longest of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

SLACK = 1.125
"""Segments whose lengths differ by at most this factor are run in one call: padding is multiplied too."""


def alike(members: Sequence[int], lengths: Sequence[int]) -> list[list[int]]:
    """The members in parts whose longest is at most `SLACK` times their shortest, each in order."""
    parts: list[list[int]] = []
    shortest = 0
    for member in sorted(members, key=lambda m: lengths[m]):
        if not parts or lengths[member] > SLACK * shortest:
            parts.append([])
            shortest = lengths[member]
        parts[-1].append(member)
    return [sorted(part) for part in parts]


@dataclass(frozen=True, kw_only=True)
class Ragged:
    """n segments of a row as [n, longest]; padding is the segment's first token again."""

    index: Tensor
    valid: Tensor
    even: bool
    """All segments have one length: nothing is padded."""
    start: int | None
    """First token of even segments that lie side by side: they are a view of the row, nothing is copied."""

    @staticmethod
    def at(starts: Sequence[int], lengths: Sequence[int], *, device: torch.device) -> "Ragged":
        """Segments given by their first token and length, at least one."""
        first = torch.tensor(starts, device=device)[:, None]
        size = torch.tensor(lengths, device=device)[:, None]
        order = torch.arange(max(lengths), device=device)[None]
        valid = order < size
        even = len(set(lengths)) == 1
        adjacent = even and all(b - a == lengths[0] for a, b in pairwise(starts))
        return Ragged(
            index=first + order * valid, valid=valid, even=even, start=starts[0] if adjacent else None
        )

    def take(self, x: Tensor) -> Tensor:
        """[S, heads, d] as [n, heads, longest, d]."""
        if self.start is not None:
            return self._view(x, self.start)
        flat = x.index_select(0, self.index.reshape(-1))
        return flat.view(*self.index.shape, *x.shape[1:]).transpose(1, 2)

    def take_filled(self, x: Tensor, fill: float) -> Tensor:
        """As `take`, `fill` on padding."""
        found = self.take(x)
        return found if self.even else found.masked_fill(~self.valid[:, None, :, None], fill)

    def put(self, total: Tensor, part: Tensor) -> None:
        """Write [n, heads, longest, d] to its places in `total` [S, heads, d]; padding is left out."""
        if self.start is not None:
            self._view(total, self.start).copy_(part)
            return
        total.index_copy_(0, self.index[self.valid], part.transpose(1, 2)[self.valid])

    def _view(self, x: Tensor, start: int) -> Tensor:
        n, longest = self.index.shape
        return x[start : start + n * longest].view(n, longest, *x.shape[1:]).transpose(1, 2)
