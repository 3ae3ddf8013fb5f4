"""Attention of a packed row: every prompt once, and the completions of its group attending to it.

A packed row is `[p1 .. pn][c11 .. cnG]`, ragged and without padding. Each completion token sees its own
prompt and its own completion up to itself. The layers of the model hand their queries, keys and values to the
layout of the row.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface

from foveal.policy import merge
from foveal.policy.merge import KeysValues, RowParts
from foveal.policy.segments import Flash, Kernel, Padded, Segments, Tiled

WINDOWS = "foveal_flash_windows"
"""Name of the vision tower's attention; "flash" makes transformers hand over all windows in one call."""

AttentionPath = Literal["split", "flash", "tiled", "dense"]

KERNELS: Mapping[str, Kernel] = {"split": Padded(), "flash": Flash(), "tiled": Tiled()}


class Layout(Protocol):
    """Where the tokens of a row belong; computes attention for one layer."""

    @property
    def reads(self) -> Tensor | None:
        """The tokens Int [R] of the row whose last hidden states are read; None: all."""
        ...

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Attention [1, heads, S, d] of queries [1, heads, S, d] over keys and values [1, kv_heads, S, d]; or
        [1, heads, R, d] of the queries of the tokens that are read."""
        ...


def window_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    scaling: float,
    cu_seq_lens_q: Tensor,
    **kwargs: object,
) -> tuple[Tensor, None]:
    """Vision attention within windows: windows of one length are one batched call.

    query, key, value: [1, heads, S, d]; output [1, S, heads, d].
    """
    lengths = (cu_seq_lens_q[1:] - cu_seq_lens_q[:-1]).tolist()
    if len(set(lengths)) == 1:
        output = _attend_windows(query, key, value, lengths[0], scaling)
        return output.reshape(1, query.shape[2], query.shape[1], query.shape[3]), None
    by_length: dict[int, list[int]] = {}
    for window, length in enumerate(lengths):
        by_length.setdefault(length, []).append(window)
    output = torch.empty_like(query.transpose(1, 2))
    for length, members in by_length.items():
        starts = cu_seq_lens_q[torch.tensor(members, device=query.device)].long()
        index = (starts[:, None] + torch.arange(length, device=query.device)[None]).reshape(-1)
        part = _attend_windows(query[:, :, index], key[:, :, index], value[:, :, index], length, scaling)
        output = output.index_copy(1, index, part.reshape(1, -1, query.shape[1], query.shape[3]))
    return output, None


def _attend_windows(query: Tensor, key: Tensor, value: Tensor, length: int, scale: float) -> Tensor:
    """Attention [n, length, heads, d] within adjacent windows of one length."""
    parts = (_windows(query, length), _windows(key, length), _windows(value, length))
    return F.scaled_dot_product_attention(*parts, scale=scale).transpose(1, 2)


def _windows(x: Tensor, length: int) -> Tensor:
    """[1, heads, n * length, d] as [n, heads, length, d]."""
    _, heads, size, width = x.shape
    return x.view(heads, size // length, length, width).transpose(0, 1)


AttentionInterface.register(WINDOWS, window_attention)


@dataclass(frozen=True, kw_only=True)
class PackedLayout:
    """The row `[p1 .. pn][c1 .. cB]` and its attention, computed by one of four exact ways.

    `split`, `flash`, `tiled`: every prompt and completion within itself, and completions over their prompt,
    merged by log-sum-exp (`foveal.policy.merge`): no mask, no pair of tokens that cannot see each other is
    multiplied but where causality halves it, prompt keys are never copied for a completion. By the CPU's
    flash kernels, CUDA's (16-bit numbers), or plain torch.
    `dense`: one masked call, which needs memory with the square of the row: the reference of the tests.
    Layers whose window is shorter than a sequence of the row make a masked call for each prompt with its
    completions, which needs memory with the square of these.

    `completion_lengths` are the tokens that are fed (the last token of a completion predicts nothing),
    grouped by prompt: `completion_prompts` must not decrease.
    """

    prompt_lengths: tuple[int, ...]
    completion_lengths: tuple[int, ...]
    completion_prompts: tuple[int, ...]
    device: torch.device
    path: AttentionPath = "split"
    captured: dict[int, KeysValues] | None = field(default=None)
    """When a dict, the prompts' keys and values of each layer are put there (the sampler's prefill)."""
    prompts: Mapping[int, KeysValues] | None = None
    """Each layer's keys and values [1, kv_heads, P, d] of the prompts, where the row is without them: it is
    `[c1 .. cB]` then."""
    windows: tuple[int | None, ...] = ()
    """How far each layer looks back, as `Family.windows`; empty where none is bounded."""
    _masks: dict[int | None, Tensor] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        if list(self.completion_prompts) != sorted(self.completion_prompts):
            raise ValueError(
                f"completions must be in the order of their prompts, not {self.completion_prompts}"
            )

    @property
    def prompt_size(self) -> int:
        """Tokens of all prompts."""
        return sum(self.prompt_lengths)

    @cached_property
    def reads(self) -> Tensor | None:
        """Each prompt's last token and the completions: see `Layout.reads`."""
        size = self.prompt_size
        if self.prompts is not None or size == len(self.prompt_lengths):
            return None
        ends = torch.tensor(self.prompt_lengths, device=self.device).cumsum(0) - 1
        return torch.cat([ends, torch.arange(size, size + sum(self.completion_lengths), device=self.device)])

    @cached_property
    def parts(self) -> RowParts:
        """The row as two ragged calls."""
        return self._behind if self.prompts is not None else self._parts(with_prompts=True)

    @cached_property
    def _behind(self) -> RowParts:
        """The completions alone, whose prompts' keys are handed in."""
        return self._parts(with_prompts=False)

    def _parts(self, *, with_prompts: bool) -> RowParts:
        return RowParts.of(
            self.prompt_lengths,
            self.completion_lengths,
            self.completion_prompts,
            device=self.device,
            with_prompts=with_prompts,
        )

    @cached_property
    def _ends(self) -> RowParts:
        """Each prompt's last token over its prompt."""
        own, nothing = (
            Segments(query_lengths=(1,) * len(keys), key_lengths=keys, causal=False, device=self.device)
            for keys in (self.prompt_lengths, ())
        )
        return RowParts(own=own, prefix=nothing)

    def mask(self, window: int | None = None) -> Tensor:
        """Bool [1, 1, S, K], True where a token of the row may look in layers of a window; K counts the
        prompts even where the row is without them."""
        if window not in self._masks:
            self._masks[window] = self._mask(window)
        return self._masks[window]

    def _mask(self, window: int | None) -> Tensor:
        n, device = len(self.prompt_lengths), self.device
        lengths = self.prompt_lengths + self.completion_lengths
        counts = torch.tensor(lengths, device=device)
        owners = (*range(n), *self.completion_prompts)
        segment = torch.repeat_interleave(torch.arange(len(counts), device=device), counts)
        owner = torch.tensor(owners, device=device)[segment]
        order = torch.arange(len(segment), device=device)
        causal = order[:, None] >= order[None, :]
        same = segment[:, None] == segment[None, :]
        prefix = (segment[None, :] < n) & (owner[:, None] == owner[None, :])
        seen = causal & (same | prefix)
        if window is not None:
            # Places in a token's own sequence, in which a completion follows its prompt at once.
            behind = torch.tensor([0] * n + [lengths[p] for p in self.completion_prompts], device=device)
            place = order - (counts.cumsum(0) - counts)[segment] + behind[segment]
            seen &= place[:, None] - place[None, :] < window
        return (seen if self.prompts is None else seen[self.prompt_size :])[None, None]

    def _window(self, layer: int) -> int | None:
        """A layer's window, where it hides anything of this row."""
        window = self.windows[layer] if self.windows else None
        return None if window is None or window >= self._longest else window

    @cached_property
    def _longest(self) -> int:
        """Tokens of the longest sequence, its prompt included."""
        behind = zip(self.completion_prompts, self.completion_lengths, strict=True)
        return max((*self.prompt_lengths, *(self.prompt_lengths[p] + length for p, length in behind)))

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """See `Layout.attend`."""
        if self.captured is not None:
            size = self.prompt_size
            self.captured[layer] = key[:, :, :size], value[:, :, :size]
        held = None if self.prompts is None else self.prompts[layer]
        window = self._window(layer)
        reads = self.reads if query.shape[2] < key.shape[2] else None
        if window is not None:
            return self._by_group(query, key, value, held, scale, window, reading=reads is not None)
        if self.path == "dense":
            if held is not None:
                key, value = (torch.cat(pair, dim=2) for pair in zip(held, (key, value), strict=True))
            mask = self.mask() if reads is None else self.mask()[:, :, reads]
            return _masked(query, key, value, mask, scale)
        query, key, value = _by_token(query), _by_token(key), _by_token(value)
        prompts = None if held is None else (_by_token(held[0]), _by_token(held[1]))
        kernel = KERNELS[self.path]
        if reads is None:
            output = merge.attend(query, key, value, self.parts, scale, kernel=kernel, prompts=prompts)
        else:
            output = self._read(query, key, value, scale, kernel)
        return output.transpose(0, 1)[None]

    def _read(self, query: Tensor, key: Tensor, value: Tensor, scale: float, kernel: Kernel) -> Tensor:
        """Attention [R, heads, d] of the tokens that are read."""
        n, size = len(self.prompt_lengths), self.prompt_size
        prompts = key[:size], value[:size]
        output = merge.attend(query[:n], *prompts, self._ends, scale, kernel=kernel)
        if len(query) == n:
            return output
        rest = query[n:], key[size:], value[size:]
        return torch.cat([output, merge.attend(*rest, self._behind, scale, kernel=kernel, prompts=prompts)])

    def _by_group(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        held: KeysValues | None,
        scale: float,
        window: int,
        *,
        reading: bool,
    ) -> Tensor:
        """As `attend`, each prompt with its completions by itself."""
        found = []
        for group in self._groups:
            keys, values = key[:, :, group.places], value[:, :, group.places]
            if held is not None:
                keys, values = (
                    torch.cat([x[:, :, group.prompt], own], dim=2)
                    for x, own in zip(held, (keys, values), strict=True)
                )
            mask, places = group.layout.mask(window), group.places
            if reading:
                places, reads = group.read, group.layout.reads
                mask = mask if reads is None else mask[:, :, reads]
            found.append(_masked(query[:, :, places], keys, values, mask, scale))
        order = torch.cat([group.read if reading else group.places for group in self._groups]).argsort()
        return torch.cat(found, dim=2)[:, :, order]

    @cached_property
    def _groups(self) -> "list[_Group]":
        found, prompt, behind = [], 0, 0 if self.prompts is not None else self.prompt_size
        read = len(self.prompt_lengths)
        for number, length in enumerate(self.prompt_lengths):
            pairs = zip(self.completion_lengths, self.completion_prompts, strict=True)
            lengths = tuple(fed for fed, owner in pairs if owner == number)
            in_row = length if self.prompts is None else 0
            own = sum(lengths)
            layout = replace(
                self,
                prompt_lengths=(length,),
                completion_lengths=lengths,
                completion_prompts=(0,) * len(lengths),
                captured=None,
            )
            found.append(
                _Group(
                    places=self._places([*range(prompt, prompt + in_row), *range(behind, behind + own)]),
                    read=self._places([number, *range(read, read + own)]),
                    prompt=slice(prompt, prompt + length),
                    layout=layout,
                )
            )
            prompt, behind, read = prompt + length, behind + own, read + own
        return found

    def _places(self, places: list[int]) -> Tensor:
        return torch.tensor(places, dtype=torch.long, device=self.device)


@dataclass(frozen=True, kw_only=True)
class _Group:
    """A prompt with its completions, as a part of a row."""

    places: Tensor
    """Their tokens in the row, Int [S]."""
    read: Tensor
    """Those that are read, among all that are, Int [R]."""
    prompt: slice
    """The prompt's tokens among those of all prompts."""
    layout: PackedLayout
    """That of these tokens alone."""


def _masked(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scale: float) -> Tensor:
    """Attention [1, heads, S, d] under a mask."""
    repeat = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(repeat, 1), value.repeat_interleave(repeat, 1)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale)


def _by_token(x: Tensor) -> Tensor:
    """[1, heads, S, d] as [S, heads, d]."""
    return x[0].transpose(0, 1)
