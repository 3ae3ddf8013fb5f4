"""Qwen2.5-VL's text layer on a packed row, and its norm."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLDecoderLayer, Qwen2_5_VLRMSNorm

from foveal.policy import norms
from foveal.policy.attention import Layout
from foveal.policy.products import ProductPart


class PackedLayer(Qwen2_5_VLDecoderLayer):  # type: ignore[no-untyped-call]
    """The library's layer, which with a layout runs one packed row [1, S, H].

    The last one gives the states that are read alone ([1, R, H], `Layout.reads`): of the other tokens only
    keys and values matter there, and nothing else of them is computed.
    """

    @staticmethod
    def use(text: Any) -> None:  # noqa: ANN401
        """Make the layers of a text model such ones; names and weights stay."""
        for layer in text.layers:
            layer.__class__ = PackedLayer

    def forward(
        self,
        hidden_states: Tensor,
        *args: Any,  # noqa: ANN401
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        layout: Layout | None = None,
        products: ProductPart | None = None,
        **kwargs: Any,  # noqa: ANN401
    ) -> Tensor:
        """The layer; without a layout the library's own forward, so that `generate` works.

        `products`: what the sampler's decoder has made of the row's last tokens.
        """
        if layout is None or position_embeddings is None:
            kwargs["position_embeddings"] = position_embeddings
            return super().forward(hidden_states, *args, **kwargs)
        attention: Any = self.self_attn
        number, width = attention.layer_idx, attention.head_dim
        last = number == attention.config.num_hidden_layers - 1
        reads = layout.reads if last else None
        cos, sin = (table[0, :, None] for table in position_embeddings)
        states = hidden_states[0]
        known = None if products is None else _Known(products, number, attention, states)
        seen = self.input_layernorm(states)
        project = attention if known is None else known
        key = rotate(project.k_proj(seen).unflatten(-1, (-1, width)), cos, sin)
        value = project.v_proj(seen).unflatten(-1, (-1, width))
        if reads is not None:
            states, seen, cos, sin = (x.index_select(0, reads) for x in (states, seen, cos, sin))
        query = rotate(project.q_proj(seen).unflatten(-1, (-1, width)), cos, sin)
        query, key, value = (x.transpose(0, 1)[None] for x in (query, key, value))
        found = layout.attend(number, query, key, value, attention.scaling)[0].transpose(0, 1).flatten(1)
        if known is not None:
            states = known.attended(found, states)
            return known.output(self.mlp, self.post_attention_layernorm(states), states)[None]
        states = states + attention.o_proj(found)
        output: Tensor = states + self.mlp(self.post_attention_layernorm(states))
        return output[None]


class LeanNorm(Qwen2_5_VLRMSNorm):
    """The library's norm, in fewer passes where it is of the numbers' own type."""

    @staticmethod
    def use(model: nn.Module) -> None:
        """Make the norms of a model such ones, the vision tower's too; names and weights stay."""
        for module in model.modules():
            if type(module) is Qwen2_5_VLRMSNorm:
                module.__class__ = LeanNorm

    def forward(self, hidden_states: Tensor) -> Tensor:
        """The norm of the last axis."""
        if norms.fits(hidden_states, self.weight):
            return norms.rms_norm(hidden_states, self.weight, self.variance_epsilon)
        return super().forward(hidden_states)


class _Known:
    """A layer's linear layers, of whose products the last rows are known from `MergedDecoder`."""

    def __init__(
        self,
        products: ProductPart,
        layer: int,
        attention: Any,  # noqa: ANN401
        states: Tensor,
    ) -> None:
        self.products, self.layer, self.attention = products, layer, attention
        if layer == 0:
            products.compare(layer, "input", states)
        query, kv = attention.q_proj.out_features, attention.k_proj.out_features
        query, self.key, self.value = torch.split(products.take(layer, "qkv"), [query, kv, kv], dim=-1)
        self.query = query / attention.scaling
        # The graph holds values as they are; a part of what was taken would hold queries and keys too.
        self.value = self.value.clone()

    def q_proj(self, x: Tensor) -> Tensor:
        """Queries."""
        return self.products.linear(self.attention.q_proj, x, self.query)

    def k_proj(self, x: Tensor) -> Tensor:
        """Keys."""
        return self.products.linear(self.attention.k_proj, x, self.key)

    def v_proj(self, x: Tensor) -> Tensor:
        """Values."""
        return self.products.linear(self.attention.v_proj, x, self.value)

    def attended(self, x: Tensor, states: Tensor) -> Tensor:
        """The states with the output of attention added."""
        self.products.compare(self.layer, "attention", x)
        known = self.products.take(self.layer, "attended")
        return self.products.linear(self.attention.o_proj, x, known, states)

    def output(self, mlp: Any, x: Tensor, states: Tensor) -> Tensor:  # noqa: ANN401
        """The states with the output of the MLP added."""
        gate, up = self.products.take(self.layer, "gate_up").chunk(2, dim=-1)
        gate = self.products.linear(mlp.gate_proj, x, gate)
        x = mlp.act_fn(gate) * self.products.linear(mlp.up_proj, x, up)
        return self.products.linear(mlp.down_proj, x, self.products.take(self.layer, "output"), states)


PackedLayer.__name__ = Qwen2_5_VLDecoderLayer.__name__
"""By which sharding and device maps find a model's layers."""


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x cos + [-x_2, x_1] sin of x = [x_1, x_2] [S, heads, d]; both halves of a table [S, 1, d] are equal."""
    found: Tensor = _Rotate.apply(x, cos, sin)  # type: ignore[no-untyped-call]
    return found


class _Rotate(torch.autograd.Function):
    """A rotation's gradient is the rotation back; nothing of x is held for it."""

    @staticmethod
    def forward(ctx, x, cos, sin):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN205
        ctx.save_for_backward(cos, sin)
        half = x.shape[-1] // 2
        found = x * cos
        found[..., :half].addcmul_(x[..., half:], sin[..., :half], value=-1)
        found[..., half:].addcmul_(x[..., :half], sin[..., half:])
        return found

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN205
        cos, sin = ctx.saved_tensors
        return _Rotate.apply(grad, cos, -sin), None, None  # type: ignore[no-untyped-call]
