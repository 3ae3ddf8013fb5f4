"""The renderer of the worlds: anti-aliased shapes from their distance to the edge, line drawings with labels, and noise."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PilImage
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
PIXEL_NOISE_SD = 14.0
RADIUS_RANGE = (17 / 56, 22 / 56)
"""Radius of an object, in sides of its cell."""
JITTER = 5 / 56
"""Largest shift of an object from the middle of its cell, in sides of the cell."""

_STAR_WAIST = 0.45
"""Distance of a star's inner corners from its middle, in outer radii."""


def shape_coverage(shape: str, x: Pixels, y: Pixels, radius: float) -> Pixels:
    """Covered part, 0 to 1, of each pixel at offset (x, y) px from the middle of a shape of outer `radius` px."""
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


def _star_distance(x: Pixels, y: Pixels, radius: float) -> Pixels:
    """Signed distance to the edge line of the tenth of the star that a pixel lies in."""
    sector = math.pi / 5
    angle = np.abs((np.arctan2(x, -y) + sector) % (2 * sector) - sector)
    length = np.hypot(x, y)
    tip = (radius, 0.0)
    waist = (_STAR_WAIST * radius * math.cos(sector), _STAR_WAIST * radius * math.sin(sector))
    edge = (waist[0] - tip[0], waist[1] - tip[1])
    normal = (edge[1] / math.hypot(*edge), -edge[0] / math.hypot(*edge))
    return normal[0] * (length * np.cos(angle) - tip[0]) + normal[1] * length * np.sin(angle)


def background(width: int, height: int, *, rng: np.random.Generator) -> Pixels:
    """A plain light picture whose colour varies slightly, (height, width, 3)."""
    colour = np.array(BACKGROUND) + rng.uniform(-BACKGROUND_SHIFT, BACKGROUND_SHIFT, 3)
    return np.broadcast_to(colour.astype(np.float32), (height, width, 3)).copy()


def finish(canvas: Pixels, *, noise: float, rng: np.random.Generator) -> Image:
    """Add pixel noise and make a picture."""
    noisy = canvas + np.float32(PIXEL_NOISE_SD * noise) * rng.standard_normal(canvas.shape, dtype=np.float32)
    return PilImage.fromarray(np.clip(noisy + 0.5, 0, 255).astype(np.uint8))


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
        colour_shift = COLOUR_NOISE_SD * noise * rng.standard_normal(3)
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
