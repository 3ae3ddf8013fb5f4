"""Squares of a grid over a picture, from the top left corner; those at the right and bottom edge are cut."""

from typing import Annotated, Literal

import numpy as np
from jaxtyping import Bool
from PIL import Image as Images
from PIL.Image import Image
from pydantic import Field

from foveal.types import PerturbationContext

Patch = Annotated[int, Field(ge=1)] | Literal["model", "token"]
"""Side of a square in pixels of the picture as stored; "model": the model's own vision patches, on the
picture as the model sees it; "token": likewise, the patches that become one visual token."""


def side_of(patch: Patch, context: PerturbationContext) -> int:
    """The side of a square, pixels."""
    if patch == "model":
        return context.patch
    if patch == "token":
        return context.patch * context.merge
    return patch


def grid_of(size: tuple[int, int], *, side: int) -> tuple[int, int]:
    """Rows and columns of squares of a picture of (width, height) pixels."""
    return -(-size[1] // side), -(-size[0] // side)


def mask_of(hidden: Bool[np.ndarray, "rows columns"], size: tuple[int, int], *, side: int) -> Image:
    """The hidden squares at full size, a mask for `Image.paste`."""
    rows, columns = np.arange(size[1]) // side, np.arange(size[0]) // side
    return Images.fromarray(hidden.take(columns, axis=1).take(rows, axis=0))
