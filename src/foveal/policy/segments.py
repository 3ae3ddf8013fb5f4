"""Attention within segments of a row: what a packed row is made of.

Three kernels with one interface. `Padded` hands segments of about one length to the CPU's flash kernels.
`Flash` hands ragged segments to CUDA's, which need 16-bit numbers. `Tiled` is plain torch: any device and
type, a tile of scores in memory at a time.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Protocol

import torch
from torch import Tensor

from foveal.policy.ragged import Ragged, alike

TILE_ELEMENTS = 1 << 26
"""Scores that `Tiled` holds at once (256 MiB in float32)."""


@dataclass(frozen=True, kw_only=True)
class Segments:
    """Adjacent segments of queries, each with the segment of keys that it sees."""

    query_lengths: tuple[int, ...]
    key_lengths: tuple[int, ...]
    causal: bool
    """Query i of a segment sees keys up to i; the two lengths are equal then."""
    device: torch.device

    @cached_property
    def query_ends(self) -> Tensor:
        """Int32 [n + 1]: 0, then where each segment of queries ends."""
        return self._ends(self.query_lengths)

    @cached_property
    def key_ends(self) -> Tensor:
        """Int32 [n + 1]: 0, then where each segment of keys ends."""
        return self._ends(self.key_lengths)

    @cached_property
    def calls(self) -> list[tuple[Ragged, Ragged]]:
        """(queries, keys) of segments of about one length; all keys of a call have one length where queries
        see all of them. Segments without queries are left out."""
        rows, keys = self.query_lengths, self.key_lengths
        row_starts, key_starts = ([0, *accumulate(lengths)] for lengths in (rows, keys))
        found: dict[int, list[int]] = {}
        for index, length in enumerate(keys):
            if rows[index]:
                found.setdefault(0 if self.causal else length, []).append(index)
        return [
            (
                Ragged.at([row_starts[i] for i in part], [rows[i] for i in part], device=self.device),
                Ragged.at([key_starts[i] for i in part], [keys[i] for i in part], device=self.device),
            )
            for members in found.values()
            for part in alike(members, rows)
        ]

    def _ends(self, lengths: tuple[int, ...]) -> Tensor:
        return torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=self.device)

    def tiles(self, scores: int) -> Iterator[tuple[slice, slice, int | None]]:
        """Queries, keys, and how many keys the first query sees beside its own (None: all see all), such that
        a tile has at most `scores` pairs, or one query."""
        queries = pairwise([0, *accumulate(self.query_lengths)])
        keys = pairwise([0, *accumulate(self.key_lengths)])
        for (begin, end), (first, last) in zip(queries, keys, strict=True):
            step = max(1, scores // max(1, last - first))
            for at in range(begin, end, step):
                stop = min(end, at + step)
                if self.causal:
                    yield slice(at, stop), slice(first, first + stop - begin), at - begin
                else:
                    yield slice(at, stop), slice(first, last), None


class Kernel(Protocol):
    """Attention of queries [S, heads, d] over keys and values [K, kv_heads, d], segment by segment."""

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, segments: Segments, scale: float
    ) -> tuple[Tensor, Tensor]:
        """Output [S, heads, d] and log-sum-exp [heads, S] of the scaled scores, at least float32."""
        ...

    def backward(
        self,
        grad: Tensor,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        output: Tensor,
        lse: Tensor,
        segments: Segments,
        scale: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of queries, keys and values, with probabilities exp(score - lse) and delta = sum(grad *
        output): those of the whole row where `lse` and `output` are."""
        ...


