"""Attention of a packed row: every prompt once, and the completions of its group attending to it.

A packed row is `[p1 .. pn][c11 .. cnG]`, ragged and without padding. Each completion token sees its own
prompt and its own completion up to itself. The layers of the model call `shared_attention`, which hands
queries, keys and values to the layout of the row; without a layout it is the ordinary scaled-dot-product
attention, so that `generate` works.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Any, Literal, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from foveal.policy import segments
from foveal.policy.segments import Flash, RowParts, Tiled

SHARED = "foveal_shared"
"""Name under which the text model's attention is registered."""

WINDOWS = "foveal_flash_windows"
"""Name of the vision tower's attention; "flash" makes transformers hand over all windows in one call."""

AttentionPath = Literal["split", "flash", "tiled", "dense"]

SLACK = 1.125
"""Segments whose lengths differ by at most this factor are padded to one length and run in one call."""


class Layout(Protocol):
    """Where the tokens of a row belong; computes attention for one layer."""

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Attention [1, heads, S, d] of queries [1, heads, S, d] over keys and values [1, kv_heads, S, d]."""
        ...


def shared_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    layout: Layout | None = None,
    **kwargs: Any,  # noqa: ANN401
) -> tuple[Tensor, None]:
    """The text layers' attention function; the signature is that of transformers' attention interface."""
    if layout is None:
        output, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **kwargs
        )
        return output, None
    return layout.attend(cast(int, module.layer_idx), query, key, value, scaling).transpose(1, 2), None


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


AttentionInterface.register(SHARED, shared_attention)
AttentionMaskInterface.register(SHARED, sdpa_mask)
AttentionInterface.register(WINDOWS, window_attention)


@dataclass(frozen=True, kw_only=True)
class PackedLayout:
    """The row `[p1 .. pn][c1 .. cB]` and its attention, computed by one of four exact ways.

    `split`: prompt-causal, completion-to-own-prompt and completion-causal parts by the CPU's flash kernels,
    merged by log-sum-exp: no mask, no pair of tokens that cannot see each other is multiplied, prompt keys
    are never copied for a completion.
    `flash`, `tiled`: the same parts as ragged segments, by CUDA's flash kernels in 16-bit numbers or in plain
    torch (`foveal.policy.segments`).
    `dense`: one masked call, which needs memory with the square of the row: the reference of the tests.

    `completion_lengths` are the tokens that are fed (the last token of a completion predicts nothing),
    grouped by prompt: `completion_prompts` must not decrease.
    """

    prompt_lengths: tuple[int, ...]
    completion_lengths: tuple[int, ...]
    completion_prompts: tuple[int, ...]
    device: torch.device
    path: AttentionPath = "split"
    captured: dict[int, tuple[Tensor, Tensor]] | None = field(default=None)
    """When a dict, the prompts' keys and values of each layer are put there (the sampler's prefill)."""

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
    def prompt_parts(self) -> "list[Ragged]":
        """The prompts within the row, those of about one length together."""
        return _side_by_side(self.prompt_lengths, offset=0, device=self.device)

    @cached_property
    def completion_parts(self) -> "list[Ragged]":
        """The completions within the row, those of about one length together."""
        return _side_by_side(self.completion_lengths, offset=self.prompt_size, device=self.device)

    @cached_property
    def group_parts(self) -> "list[tuple[Ragged, Ragged]]":
        """(completion tokens, prompts) of groups with prompts of one length and about as many tokens; each
        non-empty group once."""
        tokens = [0] * len(self.prompt_lengths)
        for prompt, length in zip(self.completion_prompts, self.completion_lengths, strict=True):
            tokens[prompt] += length
        starts, prompt_starts = [self.prompt_size], [0]
        for count, length in zip(tokens, self.prompt_lengths, strict=True):
            starts.append(starts[-1] + count)
            prompt_starts.append(prompt_starts[-1] + length)
        found: dict[int, list[int]] = {}
        for index, length in enumerate(self.prompt_lengths):
            if tokens[index]:
                found.setdefault(length, []).append(index)
        return [
            (
                Ragged.at([starts[i] for i in members], [tokens[i] for i in members], device=self.device),
                Ragged.at([prompt_starts[i] for i in members], [length] * len(members), device=self.device),
            )
            for length, owners in found.items()
            for members in _alike(owners, tokens)
        ]

    @cached_property
    def parts(self) -> RowParts:
        """The row as two ragged calls."""
        return RowParts.of(
            self.prompt_lengths, self.completion_lengths, self.completion_prompts, device=self.device
        )

    @cached_property
    def dense_mask(self) -> Tensor:
        """Bool [1, 1, S, S], True where a token may look."""
        n = len(self.prompt_lengths)
        counts = torch.tensor(self.prompt_lengths + self.completion_lengths, device=self.device)
        segment = torch.repeat_interleave(torch.arange(len(counts), device=self.device), counts)
        owner = torch.tensor((*range(n), *self.completion_prompts), device=self.device)[segment]
        order = torch.arange(len(segment), device=self.device)
        causal = order[:, None] >= order[None, :]
        same = segment[:, None] == segment[None, :]
        prefix = (segment[None, :] < n) & (owner[:, None] == owner[None, :])
        return (causal & (same | prefix))[None, None]

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Attention output [1, heads, S, d]."""
        if self.captured is not None:
            size = self.prompt_size
            self.captured[layer] = (key[:, :, :size].detach(), value[:, :, :size].detach())
        if self.path in ("flash", "tiled"):
            kernel = Flash() if self.path == "flash" else Tiled()
            query, key, value = (x[0].transpose(0, 1) for x in (query, key, value))
            output = segments.attend(query, key, value, self.parts, scale, kernel=kernel)
            return output.transpose(0, 1)[None]
        repeat = query.shape[1] // key.shape[1]
        if repeat > 1:
            key, value = key.repeat_interleave(repeat, 1), value.repeat_interleave(repeat, 1)
        if self.path == "dense":
            return F.scaled_dot_product_attention(query, key, value, attn_mask=self.dense_mask, scale=scale)
        return cast(Tensor, _SplitAttention.apply(query, key, value, self, scale))  # type: ignore[no-untyped-call]


