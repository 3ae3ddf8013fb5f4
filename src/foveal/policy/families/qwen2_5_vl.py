"""Qwen2.5-VL: M-RoPE positions, merged 2 x 2 patches, windowed vision attention."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from foveal.policy.attention import WINDOWS, Layout
from foveal.policy.decode import Decoder, LayerDecoder
from foveal.policy.families.qwen2_5_vl_decode import MergedDecoder
from foveal.policy.families.qwen2_5_vl_layer import LeanNorm, PackedLayer
from foveal.policy.linears import PLAIN, Linears, linear, route
from foveal.policy.products import ProductPart
from foveal.spec import FovealError


class Qwen25VL:
    """Adapter of `model_type` qwen2_5_vl."""

    def __init__(self, config: Any) -> None:  # noqa: ANN401
        self.windows: tuple[int | None, ...] = _windows(config.text_config)
        self.patch: int = config.vision_config.patch_size
        self.merge: int = config.vision_config.spatial_merge_size
        self.temporal: int = config.vision_config.temporal_patch_size
        self.image_token_id: int = config.image_token_id
        self._banned = tuple(
            token
            for name in ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
            if (token := getattr(config, name, None)) is not None
        )

    def adapt(self, model: nn.Module) -> None:
        """Packed text layers, batched vision windows, norms in few passes; the patch embedding, whose stride
        is its kernel, as a product."""
        model.set_attn_implementation({"text_config": "sdpa", "vision_config": WINDOWS})  # type: ignore[operator]
        PackedLayer.use(model.model.language_model)  # type: ignore[union-attr]
        LeanNorm.use(model)
        self.use_linears(model, PLAIN)

    def use_linears(self, model: nn.Module, linears: Linears) -> None:
        """The linear layers and the patch embedding."""
        route(model, linears)
        visual: Any = model.model.visual  # type: ignore[union-attr]
        visual.patch_embed.forward = _PatchProduct(visual.patch_embed.proj, linears)

    def visual_tokens(self, grids: Tensor) -> Tensor:
        """Patches over merge squared, for each picture."""
        return grids.prod(-1) // self.merge**2

    def positions(self, token_ids: Tensor, grids: Tensor) -> tuple[Tensor, int]:
        """M-RoPE: text tokens advance all three rows by one; a picture's tokens have (time, height, width)
        positions from where it starts, and the text behind it goes on at the largest of them plus one.
        """
        is_image = token_ids == self.image_token_id
        rows = torch.empty(3, len(token_ids), dtype=torch.long)
        at, position = 0, 0
        for time, height, width in grids.tolist():
            start = at + int(is_image[at:].long().argmax())
            text = torch.arange(position, position + start - at)
            rows[:, at:start] = text
            position += start - at
            high, wide = height // self.merge, width // self.merge
            count = time * high * wide
            grid = torch.stack(
                torch.meshgrid(torch.arange(time), torch.arange(high), torch.arange(wide), indexing="ij")
            )
            rows[:, start : start + count] = grid.reshape(3, -1) + position
            position += max(high, wide)
            at = start + count
        rows[:, at:] = torch.arange(position, position + len(token_ids) - at)
        return rows, int(rows.max()) + 1

    def vision(self, model: nn.Module) -> nn.Module:
        """The tower with its merger."""
        found: nn.Module = model.model.visual  # type: ignore[union-attr, assignment]
        return found

    def features(self, model: nn.Module, pixels: Tensor, grids: Tensor) -> Tensor:
        """The vision tower and merger on all pictures at once."""
        visual: Any = model.model.visual  # type: ignore[union-attr]
        output: Tensor = visual(pixels.to(visual.dtype), grid_thw=grids).pooler_output
        return output

    def embed(self, model: nn.Module, token_ids: Tensor) -> Tensor:
        """The input embedding."""
        output: Tensor = model.get_input_embeddings()(token_ids)  # type: ignore[operator]
        return output

    def hidden(
        self,
        model: nn.Module,
        embeddings: Tensor,
        positions: Tensor,
        layout: Layout,
        products: ProductPart | None = None,
    ) -> Tensor:
        """The language model on one packed row; the layout replaces its masks."""
        text: Any = model.model.language_model  # type: ignore[union-attr]
        no_masks = dict.fromkeys(("full_attention", "sliding_attention"))
        output: Tensor = text(
            inputs_embeds=embeddings[None],
            position_ids=positions[:, None],
            attention_mask=no_masks,
            use_cache=False,
            layout=layout,
            products=products,
        ).last_hidden_state[0]
        return output

    def decoder(self, model: nn.Module, linears: Linears) -> Decoder:
        """Merged weights; the model's own layers where some are not plain linear ones."""
        text: Any = model.model.language_model  # type: ignore[union-attr]
        if MergedDecoder.fits(text):
            return MergedDecoder(text, linears)
        return LayerDecoder(hidden=partial(self.hidden, model), axes=3)

    def head(self, model: nn.Module) -> tuple[Tensor, Tensor | None]:
        """`lm_head`, tied or not."""
        head: Any = model.lm_head
        return head.weight, head.bias

    def banned_token_ids(self) -> tuple[int, ...]:
        """Picture and video placeholders and their brackets."""
        return self._banned


class _PatchProduct:
    """The patch embedding as one matrix product: equal to rounding, on a CPU several times faster."""

    def __init__(self, projection: nn.Conv3d, linears: Linears) -> None:
        self.projection = projection
        self.linears = linears

    def __call__(self, patches: Tensor) -> Tensor:
        weight = self.projection.weight
        flat = weight.view(weight.shape[0], -1)
        return linear(patches.to(weight.dtype), flat, self.projection.bias, self.linears)


def _windows(text: Any) -> tuple[int | None, ...]:  # noqa: ANN401
    """The window of each text layer, itself counted; None where it sees all.

    Raises: FovealError for layers with a window of no size.
    """
    bounded = [kind == "sliding_attention" for kind in text.layer_types]
    window = text.sliding_window
    if any(bounded) and not (isinstance(window, int) and window > 0):
        raise FovealError(
            f"the model has text layers with a sliding window (layer_types in its config.json) of "
            f"sliding_window = {window!r}; expected a number of tokens above 0, with use_sliding_window = "
            f"true; mend its config.json, or change --model or [model] path"
        )
    return tuple(window if inside else None for inside in bounded)
