"""Products of linear layers that sampling made of completions, for the update of the same weights.

Between sampling and the first update the weights stay, so that what a linear layer makes of a completion
token need not be made twice. The update takes these products as they were recorded and computes everything
else: norms, rotations, attention, activations and all gradients.

A forward over another's products would agree with a wrong sampler, so these are checked. Only attention mixes
tokens: what the sampler's attention gave, and the embeddings that it read, are recorded too, and every row of
them is compared with the update's own. All else acts on each row alone and by the same weights: some rows of
every product are made again.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foveal.policy.linears import known_linear

CHECKED = 16
"""Rows of each product that are made again."""

SUM_ROUNDING = 16
"""Of a sum's size, so many roundings (eps) count into what a gap is taken relative to: a sum that is rounded
once is then at a sixteenth at most, below the limit in 16 bits, however large the states are."""


class ProductRecord(ABC):
    """What a call of the sampler made of its completions, by layer and kind of product.

    A token has the place: its completion's row times `length`, plus its own place in the completion. A
    layer's products of a token lie side by side. Memory is of the type and on the device of `like`; of what
    is not set nothing is read.
    """

    def __init__(
        self, sizes: Mapping[int, Mapping[str, int]], *, rows: int, length: int, like: Tensor
    ) -> None:
        """`sizes`: numbers a token of each layer's products, by kind; `length`: tokens that a completion may
        be fed."""
        self.length, self.size = length, rows * length
        self.kept = {layer: like.new_empty(self.size, sum(of.values())) for layer, of in sizes.items()}
        self._columns = {layer: _columns(of) for layer, of in sizes.items()}
        self._wanted = {layer: set(of) for layer, of in sizes.items()}

    @abstractmethod
    def begin(self, rows: Tensor, token: int | Tensor) -> None:
        """What is put from now on is of this token of these completions (Int [B])."""

    def put(self, layer: int, made: Mapping[str, Tensor]) -> None:
        """A layer's products [B, n] of the tokens at hand, by kind."""
        self._put(self.kept[layer], [made[kind] for kind in self._columns[layer]])

    @abstractmethod
    def _put(self, kept: Tensor, made: list[Tensor]) -> None: ...

    def of(self, layer: int, kind: str) -> Tensor:
        """Products [rows * length, n] as they lie."""
        return self.kept[layer][:, self._columns[layer][kind]]

    def take(self, layer: int, kind: str, places: Tensor) -> Tensor:
        """Products [k, n] of tokens at places (Int [k]) that were recorded."""
        return self.of(layer, kind).index_select(0, self._at(places))

    @abstractmethod
    def _at(self, places: Tensor) -> Tensor:
        """Where tokens lie, of their places."""

    def drop(self, layer: int, kind: str) -> None:
        """These are not wanted again: a layer's memory goes with the last of them."""
        self._wanted[layer].discard(kind)
        if not self._wanted[layer]:
            self.kept.pop(layer, None)


class RunningRecord(ProductRecord):
    """Each step's tokens behind those of the step before: one plain copy a layer, whichever rows still run.
    They are put in order as they are taken."""

    def __init__(
        self, sizes: Mapping[int, Mapping[str, int]], *, rows: int, length: int, like: Tensor
    ) -> None:
        super().__init__(sizes, rows=rows, length=length, like=like)
        self._order = torch.full((self.size,), -1, device=like.device)
        """For each place, where its token is among those that were put."""
        self._now = slice(0, 0)

    def begin(self, rows: Tensor, token: int | Tensor) -> None:
        """See `ProductRecord.begin`."""
        self._now = slice(self._now.stop, self._now.stop + len(rows))
        if self._now.stop > self.size:
            raise RuntimeError(f"{self._now.stop} tokens are put; expected at most {self.size}")
        put = torch.arange(self._now.start, self._now.stop, device=rows.device)
        self._order.index_copy_(0, rows * self.length + token, put)

    def _put(self, kept: Tensor, made: list[Tensor]) -> None:
        torch.cat(made, dim=1, out=kept[self._now])

    def _at(self, places: Tensor) -> Tensor:
        return self._order[places]


class FixedRecord(ProductRecord):
    """Each token at its own place, which a tensor may tell: for steps that a graph of the device holds."""

    _places: Tensor

    def begin(self, rows: Tensor, token: int | Tensor) -> None:
        """See `ProductRecord.begin`."""
        self._places = rows * self.length + token

    def _put(self, kept: Tensor, made: list[Tensor]) -> None:
        kept.index_copy_(0, self._places, torch.cat(made, dim=1))

    def _at(self, places: Tensor) -> Tensor:
        return places


@dataclass(kw_only=True)
class ProductPart:
    """Products of the fed tokens of some completions, in the order of a packed row."""

    pieces: Sequence[tuple[ProductRecord, Tensor]]
    """Records, and places Int [k] in them."""
    final: bool
    """Nothing of the records is wanted after this: what is taken is let go."""
    gaps: list[Tensor] = field(default_factory=list)
    """Relative L2 distances of what was recorded from what is computed here: of each product, and of each
    comparison its worst row."""

    def take(self, layer: int, kind: str) -> Tensor:
        """What was made of all tokens [K, n]."""
        found = [record.take(layer, kind, places) for record, places in self.pieces]
        if self.final:
            for record in {id(record): record for record, _ in self.pieces}.values():
                record.drop(layer, kind)
        return found[0] if len(found) == 1 else torch.cat(found)

    def linear(self, module: nn.Linear, x: Tensor, known: Tensor, total: Tensor | None = None) -> Tensor:
        """x W^T + b (+ total) [S, n] of x [S, k], whose last K rows are `known`; the others are made. The
        gradient is that of making them all."""
        self._check(module, x, known, total)
        return known_linear(module, x, known, total)

    @torch.no_grad()
    def compare(self, layer: int, kind: str, found: Tensor) -> None:
        """Hold what was recorded of all tokens [K, n] against the last K rows of what is found here."""
        known = self.take(layer, kind)
        off = _wide(found[len(found) - len(known) :] - known).norm(dim=-1)
        size = _wide(known).norm(dim=-1)
        # A row that is much smaller than the others is rounded as these are.
        size = torch.maximum(size, size.square().mean().sqrt())
        self.gaps.append(_ratio(off, size).max())

    @torch.no_grad()
    def _check(self, module: nn.Linear, x: Tensor, known: Tensor, total: Tensor | None) -> None:
        size, used = len(known), len(self.gaps)
        some = min(CHECKED, size)
        rows = (torch.arange(some, device=x.device) * size // some + used) % size
        behind = rows + (len(x) - size)
        made, wanted = F.linear(x[behind], module.weight, module.bias), known[rows]
        added = made if total is None else made + total[behind]
        # Against the product alone: beside the states that it is added to, a wrong one would hardly show.
        size_of = _wide(made).norm() + SUM_ROUNDING * torch.finfo(made.dtype).eps * _wide(wanted).norm()
        self.gaps.append(_ratio(_wide(added - wanted).norm(), size_of))


def _columns(sizes: Mapping[str, int]) -> dict[str, slice]:
    """Where each kind lies among a token's numbers."""
    ends = accumulate(sizes.values())
    return {kind: slice(end - size, end) for (kind, size), end in zip(sizes.items(), ends, strict=True)}


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _ratio(off: Tensor, size: Tensor) -> Tensor:
    """off / size; where both are 0, 0: of a layer that gives zeros, zeros are right."""
    return off / size.clamp(min=torch.finfo(size.dtype).tiny)
