"""Pictures measured by the header, and decoded to RGB under a limit of pixels."""

import io
import math
import struct
import threading
import warnings
import zlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import PIL.Image
from PIL import ImageOps
from PIL.Image import Image

from foveal.data.archives import Member, check_regular
from foveal.data.errors import DataError
from foveal.data.stored import Stored as Stored

MAX_ASPECT = 200
"""Longest side over shortest; the picture processors of the Qwen-VL family refuse more."""

BOMB_PIXELS = 1 << 28
"""Never decoded, whatever the limit: such a picture takes 800 MB as RGB."""

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")
"""Kinds of pictures that are opened, by what is in the file. Pillow knows forty more, some of which start
other programs (EPS runs Ghostscript) or are seldom tested against hostile files."""

_REFUSED_STARTS = {
    b"%!PS": "EPS",
    b"\xc5\xd0\xd3\xc6": "EPS",
    b"%PDF": "PDF",
    b"8BPS": "PSD",
    b"DDS ": "DDS",
    b"\xd7\xcd\xc6\x9a": "WMF",
    b"\x00\x00\x00\x0cjP": "JPEG 2000",
    b"\xffO\xffQ": "JPEG 2000",
    b"<svg": "SVG",
    b"<?xml": "SVG or other XML",
}
"""How files of kinds that people do store begin, to name them in the refusal."""

DEPTHS = (8, 10, 12, 14, 16, 24, 32)
"""Depths in bits that samples have."""

DARK = 64
"""Of 8-bit samples: a 16-bit colour picture whose samples all lie below uses at most 14 bits."""

_OPENING = threading.Lock()
"""Filters of warnings are the process's: threads that load pictures set them one at a time."""

_BROKEN = (OSError, ValueError, SyntaxError, EOFError, IndexError, struct.error, zlib.error)
"""What Pillow raises for files that are no pictures, or broken ones."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The most pixels of a picture, and what happens to a larger one."""

    max_pixels: int
    oversize: Literal["refuse", "resize"] = "refuse"


def size(picture: Stored, limits: Limits) -> tuple[int, int]:
    """Width and height from the header alone, before any limit is applied.

    Raises: DataError when the file is missing, no picture, or too large.
    """
    return header(picture, limits)[0]


def header(picture: Stored, limits: Limits) -> tuple[tuple[int, int], str]:
    """What `size` gives, and Pillow's name of the format. Raises: DataError as `size`."""
    with _open(picture) as image:
        _check_size(image.size, picture, limits)
        return image.size, image.format or "unknown"


def decode(picture: Stored, limits: Limits) -> Image:
    """The picture as upright RGB; transparency on white, since figures are drawn in black.

    Raises: DataError as `size` does, and for a picture that breaks off.
    """
    with _open(picture) as image:
        _check_size(image.size, picture, limits)
        width, height = image.size
        scale = math.sqrt(limits.max_pixels / (width * height))
        target = (max(1, int(width * scale)), max(1, int(height * scale)))
        try:
            if scale < 1.0:
                image.draft("RGB", target)  # a JPEG is decoded at a fraction of its size
            deep = _is_deep_colour(image)
            upright = rgb(ImageOps.exif_transpose(image))
        except (*_BROKEN, PIL.Image.DecompressionBombError) as error:
            raise DataError(
                f"{picture.where}: the picture cannot be decoded: {_reason(error)}; repair or remove it"
            ) from error
    if deep and max(high for _, high in upright.getextrema()) < DARK:  # type: ignore[misc]
        raise DataError(
            f"{picture.where}: a colour picture of 16 bits per sample that uses the low ones alone, so that "
            "it reads nearly black; scale it to 8 bits per sample"
        )
    if scale < 1.0:
        if (upright.width > upright.height) != (target[0] > target[1]):
            target = target[::-1]
        upright = upright.resize(target, PIL.Image.Resampling.BICUBIC, reducing_gap=2.0)
    return upright


def rgb(image: Image) -> Image:
    """Any mode as RGB: deep grey scaled rather than cut off, transparency composed on white.

    Grey of more than 8 bits is scaled by the depth that its values use (`depth_of`), so that 12-bit data in a
    16-bit picture keep their brightness. Floats up to 1 span black to white; larger ones scale as integers.
    """
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        values = np.nan_to_num(np.asarray(image, dtype=np.float64), posinf=0.0, neginf=0.0)
        top = float(values.max(initial=0.0))
        white = 1.0 if image.mode == "F" and top <= 1.0 else 2.0 ** depth_of(top) - 1.0
        grey = np.clip(values * (255.0 / white), 0.0, 255.0)
        return PIL.Image.fromarray(grey.round().astype(np.uint8)).convert("RGB")
    if image.mode == "La":  # PIL converts it to LA alone
        image = image.convert("LA")
    if image.has_transparency_data:
        figure = image.convert("RGBA")
        return PIL.Image.alpha_composite(PIL.Image.new("RGBA", figure.size, "white"), figure).convert("RGB")
    return image.copy() if image.mode == "RGB" else image.convert("RGB")


