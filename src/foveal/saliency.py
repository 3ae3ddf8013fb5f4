"""Where a vision model looks: the attention that each patch of a picture receives, from DINOv2.

saliency_j = mean over the chosen layers, the heads, and the picture's patches i of A[i, j], where A[i, j] is
how much patch i attends to patch j. Rows and columns of the class token are left out.

Source: PAPO arXiv:2507.06448v5, semantic masking (layers 6-9, heads averaged, attention received per patch).
Left open by the paper, and decided here: layers are counted from 1; the class token's own attention does not
count; the picture is not cropped, since squares at its border need a saliency too, but scaled to whole
patches (`max_patches` of them at most), then rescaled and normalised by the model's own image processor.
"""

import hashlib
import math
from collections import OrderedDict
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image as Images
from PIL.Image import Image
from safetensors import SafetensorError
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil
from transformers.models.dinov2.configuration_dinov2 import Dinov2Config
from transformers.models.dinov2.modeling_dinov2 import Dinov2Model
from transformers.utils.logging import disable_progress_bar

from foveal.perturbations.pictures import to_rgb
from foveal.policy.folder import local_folder
from foveal.policy.soundness import read_table
from foveal.spec import FovealError
from foveal.types import SaliencySource

KEPT_MAPS = 4096
"""Maps kept for each model: at most 16 MB at 1024 patches."""

KEPT_MODELS = 4
"""Models kept in memory: as many as a run's perturbations ever name."""

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Normalisation of DINOv2's training, for folders without picture settings."""

Map = Float[np.ndarray, "h w"]


class SaliencyModel:
    """A DINOv2 model up to the last layer that is asked for. Maps are kept by the picture's samples."""

    def __init__(self, source: SaliencySource) -> None:
        """Raises: FovealError for a model that cannot be read, is no DINOv2, or has too few layers."""
        self.source = source
        folder = local_folder(source.model, setting=_SETTING)
        model = _load(folder, source)
        # Later layers say nothing of earlier ones.
        model.encoder.layer = model.encoder.layer[: max(source.layers)]
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._model: Any = model.eval().requires_grad_(False).to(self._device)
        self._patch = int(model.config.patch_size)
        self._images = _image_processor(folder)
        self._kept: OrderedDict[bytes, Map] = OrderedDict()

    def __call__(self, image: Image) -> Map:
        """The attention received by each of h x w equal cells of the picture; their sum is below 1."""
        picture = to_rgb(image)
        key = hashlib.blake2b(f"{picture.size}".encode() + picture.tobytes()).digest()
        found = self._kept.pop(key, None)
        if found is None:
            found = self._received(picture)
        self._kept[key] = found
        if len(self._kept) > KEPT_MAPS:
            self._kept.popitem(last=False)
        return found

    def grid(self, size: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of patches that a picture of (width, height) pixels is scaled to.

        The nearest whole ones, or, above `max_patches`, as many as fit in its shape.
        """
        width, height = (max(1.0, side / self._patch) for side in size)
        rows, columns = round(height), round(width)
        if rows * columns > self.source.max_patches:
            shrink = math.sqrt(self.source.max_patches / (height * width))
            rows = min(max(1, math.floor(height * shrink)), self.source.max_patches)
            columns = max(1, min(math.floor(width * shrink), self.source.max_patches // rows))
        return rows, columns

    def _received(self, picture: Image) -> Map:
        rows, columns = self.grid(picture.size)
        scaled = picture.resize((columns * self._patch, rows * self._patch), Images.Resampling.BICUBIC)
        pixels = self._images(
            images=[scaled], do_resize=False, do_center_crop=False, return_tensors="pt"
        ).pixel_values
        with torch.no_grad():
            layers = self._model(pixels.to(self._device), output_attentions=True).attentions
        # attentions[l] is [1, heads, tokens, tokens]; token 0 is the class token.
        chosen = [layers[number - 1][0, :, 1:, 1:].double().mean((0, 1)) for number in self.source.layers]
        received: Map = torch.stack(chosen).mean(0).reshape(rows, columns).float().cpu().numpy()
        return received


@lru_cache(maxsize=KEPT_MODELS)
def saliency_model(source: SaliencySource) -> SaliencyModel:
    """The model of a source, loaded once a process.

    Raises: FovealError for a model that cannot be read, is no DINOv2, or has too few layers.
    """
    return SaliencyModel(source)


def _load(folder: Path, source: SaliencySource) -> Any:
    """The whole model, with attention that can be looked at."""
    # A run has a progress bar of its own; those of loading weights would tear it apart.
    disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        kind = read_table(folder / "config.json").get("model_type")
    except FovealError as error:
        raise FovealError(
            f"the saliency model {source.model!r} cannot be read: {error}; {_EXPECTED}"
        ) from error
    if kind != "dinov2":
        raise FovealError(f"the saliency model {source.model!r} is of type {kind!r}; {_EXPECTED}")
    try:
        config = Dinov2Config.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise FovealError(
            f"the saliency model {source.model!r} cannot be read: {error}; {_EXPECTED}"
        ) from error
    depth = config.num_hidden_layers
    if max(source.layers) > depth:
        raise FovealError(
            f"the saliency model {source.model!r} has {depth} layers, but layers = {list(source.layers)} "
            f"asks for more; expected numbers from 1 to {depth}; change `layers` of the salient_mask"
        )
    try:
        found: Any = Dinov2Model.from_pretrained(
            folder,
            attn_implementation="eager",
            output_loading_info=True,
            use_safetensors=True,
            local_files_only=True,
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise FovealError(
            f"the weights of the saliency model {source.model!r} cannot be loaded: {error}; {_EXPECTED}"
        ) from error
    model, loading = found
    if loading["missing_keys"]:
        # transformers would go on with random weights in their place.
        raise FovealError(
            f"the weights of the saliency model {source.model!r} are not whole: "
            f"{len(loading['missing_keys'])} tensors are missing, such as "
            f"{sorted(loading['missing_keys'])[0]!r}; {_EXPECTED}"
        )
    return model


_SETTING = "`model` of the salient_mask in [perturbations]"
_EXPECTED = (
    f"expected a DINOv2 model (transformers' Dinov2Model), such as 'facebook/dinov2-base'; change {_SETTING}"
)


def _image_processor(folder: Path) -> Any:
    """Rescaling and normalisation of the model's own settings, or DINOv2's where it has none.

    The PIL class, since the other one needs a torchvision that fits torch.
    """
    try:
        return BitImageProcessorPil.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError):
        return BitImageProcessorPil(image_mean=list(IMAGENET_MEAN), image_std=list(IMAGENET_STD))