class Padded:
    """The CPU's flash kernels on segments that are padded to about one length.

    A padded query has no gradient and, its log-sum-exp being infinite, no probability either: with one that
    is not its own the exponential can overflow, and infinity times a zero gradient is not a number.
    """

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, segments: Segments, scale: float
    ) -> tuple[Tensor, Tensor]:
        """See `Kernel.forward`."""
        size, heads, _ = query.shape
        key, value = _spread(key, heads), _spread(value, heads)
        output = torch.empty_like(query, memory_format=torch.contiguous_format)
        lse = torch.empty(size, heads, 1, dtype=_wide(query.dtype), device=query.device)
        for rows, keys in segments.calls:
            found, total = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
                rows.take(query), keys.take(key), keys.take(value), 0.0, segments.causal, scale=scale
            )
            rows.put(output, found)
            rows.put(lse, total[..., None])
        return output, lse[..., 0].t()

    def backward(
        self,
        grad: Tensor,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        output: Tensor,
        lse: Tensor,
        segments: Segments,
        scale: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See `Kernel.backward`."""
        heads, kv = query.shape[1], key.shape[1]
        key, value = _spread(key, heads), _spread(value, heads)
        grads = [torch.zeros_like(x, memory_format=torch.contiguous_format) for x in (query, key, value)]
        total = lse.t().unsqueeze(-1)
        for rows, keys in segments.calls:
            found = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
                rows.take_filled(grad, 0.0),
                rows.take(query),
                keys.take(key),
                keys.take(value),
                rows.take(output),
                rows.take_filled(total, torch.inf)[..., 0].contiguous(),
                0.0,
                segments.causal,
                scale=scale,
            )
            for where, whole, part in zip((rows, keys, keys), grads, found, strict=True):
                where.put(whole, part)
        return grads[0], _gathered(grads[1], kv), _gathered(grads[2], kv)


class Flash:
    """CUDA's flash kernels on ragged segments; keys are shared by query heads without a copy."""

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, segments: Segments, scale: float
    ) -> tuple[Tensor, Tensor]:
        """See `Kernel.forward`."""
        output, lse, *_ = torch.ops.aten._flash_attention_forward(
            query, key, value, *self._where(segments), 0.0, segments.causal, False, scale=scale
        )
        return output, lse

    def backward(
        self,
        grad: Tensor,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        output: Tensor,
        lse: Tensor,
        segments: Segments,
        scale: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See `Kernel.backward`."""
        # The state of a random generator, for dropout, of which there is none.
        state = torch.zeros(2, dtype=torch.uint64, device=query.device)
        nothing = torch.empty(0, device=query.device)
        grad_query, grad_key, grad_value = torch.ops.aten._flash_attention_backward(
            grad,
            query,
            key,
            value,
            output,
            lse,
            *self._where(segments),
            0.0,
            segments.causal,
            state,
            nothing,
            scale=scale,
        )
        return grad_query, grad_key, grad_value

    def _where(self, segments: Segments) -> tuple[Tensor, Tensor, int, int]:
        # A longest query of 1 makes the kernel swap heads and queries, and its log-sum-exp change its shape.
        longest = max(2, *segments.query_lengths)
        return segments.query_ends, segments.key_ends, longest, max(segments.key_lengths)


class Tiled:
    """Plain torch in at least float32, one tile of scores at a time."""

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, segments: Segments, scale: float
    ) -> tuple[Tensor, Tensor]:
        """See `Kernel.forward`."""
        size, heads, _ = query.shape
        kv = key.shape[1]
        output = torch.empty_like(query)
        lse = torch.empty(heads, size, dtype=_wide(query.dtype), device=query.device)
        for rows, keys, seen in segments.tiles(TILE_ELEMENTS // heads):
            scores = _scores(query[rows], key[keys], scale, seen)
            total = scores.logsumexp(-1, keepdim=True)
            found = torch.bmm((scores - total).exp_(), _by_head(value[keys], kv))
            output[rows] = _by_token(found, heads).to(output.dtype)
            lse[:, rows] = total.view(heads, -1)
        return output, lse

    def backward(
        self,
        grad: Tensor,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        output: Tensor,
        lse: Tensor,
        segments: Segments,
        scale: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See `Kernel.backward`."""
        heads, kv, wide = query.shape[1], key.shape[1], _wide(query.dtype)
        grad_query = torch.empty_like(query)
        grad_key, grad_value = torch.zeros_like(key, dtype=wide), torch.zeros_like(value, dtype=wide)
        for rows, keys, seen in segments.tiles(TILE_ELEMENTS // heads):
            scores = _scores(query[rows], key[keys], scale, seen)
            weights = (scores - lse[:, rows].reshape(kv, -1, 1)).exp_()
            slope = _by_head(grad[rows], kv)
            delta = (slope * _by_head(output[rows], kv)).sum(-1, keepdim=True)
            grad_value[keys] += _by_token(torch.bmm(weights.transpose(1, 2), slope), kv)
            pull = torch.bmm(slope, _by_head(value[keys], kv).transpose(1, 2)).sub_(delta)
            pull = pull.mul_(weights).mul_(scale)
            found = torch.bmm(pull, _by_head(key[keys], kv))
            grad_query[rows] = _by_token(found, heads).to(query.dtype)
            grad_key[keys] += _by_token(torch.bmm(pull.transpose(1, 2), _by_head(query[rows], kv)), kv)
        return grad_query, grad_key.to(key.dtype), grad_value.to(value.dtype)


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _spread(x: Tensor, heads: int) -> Tensor:
    """Keys or values [K, kv_heads, d] for each query head [K, heads, d]."""
    return x if x.shape[1] == heads else x.repeat_interleave(heads // x.shape[1], 1)


def _gathered(x: Tensor, kv: int) -> Tensor:
    """The sum over the query heads [K, heads, d] of a key's or value's head [K, kv_heads, d]."""
    return x if x.shape[1] == kv else x.view(len(x), kv, -1, x.shape[2]).sum(2)


def _by_head(x: Tensor, kv: int) -> Tensor:
    """[n, heads, d] as [kv_heads, heads / kv_heads * n, d], at least float32."""
    n, heads, width = x.shape
    return x.to(_wide(x.dtype)).transpose(0, 1).reshape(kv, heads // kv * n, width)


def _by_token(x: Tensor, heads: int) -> Tensor:
    """The other way round: [kv_heads, repeat * n, d] as [n, heads, d]."""
    return x.reshape(heads, -1, x.shape[-1]).transpose(0, 1)


def _scores(query: Tensor, key: Tensor, scale: float, seen: int | None) -> Tensor:
    """Scaled scores [kv_heads, repeat * n, K], -inf where a query may not look."""
    n, kv = len(query), key.shape[1]
    scores = torch.bmm(_by_head(query, kv), _by_head(key, kv).transpose(1, 2)).mul_(scale)
    if seen is not None:
        hidden = torch.ones(n, len(key), dtype=torch.bool, device=query.device).triu_(seen + 1)
        scores.view(kv, -1, n, len(key)).masked_fill_(hidden, -torch.inf)
    return scores
