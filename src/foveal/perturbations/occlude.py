"""Perturbations that take information away by covering or cutting: patch mask, rectangles, crop."""

from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int
from PIL import Image as Images
from PIL.Image import Image
from pydantic import Field, model_validator

from foveal.perturbations.pictures import Fill, fill_colour, to_image, to_rgb
from foveal.perturbations.squares import Patch, grid_of, mask_of, side_of
from foveal.types import Perturbation, PerturbationContext


class PatchMask(Perturbation):
    """Replace each square of a grid with probability `ratio`, independently.

    The grid starts at the top left corner; squares at the right and bottom edge are cut. One number a square,
    row by row.
    Source: PAPO arXiv:2507.06448v5 section 3 (ratio 0.6, squares of 14 pixels, black, on the picture as
    stored).
    Differs from the paper: nothing by default. There and by default the processor resizes afterwards, so that
    squares do not meet the model's patches and most patches are hidden in part. With `patch` "model" or
    "token" the picture is resized first, and every patch is hidden whole or not at all.
    """

    type: str = "patch_mask"
    ratio: float = Field(default=0.6, ge=0, le=1)
    """Probability that a square is replaced; the paper's default, ablated from 0.4 to 1.0."""
    patch: Patch = 14
    """Side of a square in pixels of the stored picture (the paper's 14), or "model" or "token": the model's
    own grid."""
    fill: Fill = "black"
    """The paper's. Small models that never saw black patches break on them; use "background" or "grey"
    there."""

    @property
    def on_model_grid(self) -> bool:
        """With a `patch` of the model's."""
        return isinstance(self.patch, str)

    def __call__(self, image: Image, *, rng: np.random.Generator, context: PerturbationContext) -> Image:
        """The masked picture."""
        picture = to_rgb(image)
        side = side_of(self.patch, context)
        hidden = rng.random(grid_of(picture.size, side=side)) < self.ratio
        picture.paste(fill_colour(self.fill, picture), mask=mask_of(hidden, picture.size, side=side))
        return picture


class Occlusion(Perturbation):
    """Cover the picture with rectangles at random places, of noise or of one colour.

    Source: CPPO arXiv:2601.00501, code vbdi/cppo (50 rectangles of noise, each 5 to 15 % of either side).
    """

    type: str = "occlusion"
    rectangles: int = Field(default=50, ge=0, le=10_000)
    smallest: float = Field(default=0.05, ge=0, le=1)
    """Least side of a rectangle, as a share of the picture's."""
    largest: float = Field(default=0.15, ge=0, le=1)
    """Greatest side of a rectangle, as a share of the picture's."""
    fill: Literal["noise"] | Fill = "noise"

    @model_validator(mode="after")
    def _ordered(self) -> "Occlusion":
        if self.smallest > self.largest:
            raise ValueError(f"smallest {self.smallest} is above largest {self.largest}; swap them")
        return self

    def __call__(self, image: Image, *, rng: np.random.Generator, context: PerturbationContext) -> Image:
        """The covered picture."""
        picture = to_rgb(image)
        mask = Images.fromarray(self._covered(picture.height, picture.width, rng))
        if self.fill == "noise":
            noise = rng.integers(0, 256, (picture.height, picture.width, 3), dtype=np.uint8)
            picture.paste(to_image(noise), mask=mask)
        else:
            picture.paste(fill_colour(self.fill, picture), mask=mask)
        return picture

    def _covered(self, height: int, width: int, rng: np.random.Generator) -> Bool[np.ndarray, "h w"]:
        """Union of the rectangles: how many lie over a pixel is the product of "spans this row" and "spans
        this column", summed over rectangles."""
        sides = rng.uniform(self.smallest, self.largest, (2, self.rectangles))
        places = rng.random((2, self.rectangles))
        tall = np.clip(np.rint(sides[0] * height), 1, height).astype(np.int64)
        wide = np.clip(np.rint(sides[1] * width), 1, width).astype(np.int64)
        top = (places[0] * (height - tall + 1)).astype(np.int64)
        left = (places[1] * (width - wide + 1)).astype(np.int64)
        spans_row = _spans(top, tall, height)
        spans_column = _spans(left, wide, width)
        covered: np.ndarray = spans_row.T @ spans_column > 0
        return covered


def _spans(
    start: Int[np.ndarray, "rectangles"], extent: Int[np.ndarray, "rectangles"], length: int
) -> Float[np.ndarray, "rectangles length"]:
    """1 where an interval covers a place, else 0; float32, which counts exactly and multiplies fast."""
    place = np.arange(length)
    found: np.ndarray = (place >= start[:, None]) & (place < (start + extent)[:, None])
    return found.astype(np.float32)


class Crop(Perturbation):
    """Keep a random window and scale it back to the picture's size, so that what lies outside is lost.

    Source: CPPO arXiv:2601.00501, code vbdi/cppo (60 to 70 % of each side).
    """

    type: str = "crop"
    smallest: float = Field(default=0.6, gt=0, le=1)
    """Least side of the window, as a share of the picture's; each side is drawn on its own."""
    largest: float = Field(default=0.7, gt=0, le=1)
    """Greatest side of the window, as a share of the picture's."""

    @model_validator(mode="after")
    def _ordered(self) -> "Crop":
        if self.smallest > self.largest:
            raise ValueError(f"smallest {self.smallest} is above largest {self.largest}; swap them")
        return self

    def __call__(self, image: Image, *, rng: np.random.Generator, context: PerturbationContext) -> Image:
        """The window at full size."""
        picture = to_rgb(image)
        shares = rng.uniform(self.smallest, self.largest, 2)
        places = rng.random(2)
        wide = max(1, round(shares[0] * picture.width))
        tall = max(1, round(shares[1] * picture.height))
        left = int(places[0] * (picture.width - wide + 1))
        top = int(places[1] * (picture.height - tall + 1))
        window = (left, top, left + wide, top + tall)
        # Not resize(box=...): its filter reaches two pixels beyond the window.
        return picture.crop(window).resize(picture.size, Images.Resampling.BICUBIC)
