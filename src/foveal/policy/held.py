"""What sampling leaves for the update of the same weights: prompts that were run with their graph, and
products of completions."""

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from foveal.policy.merge import KeysValues
from foveal.policy.products import ProductPart, ProductRecord
from foveal.types import Prompt

WORTH = 1.5
"""A held row saves the forward of the prompts that the update needs, and costs the backward of all its
prompts: it is worth it while it has less than so many times their tokens, as a backward is two forwards."""


@dataclass(frozen=True, kw_only=True)
class HeldRow:
    """Prompts of one row: what ran, and what the update reads instead.

    `roots` carry the graph; `leaves` are their values, cut off: first the states [n, H] that predict first
    tokens, then each layer's keys and values [1, kv_heads, P, d].
    """

    prompts: tuple[Prompt, ...]
    pixels: tuple[Tensor, ...]
    layers: tuple[int, ...]
    roots: tuple[Tensor, ...]
    leaves: tuple[Tensor, ...]

    @staticmethod
    def of(
        prompts: Sequence[Prompt],
        pixels: Sequence[Tensor],
        states: Tensor,
        captured: Mapping[int, KeysValues],
    ) -> "HeldRow":
        """From a prefill with gradient."""
        roots = (states, *(x for pair in captured.values() for x in pair))
        return HeldRow(
            prompts=tuple(prompts),
            pixels=tuple(pixels),
            layers=tuple(captured),
            roots=roots,
            leaves=tuple(root.detach().requires_grad_(root.requires_grad) for root in roots),
        )

    @property
    def tokens(self) -> int:
        """Tokens of its prompts."""
        return sum(len(prompt.token_ids) for prompt in self.prompts)

    def keys_values(self, number: int) -> KeysValues:
        """Of the layer at this place in `layers`."""
        return self.leaves[1 + 2 * number], self.leaves[2 + 2 * number]


class HeldProducts:
    """The products of a call's completions, each of which is known by its prompt, pictures and tokens."""

    def __init__(
        self,
        record: ProductRecord,
        prompts: Sequence[Prompt],
        pixels: Sequence[Tensor],
        tokens: Sequence[Sequence[int]],
    ) -> None:
        """`prompts`, `pixels`: of each completion, in the order of the record's rows."""
        self.record = record
        # Held with their keys: an id is one object's for as long as that lives.
        self._given = tuple(prompts), tuple(pixels)
        given = zip(prompts, pixels, tokens, strict=True)
        self._rows = {(id(p), id(x), tuple(ids)): row for row, (p, x, ids) in enumerate(given)}

    def places(self, prompt: Prompt, pixels: Tensor, tokens: Sequence[int]) -> range | None:
        """Where the products of a completion's fed tokens are; None where it was not drawn."""
        row = self._rows.get((id(prompt), id(pixels), tuple(tokens)))
        if row is None:
            return None
        first = row * self.record.length
        return range(first, first + len(tokens) - 1)


