"""The renderer of the worlds: anti-aliased shapes, line drawings with labels, and noise."""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PilImage
from PIL import ImageDraw, ImageFont
from PIL.Image import Image

from foveal.worlds.cells import NONE

Pixels = NDArray[np.float32]

COLOUR_VALUES = {
    "red": (214, 48, 44),
    "green": (44, 160, 60),
    "blue": (48, 88, 214),
    "yellow": (238, 196, 36),
}
"""Clean colours, RGB 0 to 255."""

BACKGROUND = (236.0, 236.0, 233.0)
BACKGROUND_SHIFT = 8.0
COLOUR_NOISE_SD = 16.0
COLOUR_NOISE_MOST = 2.0
"""The noise level above which colours shift no further: beyond it red and yellow would mix, and no one could
tell them apart; pixel noise hides nothing from a good look."""
PIXEL_NOISE_SD = 14.0
RADIUS_RANGE = (17 / 56, 22 / 56)
"""Radius of an object, in sides of its cell."""
JITTER = 5 / 56
"""Largest shift of an object from the middle of its cell, in sides of the cell."""

INKS = {"black": (30, 30, 34), "red": (186, 30, 30), "blue": (30, 66, 190), "green": (16, 122, 44)}
"""Colours of lines and labels."""
LINE_PX = 1.7
LABEL_PX = 18
"""Font size of labels; digits are 13 px high."""
SUPERSAMPLE = 4

Point = tuple[float, float]

_STAR_WAIST = 0.45
"""Distance of a star's inner corners from its middle, in outer radii."""


def shape_coverage(shape: str, x: Pixels, y: Pixels, radius: float) -> Pixels:
    """Covered part, 0 to 1, of each pixel at (x, y) px from the middle of a shape of outer `radius` px."""
    distance: NDArray[np.floating[Any]]
    if shape == "circle":
        distance = np.hypot(x, y) - 0.92 * radius
    elif shape == "square":
        distance = np.maximum(np.abs(x), np.abs(y)) - 0.8 * radius
    elif shape == "triangle":
        down = y - 0.62 * radius
        slanted = (np.abs(x) * 2 - (y + radius) * 1.2) / math.hypot(2, 1.2)
        distance = np.maximum(down, slanted)
    elif shape == "star":
        distance = _star_distance(x, y, 1.05 * radius)
    else:
        raise ValueError(f"shape {shape!r} is not one of circle, square, triangle, star")
    return np.clip(0.5 - distance, 0.0, 1.0).astype(np.float32)


def _star_distance(x: Pixels, y: Pixels, radius: float) -> NDArray[np.floating[Any]]:
    """Signed distance to the edge of the star; in each tenth of it the edge is one line."""
    sector = math.pi / 5
    angle = np.abs((np.arctan2(x, -y) + sector) % (2 * sector) - sector)
    length = np.hypot(x, y)
    tip = (radius, 0.0)
    waist = (_STAR_WAIST * radius * math.cos(sector), _STAR_WAIST * radius * math.sin(sector))
    edge = (waist[0] - tip[0], waist[1] - tip[1])
    normal = (edge[1] / math.hypot(*edge), -edge[0] / math.hypot(*edge))
    distance: NDArray[np.floating[Any]] = normal[0] * (length * np.cos(angle) - tip[0]) + normal[
        1
    ] * length * np.sin(angle)
    return distance


def background(width: int, height: int, *, rng: np.random.Generator) -> Pixels:
    """A plain light picture whose colour varies slightly, (height, width, 3)."""
    colour = np.array(BACKGROUND) + rng.uniform(-BACKGROUND_SHIFT, BACKGROUND_SHIFT, 3)
    return np.broadcast_to(colour.astype(np.float32), (height, width, 3)).copy()


def finish(canvas: Pixels, *, noise: float, rng: np.random.Generator) -> Image:
    """Add pixel noise and make a picture."""
    noisy = canvas + np.float32(PIXEL_NOISE_SD * noise) * rng.standard_normal(canvas.shape, dtype=np.float32)
    return PilImage.fromarray(np.clip(noisy + 0.5, 0, 255).astype(np.uint8))


def veil(image: Image, *, haze: float) -> Image:
    """The picture behind fog of the background's colour: (1 - haze) of each pixel."""
    if haze == 0:
        return image
    pixels = np.asarray(image, dtype=np.float32) * (1 - haze) + np.float32(haze) * np.array(BACKGROUND)
    return PilImage.fromarray((pixels + 0.5).astype(np.uint8))


