"""Decoding, one token of each completion at a time: the cache in which a prompt's keys are held once a group,
and what runs the text layers on it."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar, Protocol, Self

import torch
from torch import Tensor

from foveal.policy.attention import Layout
from foveal.policy.products import ProductRecord


class Decoder(Protocol):
    """The text layers on one new token of each row."""

    @property
    def keeps_shapes(self) -> bool:
        """Whether all of it can be recorded in a graph of the device: nothing waits for a value."""
        ...

    def record(self, rows: int, length: int, *, fixed: bool) -> ProductRecord | None:
        """A record for its linear layers' products of so many completions, each fed at most `length` tokens,
        for steps that a graph may hold where `fixed`; None where these are no use to an update."""
        ...

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

    keeps_shapes: ClassVar[bool] = False

    def record(self, rows: int, length: int, *, fixed: bool) -> None:
        """Nothing is recorded: layers that are not plain linear ones make their products themselves."""

    def __call__(self, embeddings: Tensor, positions: Tensor, cache: "DecodeCache") -> Tensor:
        """See `Decoder`."""
        return self.hidden(embeddings, positions.expand(self.axes, -1), _Rows(cache))


@dataclass(frozen=True)
class _Rows:
    """The cache as the layout of a row [1, heads, B, d]."""

    cache: "DecodeCache"
    reads: ClassVar[None] = None

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Attention output [1, heads, B, d]."""
        query, key, value = (x[0].transpose(0, 1) for x in (query * scale, key, value))
        return self.cache.attend(layer, query, key, value).transpose(0, 1)[None]