@dataclass(kw_only=True)
class Held:
    """Rows of prompts, and products of completions, held for one step, for as long as the weights stay.

    The gradient of what the update reads of prompts is gathered in the leaves, over all micro-batches;
    `backward` then runs each row's graph once.
    """

    model: nn.Module
    rows: list[HeldRow] = field(default_factory=list)
    products: list[HeldProducts] = field(default_factory=list)
    reserved: int = 0
    """Tokens of the packed row that is to be run over what is held: prompts and longest completions."""
    gaps: list[Tensor] = field(default_factory=list)
    """How far products that were used are off: `ProductPart.gaps`."""
    uses: int = 1
    """Packed rows of completions that are still to take products."""
    _version: tuple[int, int] | None = None

    def add(self, row: HeldRow) -> None:
        """Hold a row that has just run."""
        self._renew()
        self.rows.append(row)

    def add_products(self, products: HeldProducts) -> None:
        """Hold what a call has just recorded."""
        self._renew()
        self.products.append(products)

    def clear(self) -> None:
        """Let everything go."""
        self._let_go()
        self.gaps.clear()

    @property
    def tokens(self) -> int:
        """Tokens of all prompts held."""
        return sum(row.tokens for row in self.rows)

    def find(self, prompts: Sequence[Prompt], pixels: Sequence[Tensor]) -> "HeldPart | None":
        """What stands for these prompts with these pictures; None where one of them is not held, or weights
        have changed since."""
        if not self.rows or self._version != self._weights():
            return None
        places = []
        for prompt, patches in zip(prompts, pixels, strict=True):
            place = self._place(prompt, patches)
            if place is None:
                return None
            places.append(place)
        return HeldPart(places=tuple(places))

    def find_products(
        self, completions: Iterable[tuple[Prompt, Tensor, Sequence[int]]], *, device: torch.device
    ) -> ProductPart | None:
        """Products of the fed tokens of completions, given by their prompt, its pictures and their tokens;
        None where one of them is not held, or weights have changed since. Counts as one of the `uses`."""
        if not self.products or self._version != self._weights():
            return None
        found: list[tuple[ProductRecord, list[int]]] = []
        for prompt, pixels, tokens in completions:
            if len(tokens) < 2:
                continue
            given = ((one.record, one.places(prompt, pixels, tokens)) for one in self.products)
            record, places = next(((r, p) for r, p in given if p is not None), (None, None))
            if record is None or places is None:
                return None
            if not found or found[-1][0] is not record:
                found.append((record, []))
            found[-1][1].extend(places)
        self.uses -= 1
        if self.uses <= 0:
            self.products.clear()
        if not found:
            return None
        return ProductPart(
            pieces=[(record, torch.tensor(places, device=device)) for record, places in found],
            final=self.uses <= 0,
        )

    def keep_if_worth(self, prompts: Sequence[Prompt]) -> None:
        """Let the prompts go where so few of them are needed that running these again is cheaper."""
        wanted = {id(prompt) for prompt in prompts}
        needed = sum(len(p.token_ids) for row in self.rows for p in row.prompts if id(p) in wanted)
        touched = sum(row.tokens for row in self.rows if any(id(p) in wanted for p in row.prompts))
        if touched >= WORTH * needed:
            self.rows.clear()

    def largest_gap(self) -> float | None:
        """The largest of `gaps`, which are let go; NaN where one is; None where there are none."""
        if not self.gaps:
            return None
        found = float(torch.stack(self.gaps).max())
        self.gaps.clear()
        return found

    def backward(self) -> None:
        """Add the gradient of the weights that goes through the held prompts, and let them go."""
        for row in self.rows:
            pairs = [(r, x.grad) for r, x in zip(row.roots, row.leaves, strict=True) if x.grad is not None]
            if pairs:
                torch.autograd.backward([root for root, _ in pairs], [grad for _, grad in pairs])
        self._let_go()

    def _place(self, prompt: Prompt, pixels: Tensor) -> "tuple[HeldRow, int] | None":
        for row in self.rows:
            for index, (own, patches) in enumerate(zip(row.prompts, row.pixels, strict=True)):
                if own is prompt and patches is pixels:
                    return row, index
        return None

    def __deepcopy__(self, memo: dict[int, object]) -> "Held":
        """Nothing: what is held is of the model that was copied."""
        return Held(model=copy.deepcopy(self.model, memo))

    def _let_go(self) -> None:
        self.rows.clear()
        self.products.clear()
        self.reserved, self.uses = 0, 1

    def _renew(self) -> None:
        """Nothing of other weights stays."""
        if (self.rows or self.products) and self._version != self._weights():
            self.clear()
        self._version = self._weights()

    def _weights(self) -> tuple[int, int]:
        """Numbers that grow with every change of a weight in place, and with any optimizer's step."""
        return sum(p._version for p in self.model.parameters()), _steps


@dataclass(frozen=True, kw_only=True)
class HeldPart:
    """Some held prompts, in the order in which they are wanted."""

    places: tuple[tuple[HeldRow, int], ...]

    @property
    def states(self) -> Tensor:
        """States [n, H] that predict first tokens."""
        return torch.stack([row.leaves[0][index] for row, index in self.places])

    @property
    def keys_values(self) -> dict[int, KeysValues]:
        """Each layer's keys and values [1, kv_heads, P, d] of the prompts, side by side."""
        found = {}
        for number, layer in enumerate(self.places[0][0].layers):
            pairs = [(row.keys_values(number), span) for row, span in self._spans()]
            found[layer] = (
                _joined([key[:, :, span] for (key, _), span in pairs]),
                _joined([value[:, :, span] for (_, value), span in pairs]),
            )
        return found

    def _spans(self) -> list[tuple[HeldRow, slice]]:
        """Tokens of the prompts in their rows; neighbours in one piece."""
        found: list[tuple[HeldRow, slice]] = []
        for row, index in self.places:
            start = sum(len(p.token_ids) for p in row.prompts[:index])
            stop = start + len(row.prompts[index].token_ids)
            if found and found[-1][0] is row and found[-1][1].stop == start:
                start = found.pop()[1].start
            found.append((row, slice(start, stop)))
        return found


def _count_step(*_: object) -> None:
    global _steps  # noqa: PLW0603
    _steps += 1


_steps = 0
"""Steps of all optimizers: fused ones change weights in place without torch's counting it."""

register_optimizer_step_post_hook(_count_step)


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), dim=2)
