"""Decoding, one token of each completion at a time: the cache in which a prompt's keys are held once a group,
and what runs the text layers on it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from foveal.policy.attention import Layout


class Decoder(Protocol):
    """The text layers on one new token of each row."""

    def __call__(self, embeddings: Tensor, positions: Tensor, cache: "DecodeCache") -> Tensor:
        """Last hidden states [B, H] of embeddings [B, H] at positions [B]; their keys go into the cache."""
        ...


class Hidden(Protocol):
    """`Family.hidden` of a model."""

    def __call__(self, embeddings: Tensor, positions: Tensor, layout: Layout) -> Tensor:
        """Last hidden states [S, H] of embeddings [S, H] at positions [rows, S]."""
        ...


@dataclass(frozen=True, kw_only=True)
class LayerDecoder:
    """The model's own layers: right for every family, with the calls of a whole forward a token."""

    hidden: Hidden
    axes: int
    """Rows of a position."""

    def __call__(self, embeddings: Tensor, positions: Tensor, cache: "DecodeCache") -> Tensor:
        """See `Decoder`."""
        return self.hidden(embeddings, positions.expand(self.axes, -1), _Rows(cache))


@dataclass(frozen=True)
class _Rows:
    """The cache as the layout of a row [1, heads, B, d]."""

    cache: "DecodeCache"

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Attention output [1, heads, B, d]."""
        query, key, value = (x[0].transpose(0, 1) for x in (query * scale, key, value))
        return self.cache.attend(layer, query, key, value).transpose(0, 1)[None]


@dataclass
class DecodeCache:
    """Keys and values of N prompts, each once, and of the B = N G completions after them.

    The completions of a prompt are adjacent. A layer's own keys lie as [N, kv_heads, G, T, d], so that
    queries over the prompt and over the completion itself are one matrix product each and no key is copied.
    """

    groups: int
    group_size: int
    prefix: Mapping[int, tuple[Tensor, Tensor]]
    """A layer's prompt keys and values [N, kv_heads, P, d], padded on the right."""
    prefix_bias: Tensor | None
    """[N, 1, 1, 1, P]: 0 on prompt tokens, -inf on padding; None where there is no padding."""
    own: Mapping[int, tuple[Tensor, Tensor]]
    """A layer's own keys and values [N, kv_heads, G, T, d]; what lies behind `step` is not set."""
    step: int = 0
    """Place of the new token in its completion."""

    @classmethod
    def of(
        cls,
        captured: Mapping[int, tuple[Tensor, Tensor]],
        prompt_lengths: tuple[int, ...],
        *,
        group_size: int,
        length: int,
    ) -> "DecodeCache":
        """From a prefill's keys and values [1, kv_heads, S, d] of all prompts in one row."""
        n, longest = len(prompt_lengths), max(prompt_lengths)
        sample = next(iter(captured.values()))[0]
        lengths = torch.tensor(prompt_lengths, device=sample.device)
        starts = lengths.cumsum(0) - lengths
        order = torch.arange(longest, device=sample.device)
        valid = order[None] < lengths[:, None]
        index = (starts[:, None] + order[None] * valid).reshape(-1)
        bias = None
        if min(prompt_lengths) < longest:
            bias = torch.zeros(n, 1, 1, 1, longest, device=sample.device, dtype=sample.dtype)
            bias.masked_fill_(~valid[:, None, None, None, :], -torch.inf)

        def split(x: Tensor) -> Tensor:
            return x[0][:, index].view(x.shape[1], n, longest, x.shape[3]).transpose(0, 1).contiguous()

        def empty(x: Tensor) -> Tensor:
            return x.new_empty(n, x.shape[1], group_size, length, x.shape[3])

        return cls(
            groups=n,
            group_size=group_size,
            prefix={layer: (split(k), split(v)) for layer, (k, v) in captured.items()},
            prefix_bias=bias,
            own={layer: (empty(k), empty(v)) for layer, (k, v) in captured.items()},
        )

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attention [B, heads, d] of scaled queries [B, heads, d] over the prompt and the tokens so far.

        key, value: [B, kv_heads, d] of the new token; they are stored.
        """
        n, g, kv, width = self.groups, self.group_size, key.shape[1], key.shape[2]
        repeat, size = query.shape[1] // kv, self.step + 1
        own_keys, own_values = self.own[layer]
        own_keys[:, :, :, self.step] = key.view(n, g, kv, width).transpose(1, 2)
        own_values[:, :, :, self.step] = value.view(n, g, kv, width).transpose(1, 2)
        own_keys = own_keys[:, :, :, :size].view(n * kv * g, size, width)
        own_values = own_values[:, :, :, :size].view(n * kv * g, size, width)
        prefix_keys, prefix_values = (x.flatten(0, 1) for x in self.prefix[layer])
        longest = prefix_keys.shape[1]
        rows = query.view(n, g, kv, repeat, width).transpose(1, 2).reshape(n * kv, g * repeat, width)
        to_prefix = torch.bmm(rows, prefix_keys.transpose(1, 2)).view(n, kv, g, repeat, longest)
        if self.prefix_bias is not None:
            to_prefix = to_prefix + self.prefix_bias
        rows = rows.view(n * kv * g, repeat, width)
        to_own = torch.bmm(rows, own_keys.transpose(1, 2))
        weights = torch.softmax(torch.cat([to_prefix.view(-1, repeat, longest), to_own], dim=-1), dim=-1)
        from_prefix = torch.bmm(weights[..., :longest].view(n * kv, g * repeat, longest), prefix_values)
        output = torch.bmm(weights[..., longest:], own_values).add_(from_prefix.view(-1, repeat, width))
        output = output.view(n, kv, g, repeat, width).transpose(1, 2)
        return output.reshape(n * g, kv * repeat, width)

    def keep(self, groups: Tensor, members: Tensor) -> "DecodeCache":
        """The cache of some completions: groups Int [n], and members Int [n, g] of each of them."""

        def chosen(x: Tensor) -> Tensor:
            kept = x.new_empty(len(groups), x.shape[1], members.shape[1], *x.shape[3:])
            kept[:, :, :, : self.step + 1] = x[groups[:, None], :, members, : self.step + 1].transpose(1, 2)
            return kept

        return replace(
            self,
            groups=len(groups),
            group_size=members.shape[1],
            prefix={layer: (k[groups], v[groups]) for layer, (k, v) in self.prefix.items()},
            prefix_bias=None if self.prefix_bias is None else self.prefix_bias[groups],
            own={layer: (chosen(k), chosen(v)) for layer, (k, v) in self.own.items()},
        )