def _alike(members: Sequence[int], lengths: Sequence[int]) -> list[list[int]]:
    """The members in parts whose longest is at most `SLACK` times their shortest, each in order: padding is
    multiplied too."""
    parts: list[list[int]] = []
    shortest = 0
    for member in sorted(members, key=lambda m: lengths[m]):
        if not parts or lengths[member] > SLACK * shortest:
            parts.append([])
            shortest = lengths[member]
        parts[-1].append(member)
    return [sorted(part) for part in parts]


def _side_by_side(lengths: Sequence[int], *, offset: int, device: torch.device) -> "list[Ragged]":
    """Adjacent segments from `offset`, in parts of about one length; empty ones are left out."""
    starts = [offset, *(offset + end for end in accumulate(lengths))]
    whole = [index for index, length in enumerate(lengths) if length]
    return [
        Ragged.at([starts[i] for i in part], [lengths[i] for i in part], device=device)
        for part in _alike(whole, lengths)
    ]


@dataclass(frozen=True, kw_only=True)
class Ragged:
    """Segments of the row as a padded [n, longest] index; padding points at the segment's first token."""

    index: Tensor
    valid: Tensor
    even: bool
    """All segments have one length: nothing is padded."""
    start: int | None
    """First token of even segments that lie side by side: they are a view of the row, nothing is copied."""

    @staticmethod
    def at(starts: list[int], lengths: list[int], *, device: torch.device) -> "Ragged":
        """Segments given by their first token and length."""
        first = torch.tensor(starts, device=device, dtype=torch.long)[:, None]
        size = torch.tensor(lengths, device=device, dtype=torch.long)[:, None]
        order = torch.arange(max(lengths, default=0), device=device)[None]
        valid = order < size
        even = len(set(lengths)) <= 1
        adjacent = even and all(b - a == lengths[0] for a, b in pairwise(starts))
        return Ragged(
            index=first + order * valid,
            valid=valid,
            even=even,
            start=starts[0] if adjacent and starts else None,
        )

    def gather(self, x: Tensor) -> Tensor:
        """[1, heads, S, d] as [n, heads, longest, d]."""
        if self.start is not None:
            return self._view(x, self.start)
        n, longest = self.index.shape
        flat = x[0].index_select(1, self.index.reshape(-1))
        return flat.view(x.shape[1], n, longest, x.shape[3]).transpose(0, 1)

    def _view(self, x: Tensor, start: int) -> Tensor:
        n, longest = self.index.shape
        part = x[0, :, start : start + n * longest]
        return part.view(x.shape[1], n, longest, x.shape[3]).transpose(0, 1)

    def gather_filled(self, x: Tensor, fill: float) -> Tensor:
        """As `gather`, `fill` on padding."""
        found = self.gather(x)
        return found if self.even else found.masked_fill(~self.valid[:, None, :, None], fill)

    def add_to(self, total: Tensor, part: Tensor) -> None:
        """Add [n, heads, longest, d] to `total` [1, heads, S, d] in place; padding is left out."""
        if self.start is not None:
            self._view(total, self.start).add_(part)
            return
        flat = part.transpose(0, 1).reshape(part.shape[1], -1, part.shape[3])
        if self.even:
            total[0].index_add_(1, self.index.reshape(-1), flat)
        else:
            keep = self.valid.reshape(-1)
            total[0].index_add_(1, self.index.reshape(-1)[keep], flat[:, keep])


