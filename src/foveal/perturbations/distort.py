"""Perturbations that keep information: colour, rotation, perspective, blur. Defaults are CPPO's
(arXiv:2601.00501, vbdi/cppo)."""

from typing import Annotated, Literal

import numpy as np
from jaxtyping import Float
from PIL import Image as Images
from PIL import ImageEnhance, ImageFilter
from PIL.Image import Image
from pydantic import AfterValidator, Field

from foveal.perturbations.pictures import Fill, fill_colour, to_image, to_pixels, to_rgb
from foveal.types import Perturbation, PerturbationContext


def _ordered(bounds: tuple[float, float]) -> tuple[float, float]:
    if not 0 <= bounds[0] <= bounds[1]:
        raise ValueError(f"expected two factors 0 <= least <= greatest, got {bounds}")
    return bounds


Factors = Annotated[tuple[float, float], AfterValidator(_ordered)]
"""Least and greatest factor; 1 leaves the picture as it is."""


class Colour(Perturbation):
    """Change brightness, contrast and saturation by random factors, in random order.

    brightness: towards black; contrast: towards the mean grey; saturation: towards the grey picture.
    """

    type: str = "colour"
    brightness: Factors = (0.2, 1.3)
    contrast: Factors = (0.2, 1.8)
    saturation: Factors = (0.2, 1.8)

    def __call__(self, image: Image, *, rng: np.random.Generator, context: PerturbationContext) -> Image:
        """The recoloured picture."""
        picture = to_rgb(image)
        changes = (
            (ImageEnhance.Brightness, rng.uniform(*self.brightness)),
            (ImageEnhance.Contrast, rng.uniform(*self.contrast)),
            (ImageEnhance.Color, rng.uniform(*self.saturation)),
        )
        for index in rng.permutation(len(changes)):
            enhance, factor = changes[index]
            picture = enhance(picture).enhance(float(factor))
        return picture


class Rotation(Perturbation):
    """Turn the picture about its centre by a random angle; corners that turn in are filled.

    Differs from CPPO's code: pixels in between are interpolated (there: the nearest one is taken).
    """

    type: str = "rotation"
    degrees: float = Field(default=10.0, ge=0, le=180)
    """Greatest angle either way."""
    fill: Fill = "black"

    def __call__(self, image: Image, *, rng: np.random.Generator, context: PerturbationContext) -> Image:
        """The turned picture."""
        picture = to_rgb(image)
        angle = float(rng.uniform(-self.degrees, self.degrees))
        colour = fill_colour(self.fill, picture)
        return picture.rotate(angle, Images.Resampling.BILINEAR, fillcolor=colour)


class Perspective(Perturbation):
    """With probability `probability` move the four corners inwards by random amounts, else leave the picture
    as it is."""

    type: str = "perspective"
    distortion: float = Field(default=0.2, ge=0, lt=1)
    """Furthest that a corner moves, as a share of half the picture's side."""
    probability: float = Field(default=0.5, ge=0, le=1)
    fill: Fill = "black"

    def __call__(self, image: Image, *, rng: np.random.Generator, context: PerturbationContext) -> Image:
        """The tilted picture."""
        picture = to_rgb(image)
        moves = rng.random((4, 2)) * self.distortion / 2
        if rng.random() >= self.probability:
            return picture
        size = np.array(picture.size, dtype=np.float64)
        unit = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
        inwards = 1 - 2 * unit
        coefficients = perspective_coefficients((unit + inwards * moves) * size, unit * size)
        colour = fill_colour(self.fill, picture)
        return picture.transform(
            picture.size,
            Images.Transform.PERSPECTIVE,
            coefficients,
            Images.Resampling.BILINEAR,
            fillcolor=colour,
        )


class Blur(Perturbation):
    """Average each pixel with its neighbours, weighted by exp(-d^2 / (2 sigma^2)); edges are mirrored.

    Source: CPPO's AReaL variant, vbdi/cppo (3 x 3, sigma 1).
    """

    type: str = "blur"
    size: Literal[3, 5] = 3
    """Side of the neighbourhood, pixels."""
    sigma: float = Field(default=1.0, gt=0)
    """Standard deviation of the weights, pixels."""

    def __call__(self, image: Image, *, rng: np.random.Generator, context: PerturbationContext) -> Image:
        """The blurred picture."""
        reach = self.size // 2
        wide = np.pad(to_pixels(image), ((reach, reach), (reach, reach), (0, 0)), mode="reflect")
        line = np.exp(-0.5 * (np.arange(-reach, reach + 1) / self.sigma) ** 2)
        line /= line.sum()
        weights = np.outer(line, line).ravel().tolist()
        blurred = to_image(wide).filter(ImageFilter.Kernel((self.size, self.size), weights, scale=1))
        return blurred.crop((reach, reach, wide.shape[1] - reach, wide.shape[0] - reach))


def perspective_coefficients(
    target: Float[np.ndarray, "4 2"], source: Float[np.ndarray, "4 2"]
) -> tuple[float, ...]:
    """The eight numbers of the projective map that takes the points `target` to `source`.

    x' = (a x + b y + c) / (g x + h y + 1), y' = (d x + e y + f) / (g x + h y + 1): the form that Pillow looks
    up sources with.
    """
    x, y = target[:, 0], target[:, 1]
    one, zero = np.ones(4), np.zeros(4)
    first = np.stack([x, y, one, zero, zero, zero, -source[:, 0] * x, -source[:, 0] * y], axis=1)
    second = np.stack([zero, zero, zero, x, y, one, -source[:, 1] * x, -source[:, 1] * y], axis=1)
    solution = np.linalg.solve(np.concatenate([first, second]), np.concatenate([source[:, 0], source[:, 1]]))
    return tuple(float(value) for value in solution)
