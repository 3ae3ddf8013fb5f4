"""Perturbations that take information away: patch mask, rectangles, crop, noise, blank."""

from typing import Annotated, Literal

import numpy as np
from jaxtyping import Bool
from PIL import Image as Images
from PIL.Image import Image
from pydantic import Field, model_validator

from foveal.perturbations.pictures import Fill, fill_colour, to_image, to_pixels, to_rgb
from foveal.types import Perturbation, PerturbationContext


class PatchMask(Perturbation):
    """Replace each square of a grid with probability `ratio`, independently.

    The grid starts at the top left corner; squares at the right and bottom edge are cut.
    Source: PAPO arXiv:2507.06448v5 section 3 (ratio 0.6, squares of 14 pixels, black, on the raw picture
    before the processor resizes it, so that its squares do not meet the model's patches; `patch = "model"` on
    a resized picture does).
    """

    type: str = "patch_mask"
    ratio: float = Field(default=0.6, ge=0, le=1)
    """Probability that a square is replaced; the paper's default, ablated from 0.4 to 1.0."""
    patch: Annotated[int, Field(ge=1)] | Literal["model", "token"] = 14
    """Side of a square in pixels; "model": the model's vision patch; "token": the patches that become one
    visual token."""
    fill: Fill = "black"
    """The paper's. Small models that never saw black patches break on them; use "background" or "grey"
    there."""

    def __call__(self, image: Image, *, rng: np.random.Generator, context: PerturbationContext) -> Image:
        """The masked picture."""
        pixels = to_pixels(image)
        hidden = patch_grid(pixels.shape[:2], side=self._side(context), ratio=self.ratio, rng=rng)
        pixels[hidden] = fill_colour(self.fill, pixels)
        return to_image(pixels)

    def _side(self, context: PerturbationContext) -> int:
        if self.patch == "model":
            return context.patch
        if self.patch == "token":
            return context.patch * context.merge
        return self.patch


def patch_grid(
    size: tuple[int, ...], *, side: int, ratio: float, rng: np.random.Generator
) -> Bool[np.ndarray, "h w"]:
    """Which pixels of a picture of (height, width) lie in a hidden square; one number a square, row by
    row."""
    height, width = size
    hidden = rng.random((-(-height // side), -(-width // side))) < ratio
    return np.repeat(np.repeat(hidden, side, axis=0)[:height], side, axis=1)[:, :width]


class Occlusion(Perturbation):
    """Cover the picture with rectangles at random places, of noise or of one colour.

    Source: CPPO arXiv:2601.00501, code vbdi/cppo (50 rectangles of noise, each 5 to 15 % of either side).
    """

    type: str = "occlusion"
    rectangles: int = Field(default=50, ge=0)
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
        pixels = to_pixels(image)
        hidden = self._covered(pixels.shape[0], pixels.shape[1], rng)
        if self.fill == "noise":
            noise = rng.integers(0, 256, pixels.shape, dtype=np.uint8)
            return to_image(np.where(hidden[..., None], noise, pixels))
        pixels[hidden] = fill_colour(self.fill, pixels)
        return to_image(pixels)

    def _covered(self, height: int, width: int, rng: np.random.Generator) -> Bool[np.ndarray, "h w"]:
        """Union of the rectangles: +1 and -1 at their corners, summed along both axes, is how many lie over a
        pixel."""
        sides = rng.uniform(self.smallest, self.largest, (2, self.rectangles))
        places = rng.random((2, self.rectangles))
        tall = np.clip(np.rint(sides[0] * height), 1, height).astype(np.int64)
        wide = np.clip(np.rint(sides[1] * width), 1, width).astype(np.int64)
        top = (places[0] * (height - tall + 1)).astype(np.int64)
        left = (places[1] * (width - wide + 1)).astype(np.int64)
        corners = np.zeros((height + 1, width + 1), dtype=np.int64)
        np.add.at(corners, (top, left), 1)
        np.add.at(corners, (top + tall, left + wide), 1)
        np.add.at(corners, (top + tall, left), -1)
        np.add.at(corners, (top, left + wide), -1)
        return corners.cumsum(0).cumsum(1)[:height, :width] > 0


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
        return picture.resize(picture.size, Images.Resampling.BICUBIC, box=window)


class Noise(Perturbation):
    """Add independent Gaussian noise to every sample, cut to the range of a picture.

    Source: PAPO arXiv:2507.06448v5 discusses and rejects it as a masking strategy: pictures stay legible at
    std 0.8.
    """

    type: str = "noise"
    std: float = Field(default=0.5, ge=0)
    """Standard deviation as a share of the full range (1.0 = 255 steps)."""

    def __call__(self, image: Image, *, rng: np.random.Generator, context: PerturbationContext) -> Image:
        """The noisy picture."""
        pixels = to_pixels(image)
        noise = rng.standard_normal(pixels.shape, dtype=np.float32) * np.float32(255 * self.std)
        return to_image(np.clip(np.rint(pixels + noise), 0, 255).astype(np.uint8))


class Blank(Perturbation):
    """One colour all over: nothing can be seen."""

    type: str = "blank"
    fill: Fill = "black"

    def __call__(self, image: Image, *, rng: np.random.Generator, context: PerturbationContext) -> Image:
        """The empty picture."""
        pixels = to_pixels(image)
        pixels[:] = fill_colour(self.fill, pixels)
        return to_image(pixels)
