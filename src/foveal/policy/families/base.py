"""What a family adapter provides, and how it is found."""

import importlib
from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor, nn

from foveal.policy.attention import Layout
from foveal.policy.decode import Decoder
from foveal.policy.linears import Linears
from foveal.policy.products import ProductPart
from foveal.spec import FovealError

FAMILIES: Mapping[str, str] = {
    "qwen2_5_vl": "foveal.policy.families.qwen2_5_vl:Qwen25VL",
}
"""Adapter of each supported `model_type`."""


class Family(Protocol):
    """Positions, picture inputs, patch grid and banned tokens of a model family."""

    patch: int
    """Side of a vision patch, pixels."""
    merge: int
    """Patches a side that become one visual token."""
    temporal: int
    """Frames that a patch spans."""
    image_token_id: int
    windows: tuple[int | None, ...]
    """Tokens of its own sequence that a token looks back at in each text layer, itself counted; None: all.
    Layers of one window share a mask."""

    def adapt(self, model: nn.Module) -> None:
        """Let the layers of a freshly loaded model take a layout, and replace what is slow and equal."""
        ...

    def use_linears(self, model: nn.Module, linears: Linears) -> None:
        """Let the linear layers of an adapted model, and what stands for one, make their products so."""
        ...

    def visual_tokens(self, grids: Tensor) -> Tensor:
        """Visual tokens [images] of pictures with patch grids [images, 3]."""
        ...

    def positions(self, token_ids: Tensor, grids: Tensor) -> tuple[Tensor, int]:
        """Position rows [rows, P] of a prompt, and the position of the first token after it."""
        ...

    def vision(self, model: nn.Module) -> nn.Module:
        """The vision tower, what joins it to the text model included."""
        ...

    def features(self, model: nn.Module, pixels: Tensor, grids: Tensor) -> Tensor:
        """Visual token embeddings [tokens, H] of stacked pictures, in order."""
        ...

    def embed(self, model: nn.Module, token_ids: Tensor) -> Tensor:
        """Text token embeddings."""
        ...

    def hidden(
        self,
        model: nn.Module,
        embeddings: Tensor,
        positions: Tensor,
        layout: Layout,
        products: ProductPart | None = None,
    ) -> Tensor:
        """Last hidden states [R, H] of the tokens that are read (`Layout.reads`) of a packed row with
        embeddings [S, H] and positions [rows, S]. `products` were recorded by this family's decoder."""
        ...

    def decoder(self, model: nn.Module, linears: Linears) -> Decoder:
        """What runs one new token of each completion; it may hold copies of the weights of the moment."""
        ...

    def head(self, model: nn.Module) -> tuple[Tensor, Tensor | None]:
        """Weight [V, H] and bias of the language-model head."""
        ...

    def banned_token_ids(self) -> tuple[int, ...]:
        """Tokens that a completion must not contain: picture placeholders would break the next forward."""
        ...


def family_of(config: Any, *, where: str) -> Family:  # noqa: ANN401
    """The adapter of a transformers config.

    Raises: FovealError for a model without pictures, or of a family without an adapter.
    """
    kind = getattr(config, "model_type", "?")
    require_family(kind, pictures=getattr(config, "vision_config", None) is not None, where=where)
    module, _, name = FAMILIES[kind].partition(":")
    family: Family = getattr(importlib.import_module(module), name)(config)
    return family


def require_family(kind: object, *, pictures: bool, where: str) -> None:
    """`kind` is the model_type of a config.json; `pictures`: it has a vision_config.

    Raises: FovealError as `family_of`, before transformers looks at the folder.
    """
    if not pictures:
        raise FovealError(
            f"the model in {where} has no pictures: its model_type is {kind!r} and it has no vision_config; "
            f"expected a vision-language model of {', '.join(FAMILIES)}; change --model or [model] path"
        )
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise FovealError(
            f"the model in {where} has model_type {kind!r}; expected one of {', '.join(FAMILIES)} "
            f"(an adapter is one file in foveal/policy/families); change --model or [model] path"
        )
