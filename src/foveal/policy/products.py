"""Products of linear layers that sampling made of completions, for the update of the same weights.

Between sampling and the first update the weights stay, so that what a linear layer makes of a completion
token need not be made twice. The update takes these products as they were recorded and computes everything
else: norms, rotations, attention, activations and all gradients. Some rows of every product are made again
and held against what was recorded.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foveal.policy.linears import known_linear

CHECKED = 16
"""Rows of each product that are made again."""


class ProductRecord:
    """What a call of the sampler made of its completions: [rows * length, n] of each layer and kind."""

    def __init__(self, sizes: Mapping[tuple[int, str], int], *, rows: int, length: int, like: Tensor) -> None:
        """`sizes`: numbers a token of each layer's products, by kind; `length`: tokens that a completion may
        be fed. Memory is of the type and on the device of `like`; of what is not set nothing is read."""
        self.length = length
        self.kept = {key: like.new_empty(rows * length, size) for key, size in sizes.items()}

    def put(self, layer: int, kind: str, places: Tensor | slice, made: Tensor) -> None:
        """Products [B, n] of tokens at places Int [B]: row times `length` plus the token's own place."""
        kept = self.kept[layer, kind]
        if isinstance(places, slice):
            kept[places] = made
        else:
            kept.index_copy_(0, places, made)

    def neighbours(self, first: int, rows: int, place: int) -> slice:
        """The places of one token of each of so many rows from `first` on."""
        start = first * self.length + place
        return slice(start, start + (rows - 1) * self.length + 1, self.length)


@dataclass(kw_only=True)
class ProductPart:
    """Products of the fed tokens of some completions, in the order of a packed row."""

    pieces: Sequence[tuple[ProductRecord, Tensor]]
    """Records, and places Int [k] in them."""
    final: bool
    """Nothing of the records is wanted after this: what is taken is let go."""
    gaps: list[Tensor] = field(default_factory=list)
    """Of each product that was used, the relative L2 distance of the rows that were made again."""

    def take(self, layer: int, kind: str) -> Tensor:
        """What was made of all tokens [K, n]."""
        found = [_rows(record.kept[layer, kind], places) for record, places in self.pieces]
        if self.final:
            for record in {id(record): record for record, _ in self.pieces}.values():
                del record.kept[layer, kind]
        return found[0] if len(found) == 1 else torch.cat(found)

    def linear(self, module: nn.Linear, x: Tensor, known: Tensor, total: Tensor | None = None) -> Tensor:
        """x W^T + b (+ total) [S, n] of x [S, k], whose last K rows are `known`; the others are made. The
        gradient is that of making them all."""
        self._check(module, x, known, total)
        return known_linear(module, x, known, total)

    @torch.no_grad()
    def _check(self, module: nn.Linear, x: Tensor, known: Tensor, total: Tensor | None) -> None:
        size, used = len(known), len(self.gaps)
        some = min(CHECKED, size)
        rows = (torch.arange(some, device=x.device) * size // some + used) % size
        behind = rows + (len(x) - size)
        made = F.linear(x[behind], module.weight, module.bias)
        if total is not None:
            made = made + total[behind]
        # Of an untrained layer that gives zeros, zeros are right.
        norm = made.norm().clamp(min=torch.finfo(made.dtype).tiny)
        self.gaps.append((made - known[rows]).norm() / norm)


def _rows(x: Tensor, places: Tensor) -> Tensor:
    """Rows of x at places; a view where they are neighbours."""
    first, size = int(places[0]), len(places)
    if torch.equal(places, torch.arange(first, first + size, device=places.device)):
        return x[first : first + size]
    return x.index_select(0, places)
