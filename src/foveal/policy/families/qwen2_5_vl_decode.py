"""Qwen2.5-VL's text layers on one token a row, with few calls: merged weights, one rotary table."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foveal.policy.decode import DecodeCache
from foveal.policy.linears import FixedLinear, Linears, plain_linear
from foveal.policy.norms import FixedNorm
from foveal.policy.products import FixedRecord, ProductRecord, RunningRecord


@dataclass(frozen=True, kw_only=True)
class _Layer:
    """Weights of one layer; queries come out scaled."""

    before: FixedNorm
    qkv: FixedLinear
    out: FixedLinear
    after: FixedNorm
    gate_up: FixedLinear
    down: FixedLinear


class MergedDecoder:
    """Copies of a layer's query, key and value weights, and of gate and up, as one matrix each.

    The copies are those of the moment: they are made anew once weights have changed. Text behind a prompt has
    the same position in all rows of M-RoPE, so its rotary table is that of one row.
    """

    keeps_shapes = True

    def __init__(self, text: Any, linears: Linears) -> None:  # noqa: ANN401
        config = text.config
        self.heads: int = config.num_attention_heads
        self.kv_heads: int = config.num_key_value_heads
        self.width: int = config.hidden_size // self.heads
        self.inner: int = config.intermediate_size
        frequencies = text.rotary_emb.inv_freq.float()
        self.inverse = torch.cat([frequencies, frequencies])
        self.rotary_scale: float = text.rotary_emb.attention_scaling
        self.signs = torch.full_like(self.inverse, self.rotary_scale)
        self.signs[: len(frequencies)].neg_()
        self.epsilon: float = config.rms_norm_eps
        self.weight: Tensor = text.norm.weight.detach()
        self.last = FixedNorm(self.weight, self.epsilon)
        self.layers = [self._layer(layer, linears) for layer in text.layers]

    @staticmethod
    def fits(text: Any) -> bool:  # noqa: ANN401
        """Whether the layers are those that this knows: plain linear ones, biases where they are expected."""
        for layer in text.layers:
            attention, mlp = layer.self_attn, layer.mlp
            biased = (attention.q_proj, attention.k_proj, attention.v_proj)
            bare = (attention.o_proj, mlp.gate_proj, mlp.up_proj, mlp.down_proj)
            if not all(plain_linear(module) for module in (*biased, *bare)):
                return False
            if any(m.bias is None for m in biased) or any(m.bias is not None for m in bare):
                return False
        return bool(text.config.hidden_act == "silu")

    def __call__(self, embeddings: Tensor, positions: Tensor, cache: DecodeCache) -> Tensor:
        """See `foveal.policy.decode.Decoder`."""
        heads, kv, width, half = self.heads, self.kv_heads, self.width, self.width // 2
        cos, sin = self._rotary(positions, embeddings.dtype)
        states = embeddings
        for number, layer in enumerate(self.layers):
            made = {"input": states} if number == 0 else {}
            found = made["qkv"] = layer.qkv(layer.before(states))
            found = found.view(-1, heads + 2 * kv, width)
            turned = found[:, : heads + kv]
            swapped = torch.cat((turned[..., half:], turned[..., :half]), dim=-1)
            turned = torch.addcmul(turned * cos, swapped, sin)
            found = cache.attend(number, turned[:, :heads], turned[:, heads:], found[:, heads + kv :])
            found = made["attention"] = found.view(len(states), -1)
            states = made["attended"] = layer.out.added(states, found)
            found = made["gate_up"] = layer.gate_up(layer.after(states))
            gate, up = found.chunk(2, dim=-1)
            states = made["output"] = layer.down.added(states, F.silu(gate).mul_(up))
            if cache.products is not None:
                cache.products.put(number, made)
        return self.last(states)

    def record(self, rows: int, length: int, *, fixed: bool) -> ProductRecord:
        """See `foveal.policy.decode.Decoder`. `qkv`: queries (scaled), keys and values before they are
        rotated; `attention`: what it gives; `gate_up`; `attended` and `output`: the states with attention's
        projected, and the MLP's, added; `input` of the first layer: the embeddings.
        """
        hidden, mixed = len(self.weight), self.heads * self.width
        sizes = {
            "qkv": mixed + 2 * self.kv_heads * self.width,
            "attention": mixed,
            "attended": hidden,
            "gate_up": 2 * self.inner,
            "output": hidden,
        }
        return (FixedRecord if fixed else RunningRecord)(
            {n: {"input": hidden} | sizes if n == 0 else sizes for n in range(len(self.layers))},
            rows=rows,
            length=length,
            like=self.weight,
        )

    def _rotary(self, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Cosines and signed sines [B, 1, d]: x turns to x cos + swapped(x) sin."""
        angles = positions[:, None, None] * self.inverse
        return (angles.cos() * self.rotary_scale).to(dtype), (angles.sin() * self.signs).to(dtype)

    def _layer(self, layer: Any, linears: Linears) -> _Layer:  # noqa: ANN401
        attention, mlp, scale = layer.self_attn, layer.mlp, layer.self_attn.scaling
        parts: tuple[nn.Linear, ...] = (attention.q_proj, attention.k_proj, attention.v_proj)
        factors = (scale, 1.0, 1.0)
        return _Layer(
            before=FixedNorm(layer.input_layernorm.weight, self.epsilon),
            qkv=FixedLinear(
                torch.cat([m.weight * factor for m, factor in zip(parts, factors, strict=True)]),
                torch.cat([m.bias * factor for m, factor in zip(parts, factors, strict=True)]),
                linears,
            ),
            out=FixedLinear(attention.o_proj.weight, None, linears),
            after=FixedNorm(layer.post_attention_layernorm.weight, self.epsilon),
            gate_up=FixedLinear(torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight]), None, linears),
            down=FixedLinear(mlp.down_proj.weight, None, linears),
        )
