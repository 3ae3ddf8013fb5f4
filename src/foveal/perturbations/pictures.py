"""What perturbations share: any picture as RGB, and the colour that stands for "nothing here"."""

from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
from jaxtyping import UInt8
from PIL import Image as Images
from PIL.Image import Image
from pydantic import Field

from foveal.spec import FovealError

GREY = 128
"""The middle of the range, which image processors map to about 0."""

SIXTEEN_BIT = 257
"""65535 / 255: from a 16-bit to an 8-bit sample."""

Channel = Annotated[int, Field(ge=0, le=255)]
Fill = Literal["black", "grey", "mean", "background"] | tuple[Channel, Channel, Channel]
"""What replaces pixels: black (the papers'), grey, the picture's mean colour, the commonest colour of its
border, or RGB."""

Pixels = UInt8[np.ndarray, "h w 3"]


def to_rgb(image: Image) -> Image:
    """A picture of any mode as a new RGB picture.

    Transparent pictures are laid on white (the paper they are drawn for), palettes are looked up, 16-bit
    samples are scaled to 8 bits, and float samples are read as 0..1 when none is above 1, else as 0..255.
    Raises: FovealError for a picture without pixels.
    """
    if image.width == 0 or image.height == 0:
        raise FovealError(
            f"a picture of {image.width} x {image.height} pixels has nothing to see; remove it from the data"
        )
    if image.mode == "RGB":
        return image.copy()
    if image.mode.startswith("I") or image.mode == "F":
        return Images.fromarray(_eight_bits(image)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        straight = image.convert("LA") if image.mode == "La" else image
        layer = straight.convert("RGBA")
        paper = Images.new("RGBA", image.size, (255, 255, 255, 255))
        return Images.alpha_composite(paper, layer).convert("RGB")
    return image.convert("RGB")


def _eight_bits(image: Image) -> UInt8[np.ndarray, "h w"]:
    values = np.asarray(image, dtype=np.float64)
    if image.mode == "F":
        values = values * 255 if values.max() <= 1 else values
    elif image.mode.startswith("I;16") or values.max() > 255:
        values = values / SIXTEEN_BIT
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def to_pixels(image: Image) -> Pixels:
    """A picture of any mode as writable RGB samples."""
    return np.array(to_rgb(image), dtype=np.uint8)


def to_image(pixels: Pixels) -> Image:
    """RGB samples as a picture."""
    return Images.fromarray(pixels)


def fill_colour(fill: Fill, pixels: Pixels) -> tuple[int, int, int]:
    """The colour that `fill` means for this picture."""
    if fill == "black":
        return (0, 0, 0)
    if fill == "grey":
        return (GREY, GREY, GREY)
    if fill == "mean":
        return _triple(np.rint(pixels.reshape(-1, 3).mean(0)))
    if fill == "background":
        border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
        colours, counts = np.unique(border, axis=0, return_counts=True)
        return _triple(colours[counts.argmax()])
    return fill


def _triple(values: Sequence[float] | np.ndarray) -> tuple[int, int, int]:
    red, green, blue = (int(value) for value in values)
    return red, green, blue
