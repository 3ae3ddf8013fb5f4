"""What perturbations share: any picture as RGB, and the colour that stands for "nothing here"."""

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
    samples are scaled to 8 bits, and float samples are read as 0..1 when none is above 1, else as 0..255; a
    sample that is not a number is black.
    Raises: FovealError for a picture without pixels.
    """
    if image.width == 0 or image.height == 0:
        raise FovealError(
            f"a picture of {image.width} x {image.height} pixels has nothing to see; remove it from the data"
        )
    if image.mode == "RGB" and "transparency" not in image.info:
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
    values = np.nan_to_num(np.asarray(image, dtype=np.float64), nan=0.0)
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


def fill_colour(fill: Fill, picture: Image) -> tuple[int, int, int]:
    """The colour that `fill` means for this RGB picture."""
    if fill == "black":
        return (0, 0, 0)
    if fill == "grey":
        return (GREY, GREY, GREY)
    if fill == "mean":
        counts = np.array(picture.histogram(), dtype=np.int64).reshape(3, 256)
        return _triple(np.rint(counts @ np.arange(256) / (picture.width * picture.height)))
    if fill == "background":
        return _commonest_border(picture)
    return fill


def _commonest_border(picture: Image) -> tuple[int, int, int]:
    """The colour of most border pixels, a corner counting for both of its edges; of equals the darkest red
    first."""
    width, height = picture.size
    edges = (
        (0, 0, width, 1),
        (0, height - 1, width, height),
        (0, 0, 1, height),
        (width - 1, 0, width, height),
    )
    border = np.concatenate([to_pixels(picture.crop(edge)).reshape(-1, 3) for edge in edges])
    codes, counts = np.unique(border @ np.array([1 << 16, 1 << 8, 1]), return_counts=True)
    commonest = int(codes[counts.argmax()])
    return commonest >> 16, commonest >> 8 & 255, commonest & 255


def _triple(values: np.ndarray) -> tuple[int, int, int]:
    red, green, blue = (int(value) for value in values)
    return red, green, blue
