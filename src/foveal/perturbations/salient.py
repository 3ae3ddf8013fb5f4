"""The mask that hides what matters: the squares that draw most of a vision model's attention."""

import math

import numpy as np
from jaxtyping import Bool, Float
from PIL.Image import Image
from pydantic import Field, field_validator

from foveal.perturbations.pictures import Fill, fill_colour, to_rgb
from foveal.perturbations.squares import Patch, grid_of, mask_of, side_of
from foveal.spec import FovealError
from foveal.types import Perturbation, PerturbationContext, SaliencySource

ROUNDING = 1e-9
"""Keeps 0.29 * 100 at 29, where floating point gives 28.999999999999996."""


class SalientMask(Perturbation):
    """Replace the `ratio` of a picture's squares that draw most attention in a DINOv2 model.

    hidden = the floor(ratio * S) squares of largest saliency, S the number of squares; of equals the first,
    row by row. Saliency of a square: mean over its area of the attention that the model's patches receive
    (see `foveal.saliency`). Nothing is drawn at random.
    Source: PAPO arXiv:2507.06448v5 (semantic masking: layers 6-9, squares of 14 pixels, floor(p (N - 1)) of
    them, where the N tokens of DINOv2 are the class token and one a patch). The paper finds it no better than
    random squares.
    Differs from the paper: its code is not public; `foveal.saliency` says what was left open.
    """

    type: str = "salient_mask"
    model: str
    """Folder or hub id of a DINOv2 model, such as "facebook/dinov2-base"."""
    ratio: float = Field(default=0.6, ge=0, le=1)
    """Share of the squares that is replaced."""
    patch: Patch = 14
    """Side of a square in pixels of the stored picture (the paper's 14), or "model" or "token": the model's
    own grid."""
    fill: Fill = "black"
    layers: tuple[int, ...] = Field(default=(6, 7, 8, 9), min_length=1)
    """Layers of the DINOv2 model whose attention is averaged, counted from 1 (the paper's of 12)."""
    max_patches: int = Field(default=1024, ge=1)
    """Most patches that the DINOv2 model looks at: attention costs their square. Larger pictures are scaled
    down for it, and the map is spread over the squares again."""

    @field_validator("layers")
    @classmethod
    def _counted_from_one(cls, layers: tuple[int, ...]) -> tuple[int, ...]:
        if min(layers) < 1 or len(set(layers)) < len(layers):
            raise ValueError(f"expected layers counted from 1, each once, got {layers}")
        return layers

    @property
    def on_model_grid(self) -> bool:
        """With a `patch` of the policy's."""
        return isinstance(self.patch, str)

    @property
    def saliency_sources(self) -> tuple[SaliencySource, ...]:
        """Its own model."""
        return (SaliencySource(model=self.model, layers=self.layers, max_patches=self.max_patches),)

    def __call__(self, image: Image, *, rng: np.random.Generator, context: PerturbationContext) -> Image:
        """The masked picture.

        Raises: FovealError, when the context lacks the map.
        """
        picture = to_rgb(image)
        found = context.saliency.get(self.saliency_sources[0])
        if found is None:
            raise FovealError(
                f"the perturbation {self.type!r} was given no saliency map of {self.model!r}; expected one "
                f"in `context.saliency`; call foveal.data.views.perturb, which computes it"
            )
        side = side_of(self.patch, context)
        saliency = spread(found, picture.size, side=side)
        hidden = most_salient(saliency, ratio=self.ratio)
        picture.paste(fill_colour(self.fill, picture), mask=mask_of(hidden, picture.size, side=side))
        return picture


def most_salient(
    saliency: Float[np.ndarray, "rows columns"], *, ratio: float
) -> Bool[np.ndarray, "rows columns"]:
    """The floor(ratio * size) places of largest saliency; of equals the first, row by row."""
    count = math.floor(ratio * saliency.size + ROUNDING)
    hidden = np.zeros(saliency.size, dtype=bool)
    hidden[np.argsort(-saliency, axis=None, kind="stable")[:count]] = True
    return hidden.reshape(saliency.shape)


def spread(
    cells: Float[np.ndarray, "h w"], size: tuple[int, int], *, side: int
) -> Float[np.ndarray, "rows columns"]:
    """Mean over the area of each square of a map that cuts the picture of (width, height) into equal cells.

    Squares that are the cells keep their values exactly.
    """
    rows, columns = grid_of(size, side=side)
    down = _shares(rows, cells.shape[0], size[1], side=side)
    across = _shares(columns, cells.shape[1], size[0], side=side)
    found: np.ndarray = down @ cells.astype(np.float64) @ across.T
    return found


def _shares(squares: int, cells: int, length: int, *, side: int) -> Float[np.ndarray, "squares cells"]:
    """How much of each square of `side` pixels, cut at `length`, lies in each of `cells` equal cells."""
    edges = np.minimum(np.arange(squares + 1) * side, length) * cells / length
    first, last = edges[:-1, None], edges[1:, None]
    cell = np.arange(cells)
    common: np.ndarray = np.clip(np.minimum(last, cell + 1) - np.maximum(first, cell), 0, None)
    return common / (last - first)