def draw_cells_picture(
    cells: Sequence[str], *, grid: tuple[int, int], cell_px: int, noise: float, rng: np.random.Generator
) -> Image:
    """A picture of coloured shapes in cells; place, size and colour of each object vary a little."""
    rows, columns = grid
    canvas = background(columns * cell_px, rows * cell_px, rng=rng)
    axis = np.arange(cell_px, dtype=np.float32) + 0.5 - cell_px / 2
    for i, cell in enumerate(cells):
        # Every cell draws the same numbers, so that what stands in one does not change how another looks.
        dx, dy = rng.uniform(-JITTER, JITTER, 2) * cell_px
        radius = float(rng.uniform(*RADIUS_RANGE)) * cell_px
        colour_shift = COLOUR_NOISE_SD * min(noise, COLOUR_NOISE_MOST) * rng.standard_normal(3)
        if cell == NONE:
            continue
        colour, shape = cell.split()
        cover = shape_coverage(shape, axis[None, :] - np.float32(dx), axis[:, None] - np.float32(dy), radius)[
            ..., None
        ]
        top, left = i // columns * cell_px, i % columns * cell_px
        patch = canvas[top : top + cell_px, left : left + cell_px]
        paint = (np.array(COLOUR_VALUES[colour]) + colour_shift).astype(np.float32)
        patch += cover * (paint - patch)
    return finish(canvas, noise=noise, rng=rng)


class Drawing:
    """A line drawing with labels, in pixels of the finished picture; anti-aliased by supersampling."""

    def __init__(self, width: int, height: int, *, noise: float, rng: np.random.Generator) -> None:
        """An empty drawing whose inks vary with the noise level."""
        self._noise = noise
        self._rng = rng
        shift = COLOUR_NOISE_SD * min(noise, COLOUR_NOISE_MOST) * rng.standard_normal(3)
        self._inks = {
            name: tuple(int(v) for v in np.clip(np.array(ink) + shift, 0, 140)) for name, ink in INKS.items()
        }
        plain = background(1, 1, rng=rng)[0, 0]
        size = (width * SUPERSAMPLE, height * SUPERSAMPLE)
        self._image = PilImage.new("RGB", size, tuple(int(v) for v in plain))
        self._pen = ImageDraw.Draw(self._image)

    def line(self, *points: Point, ink: str = "black") -> None:
        """A line through the points."""
        path = [(x * SUPERSAMPLE, y * SUPERSAMPLE) for x, y in points]
        self._pen.line(path, fill=self._inks[ink], width=round(LINE_PX * SUPERSAMPLE), joint="curve")

    def circle(self, middle: Point, radius: float, *, ink: str = "black", filled: bool = False) -> None:
        """A circle, or a dot when filled."""
        box = [(v + sign * radius) * SUPERSAMPLE for sign in (-1, 1) for v in middle]
        if filled:
            self._pen.ellipse(box, fill=self._inks[ink])
        else:
            self._pen.ellipse(box, outline=self._inks[ink], width=round(LINE_PX * SUPERSAMPLE))

    def label(self, text: str, middle: Point, *, ink: str = "black") -> None:
        """A label around a point."""
        at = (middle[0] * SUPERSAMPLE, middle[1] * SUPERSAMPLE)
        self._pen.text(at, text, fill=self._inks[ink], font=_font(LABEL_PX * SUPERSAMPLE), anchor="mm")

    def label_beside(
        self, text: str, point: Point, normal: Point, *, ink: str = "black", gap: float = 3.5
    ) -> None:
        """A label on the side `normal` (of length 1) of a line through `point`, `gap` px away from it."""
        width, height = label_size(text)
        away = gap + (abs(normal[0]) * width + abs(normal[1]) * height) / 2
        self.label(text, (point[0] + normal[0] * away, point[1] + normal[1] * away), ink=ink)

    def finish(self) -> Image:
        """The picture, with noise."""
        canvas = np.asarray(self._image.reduce(SUPERSAMPLE), dtype=np.float32)
        return finish(canvas, noise=self._noise, rng=self._rng)


@lru_cache(maxsize=8)
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


@lru_cache(maxsize=256)
def label_size(text: str) -> Point:
    """Width and height of a label, px."""
    left, top, right, bottom = _font(LABEL_PX * SUPERSAMPLE).getbbox(text, anchor="mm")
    return ((right - left) / SUPERSAMPLE, (bottom - top) / SUPERSAMPLE)