def depth_of(top: float) -> int:
    """Bits of the samples whose largest value is `top`: the least usual depth that holds it.

    Files say 16 where cameras and scanners fill 10, 12 or 14 bits, and seldom say so. The price: a 16-bit
    picture without a single bright pixel is taken for one of fewer bits and comes out brighter.

    >>> depth_of(4095.0), depth_of(4096.0)
    (12, 14)
    """
    return next((bits for bits in DEPTHS if top < 2.0**bits), DEPTHS[-1])


def _open(picture: Stored) -> Image:
    try:
        if isinstance(picture.content, Image):
            check_kind(picture.content, where=picture.where)
            return picture.content.copy()
        content = _file(picture.content)
        with _OPENING, warnings.catch_warnings():
            # The limit of `Limits` stands in for Pillow's warning.
            warnings.simplefilter("ignore", PIL.Image.DecompressionBombWarning)
            return PIL.Image.open(content, formats=_formats())
    except FileNotFoundError:
        raise DataError(f"{picture.where}: there is no such file any more; restore it") from None
    except PIL.Image.DecompressionBombError as error:
        raise DataError(
            f"{picture.where}: huge picture: {error}; make it smaller, or remove the row"
        ) from None
    except _BROKEN as error:
        raise DataError(
            f"{picture.where}: not a picture that can be read: {_reason(error)}{_kind_of(picture.content)}; "
            f"expected one of {', '.join(FORMATS)}; convert the file or remove the row"
        ) from error


def check_kind(image: Image, *, where: str) -> None:
    """Raises: DataError for an image in memory that Pillow opened as a kind which is not allowed.

    Opening reads the header alone: the decoder, and what it starts, runs at the first access to the pixels.
    """
    kind = image.format
    # A JPEG file with several pictures is one of MPO to Pillow.
    if kind is not None and kind not in (*FORMATS, "MPO"):
        raise DataError(
            f"{where}: the image in memory was opened as {kind}, which is not decoded; expected one of "
            f"{', '.join(FORMATS)}, or an image without a format: convert it yourself, if you trust the file",
            kind="picture",
        )


@cache
def _formats() -> tuple[str, ...]:
    """The allowed kinds that this Pillow was built with; it raises for others."""
    PIL.Image.init()
    return tuple(name for name in FORMATS if name in PIL.Image.OPEN)


def _kind_of(content: bytes | Path | Member | Image) -> str:
    """The name of a kind that is not opened on purpose."""
    try:
        start = _start_of(content)
    except OSError:
        return ""
    for beginning, name in _REFUSED_STARTS.items():
        if start.startswith(beginning):
            return f" (it is {name}, which is not opened)"
    return ""


def _start_of(content: bytes | Path | Member | Image) -> bytes:
    if isinstance(content, Image):
        return b""
    found = _file(content)
    if isinstance(found, io.BytesIO):
        return found.read(16)
    with found.open("rb") as opened:
        return opened.read(16)


def _file(content: bytes | Path | Member) -> io.BytesIO | Path:
    """What Pillow opens. Raises: OSError for a pipe, a device or a folder, and for a broken file of a zip."""
    if isinstance(content, Member):
        return io.BytesIO(content.read())
    if isinstance(content, bytes):
        return io.BytesIO(content)
    check_regular(content)
    return content


def _is_deep_colour(image: Image) -> bool:
    """Whether the file has colour of 16 bits per sample, of which Pillow keeps the upper eight."""
    tiles = getattr(image, "tile", ())
    return image.mode in ("RGB", "RGBA") and any(";16" in str(tile[3]) for tile in tiles)


def _reason(error: Exception) -> str:
    """Pillow's words, without the address of the bytes in memory."""
    if isinstance(error, PIL.UnidentifiedImageError):
        return "its bytes begin like no known kind of picture"
    return str(error)


def _check_size(measured: tuple[int, int], picture: Stored, limits: Limits) -> None:
    width, height = measured
    pixels = width * height
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise DataError(
            f"{picture.where}: {width} x {height} pixels, a side ratio above {MAX_ASPECT}; "
            "crop it or remove the row"
        )
    if pixels > limits.max_pixels and (limits.oversize == "refuse" or pixels > BOMB_PIXELS):
        way = (
            "set oversize = 'resize', or raise max_image_pixels"
            if pixels <= BOMB_PIXELS
            else "remove the row"
        )
        raise DataError(
            f"{picture.where}: huge picture of {width} x {height} = {pixels:,} pixels, "
            f"the limit is {min(limits.max_pixels, BOMB_PIXELS):,}; {way}"
        )