_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


class _SplitAttention(torch.autograd.Function):
    """Attention of a packed row from its three parts.

    Each part gives an output o_i and a log-sum-exp s_i; with s = log sum_i e^{s_i} the whole is
    o = sum_i e^{s_i - s} o_i. The backward of a part is the flash backward given the merged o and s: its
    probabilities e^{qk - s} and its delta = sum(do * o) are then those of the whole row, so the gradient is
    exact.
    """

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        layout: PackedLayout,
        scale: float,
    ) -> Tensor:
        output = torch.zeros_like(query)
        total = query.new_zeros(
            (*query.shape[:3], 1), dtype=torch.float64 if query.dtype == torch.float64 else torch.float32
        )
        size = layout.prompt_size
        for rows in (*layout.prompt_parts, *layout.completion_parts):
            part, lse = _flash(*(rows.gather(x) for x in (query, key, value)), 0.0, True, scale=scale)
            rows.add_to(output, part)
            rows.add_to(total, lse[..., None])
        if layout.completion_parts:
            prefix, prefix_lse = torch.zeros_like(output), torch.zeros_like(total)
            for rows, keys in layout.group_parts:
                part, lse = _flash(
                    rows.gather(query), keys.gather(key), keys.gather(value), 0.0, False, scale=scale
                )
                rows.add_to(prefix, part)
                rows.add_to(prefix_lse, lse[..., None])
            own_lse, prefix_lse = total[:, :, size:], prefix_lse[:, :, size:]
            merged = torch.logaddexp(own_lse, prefix_lse)
            output[:, :, size:] *= torch.exp(own_lse - merged).to(output.dtype)
            output[:, :, size:] += prefix[:, :, size:] * torch.exp(prefix_lse - merged).to(output.dtype)
            total[:, :, size:] = merged
        ctx.save_for_backward(query, key, value, output, total)
        ctx.layout, ctx.scale = layout, scale  # type: ignore[attr-defined]
        return output

    @staticmethod
    def backward(
        ctx: torch.autograd.function.FunctionCtx, grad: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, None, None]:
        query, key, value, output, total = ctx.saved_tensors  # type: ignore[attr-defined]
        layout, scale = ctx.layout, ctx.scale  # type: ignore[attr-defined]
        grads = [torch.zeros_like(x) for x in (query, key, value)]
        parts = [(rows, rows, True) for rows in (*layout.prompt_parts, *layout.completion_parts)]
        parts += [(rows, keys, False) for rows, keys in layout.group_parts]
        for rows, keys, causal in parts:
            # A padded query has probability e^{qk - inf} = 0 everywhere: with a log-sum-exp that is not its
            # own the exponential can overflow, and infinity times its zero gradient is not a number.
            found = _flash_backward(
                rows.gather_filled(grad, 0.0),
                rows.gather(query),
                keys.gather(key),
                keys.gather(value),
                rows.gather(output),
                rows.gather_filled(total, torch.inf)[..., 0].contiguous(),
                0.0,
                causal,
                scale=scale,
            )
            for total_grad, part, where in zip(grads, found, (rows, keys, keys), strict=True):
                where.add_to(total_grad, part)
        return grads[0], grads[1], grads[2], None, None