@dataclass(kw_only=True)
class DecodeCache:
    """Keys and values of N prompts, each once, and of the N G completions after them.

    The completions of a prompt are adjacent. A layer's own keys lie as [N, kv_heads, G, T, d], so that
    queries over the prompt and over the completion itself are one matrix product each and no key is copied.
    """

    groups: int
    group_size: int
    prefix: Mapping[int, tuple[Tensor, Tensor]]
    """A layer's prompt keys and values [N, kv_heads, P, d], padded on the right."""
    prefix_bias: Tensor | None
    """[N, 1, 1, 1, P]: 0 on prompt tokens, -inf on padding; None where there is no padding."""
    lengths: Tensor
    """Tokens of each prompt [N]."""
    own: Mapping[int, tuple[Tensor, Tensor]]
    """A layer's own keys and values [N, kv_heads, G, T, d]; what lies behind `step` is not set."""
    step: int = 0
    """Place of the new token in its completion."""
    own_bias: Tensor | None = None
    """[T], added to scores over own keys; None where all that are read are set."""
    windows: tuple[int | None, ...] = ()
    """How far each layer looks back, as `Family.windows`; empty where none is bounded."""
    slots: Tensor | None = None
    """Which of the N G completions are fed, Int [B]; None: all. Only attention runs on all of them then."""
    products: ProductRecord | None = None
    """Where products of linear layers are recorded, if at all."""
    _views: dict[int, tuple[Tensor, Tensor, Tensor, Tensor]] = field(default_factory=dict, init=False)

    @classmethod
    def of(
        cls,
        captured: Mapping[int, tuple[Tensor, Tensor]],
        prompt_lengths: tuple[int, ...],
        *,
        group_size: int,
        length: int,
        windows: tuple[int | None, ...] = (),
    ) -> Self:
        """From a prefill's keys and values [1, kv_heads, S, d] of all prompts in one row; room for `length`
        tokens a completion. A window that no sequence can fill is none."""
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
            return cls._room(x, n, x.shape[1], group_size, length, x.shape[3])

        return cls(
            groups=n,
            group_size=group_size,
            prefix={layer: (split(k), split(v)) for layer, (k, v) in captured.items()},
            prefix_bias=bias,
            own={layer: (empty(k), empty(v)) for layer, (k, v) in captured.items()},
            lengths=lengths,
            windows=tuple(None if w is None or w >= longest + length else w for w in windows),
        )

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attention [B, heads, d] of scaled queries [B, heads, d] over the prompt and the tokens so far.

        key, value: [B, kv_heads, d] of the new token; they are stored.
        """
        n, g, kv, width = self.groups, self.group_size, key.shape[1], key.shape[2]
        repeat = query.shape[1] // kv
        if self.slots is not None:
            query, key, value = (
                x.new_zeros(n * g, *x.shape[1:]).index_copy_(0, self.slots, x) for x in (query, key, value)
            )
        for x, new in zip(self.own[layer], (key, value), strict=True):
            self._store(x, new.view(n, g, kv, width).transpose(1, 2))
        prefix_keys, prefix_values, own_keys, own_values = self._flat(layer)
        own_keys, own_values = own_keys[:, : self.seen], own_values[:, : self.seen]
        longest = prefix_values.shape[1]
        rows = query.view(n, g, kv, repeat, width).transpose(1, 2).reshape(n * kv, g * repeat, width)
        to_prefix = torch.bmm(rows, prefix_keys).view(n, kv, g, repeat, longest)
        prefix_bias, own_bias = self._biases(layer)
        if prefix_bias is not None:
            to_prefix = to_prefix + prefix_bias
        rows = rows.view(n * kv * g, repeat, width)
        to_own = torch.bmm(rows, own_keys.transpose(1, 2))
        if own_bias is not None:
            to_own = to_own + own_bias[: to_own.shape[-1]]
        weights = torch.softmax(torch.cat([to_prefix.view(-1, repeat, longest), to_own], dim=-1), dim=-1)
        from_prefix = torch.bmm(weights[..., :longest].view(n * kv, g * repeat, longest), prefix_values)
        output = torch.bmm(weights[..., longest:], own_values).add_(from_prefix.view(-1, repeat, width))
        output = output.view(n, kv, g, repeat, width).transpose(1, 2)
        output = output.reshape(n * g, kv * repeat, width)
        return output if self.slots is None else output.index_select(0, self.slots)

    def _biases(self, layer: int) -> tuple[Tensor | None, Tensor | None]:
        """What is added to scores over the prompt [N, 1, 1, 1, P] and over own keys [T]: -inf on what the new
        token does not see."""
        window = self.windows[layer] if self.windows else None
        if window is None:
            return self.prefix_bias, self.own_bias
        keys, values = self.prefix[layer][0], self.own[layer][0]
        here = self._place()
        order = torch.arange(keys.shape[2], device=keys.device)
        behind = self.lengths[:, None] + here - order >= window
        prefix = _hiding(self.prefix_bias, behind[:, None, None, None], keys)
        order = torch.arange(values.shape[3], device=values.device)
        return prefix, _hiding(self.own_bias, here - order >= window, keys)

    def _place(self) -> int | Tensor:
        """Place of the new token in its completion."""
        return self.step

    @property
    def seen(self) -> int:
        """Places of own keys that are read."""
        return self.step + 1

    def _store(self, x: Tensor, new: Tensor) -> None:
        """Put the new token's [N, kv_heads, G, d] into [N, kv_heads, G, T, d]."""
        x[:, :, :, self.step] = new

    def _flat(self, layer: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The prompts' keys [N kv_heads, d, P] and values [N kv_heads, P, d], own keys and values
        [N kv_heads G, T, d]: views that are made once."""
        found = self._views.get(layer)
        if found is None:
            keys, values = (x.view(-1, *x.shape[2:]) for x in self.prefix[layer])
            own_keys, own_values = (x.view(-1, *x.shape[3:]) for x in self.own[layer])
            found = keys.transpose(1, 2), values, own_keys, own_values
            self._views[layer] = found
        return found

    @staticmethod
    def _room(x: Tensor, *size: int) -> Tensor:
        """Memory for own keys or values of the kind of `x`; only what is set is read."""
        return x.new_empty(size)

    def keep(self, groups: Tensor, members: Tensor) -> Self:
        """The cache of some completions: groups Int [n], and members Int [n, g] of each of them."""

        def chosen(x: Tensor) -> Tensor:
            kept = self._room(x, len(groups), x.shape[1], members.shape[1], *x.shape[3:])
            kept[:, :, :, : self.step + 1] = x[groups[:, None], :, members, : self.step + 1].transpose(1, 2)
            return kept

        return replace(
            self,
            groups=len(groups),
            group_size=members.shape[1],
            prefix={layer: (k[groups], v[groups]) for layer, (k, v) in self.prefix.items()},
            prefix_bias=None if self.prefix_bias is None else self.prefix_bias[groups],
            lengths=self.lengths[groups],
            slots=None,
            own={layer: (chosen(k), chosen(v)) for layer, (k, v) in self.own.items()},
        )


@dataclass(kw_only=True)
class FixedCache(DecodeCache):
    """The same cache in shapes and at addresses that stay from token to token, so that a graph of the device
    can hold its use: `size` places of own keys are read, and those behind the new token are masked.
    """

    step: int = -1
    """What the host knows of the new token's place; a new cache starts behind it."""
    size: int = 0
    """At least one more than the new token's place."""

    def __post_init__(self) -> None:
        sample = next(iter(self.own.values()))[0]
        self.place = torch.full((1,), self.step, device=sample.device)
        self._order = torch.arange(sample.shape[3], device=sample.device)
        self._bias = self.own_bias = sample.new_zeros(sample.shape[3])

    def advance(self) -> None:
        """On to the next token's place."""
        self.place.add_(1)
        self._bias.zero_().masked_fill_(self._order > self.place, -torch.inf)

    def _place(self) -> Tensor:
        return self.place

    @property
    def seen(self) -> int:
        """See `DecodeCache.seen`."""
        return self.size

    def _store(self, x: Tensor, new: Tensor) -> None:
        x.index_copy_(3, self.place, new.unsqueeze(3))

    @staticmethod
    def _room(x: Tensor, *size: int) -> Tensor:
        # A weight of 0 hides a number that is not set, but not a NaN.
        return x.new_zeros(size)


def _hiding(bias: Tensor | None, hidden: Tensor, like: Tensor) -> Tensor:
    """A bias, none being 0, with -inf where `hidden`; of the type of `like`."""
    zero = like.new_zeros(()) if bias is None else bias
    return torch.where(hidden, zero.new_full((), -torch.inf), zero)
