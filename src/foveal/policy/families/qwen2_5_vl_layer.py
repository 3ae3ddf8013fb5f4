"""Qwen2.5-VL's text layer on a packed row."""

from typing import Any

import torch
from torch import Tensor
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLDecoderLayer

from foveal.policy.attention import Layout


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
        **kwargs: Any,  # noqa: ANN401
    ) -> Tensor:
        """The layer; without a layout the library's own forward, so that `generate` works."""
        if layout is None or position_embeddings is None:
            kwargs["position_embeddings"] = position_embeddings
            return super().forward(hidden_states, *args, **kwargs)
        attention: Any = self.self_attn
        number, width = attention.layer_idx, attention.head_dim
        last = number == attention.config.num_hidden_layers - 1
        reads = layout.reads if last else None
        cos, sin = (table[0, :, None] for table in position_embeddings)
        states = hidden_states[0]
        seen = self.input_layernorm(states)
        key = rotate(attention.k_proj(seen).unflatten(-1, (-1, width)), cos, sin)
        value = attention.v_proj(seen).unflatten(-1, (-1, width))
        if reads is not None:
            states, seen, cos, sin = (x.index_select(0, reads) for x in (states, seen, cos, sin))
        query = rotate(attention.q_proj(seen).unflatten(-1, (-1, width)), cos, sin)
        query, key, value = (x.transpose(0, 1)[None] for x in (query, key, value))
        found = layout.attend(number, query, key, value, attention.scaling)[0].transpose(0, 1).flatten(1)
        states = states + attention.o_proj(found)
        output: Tensor = states + self.mlp(self.post_attention_layernorm(states))
        return output[None]


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
