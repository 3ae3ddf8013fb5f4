"""Prompts that were run with their graph for sampling, so that the update of the same weights need not run
them again."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from foveal.policy.merge import KeysValues
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


@dataclass(kw_only=True)
class HeldPrompts:
    """Rows of prompts held for one step, for as long as the weights stay.

    The gradient of what the update reads is gathered in the leaves, over all micro-batches; `backward` then
    runs each row's graph once.
    """

    model: nn.Module
    rows: list[HeldRow] = field(default_factory=list)
    reserved: int = 0
    """Tokens of the packed row that is to be run over what is held: prompts and longest completions."""
    _version: int = -1

    def add(self, row: HeldRow) -> None:
        """Hold a row that has just run."""
        if self.rows and self._version != self._weights():
            self.clear()
        self.rows.append(row)
        self._version = self._weights()

    def clear(self) -> None:
        """Let everything go."""
        self.rows.clear()
        self.reserved = 0

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

    def keep_if_worth(self, prompts: Sequence[Prompt]) -> None:
        """Let everything go where so few of the prompts are needed that running these again is cheaper."""
        wanted = {id(prompt) for prompt in prompts}
        needed = sum(len(p.token_ids) for row in self.rows for p in row.prompts if id(p) in wanted)
        touched = sum(row.tokens for row in self.rows if any(id(p) in wanted for p in row.prompts))
        if touched >= WORTH * needed:
            self.clear()

    def backward(self) -> None:
        """Add the gradient of the weights that goes through the held prompts, and let them go."""
        for row in self.rows:
            pairs = [(r, x.grad) for r, x in zip(row.roots, row.leaves, strict=True) if x.grad is not None]
            if pairs:
                torch.autograd.backward([root for root, _ in pairs], [grad for _, grad in pairs])
        self.clear()

    def _place(self, prompt: Prompt, pixels: Tensor) -> "tuple[HeldRow, int] | None":
        for row in self.rows:
            for index, (own, patches) in enumerate(zip(row.prompts, row.pixels, strict=True)):
                if own is prompt and patches is pixels:
                    return row, index
        return None

    def _weights(self) -> int:
        """A number that grows with every change of a weight in place."""
        return sum(p._version for p in self.model.parameters())


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


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), dim=2)
