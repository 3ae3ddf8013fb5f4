"""Pictures as rows store them: found, measured by the header, decoded to RGB under a limit of pixels."""

import io
import math
import struct
import threading
import warnings
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import PIL.Image
from PIL import ImageOps
from PIL.Image import Image

from foveal.data.errors import DataError, nearest

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

_OPENING = threading.Lock()
"""Filters of warnings are the process's: threads that load pictures set them one at a time."""

_BROKEN = (OSError, ValueError, SyntaxError, EOFError, IndexError, struct.error, zlib.error)
"""What Pillow raises for files that are no pictures, or broken ones."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The most pixels of a picture, and what happens to a larger one."""

    max_pixels: int
    oversize: Literal["refuse", "resize"] = "refuse"


@dataclass(frozen=True, kw_only=True)
class Stored:
    """A picture not opened yet: its bytes, or its file. `where` names row and picture in messages."""

    content: bytes | Path
    where: str


def stored(value: object, *, folder: Path | None, where: str) -> tuple[Stored, ...]:
    """The pictures in a cell: one or a list of {bytes, path} tables, bytes, or paths relative to `folder`.

    Raises: DataError for any other type.
    """
    values = value if isinstance(value, Sequence) and not isinstance(value, str | bytes) else [value]
    found = [item for item in values if item is not None and item != ""]
    return tuple(
        _stored(item, folder, f"{where}, picture {n + 1} of {len(found)}") for n, item in enumerate(found)
    )


def _stored(value: object, folder: Path | None, where: str) -> Stored:
    path = value
    if isinstance(value, Mapping):
        content, path = value.get("bytes"), value.get("path")
        if isinstance(content, bytes):
            name = f" ({path})" if path else ""
            return Stored(content=content, where=where + name)
    if isinstance(value, bytes):
        return Stored(content=value, where=where)
    if not isinstance(path, str):
        raise DataError(
            f"{where}: expected a path, bytes, or a table with `bytes` or `path`, got {_kind(value)}; "
            "name the column that holds pictures with images_column = 'NAME'"
        )
    if path.startswith(("http://", "https://")):
        raise DataError(f"{where}: {path} is an address; download the picture and write its path instead")
    return Stored(content=(folder or Path()) / path, where=f"{where} ({path})")


def _kind(value: object) -> str:
    if isinstance(value, Mapping):
        return f"a table with {', '.join(map(str, value)) or 'nothing'}"
    return f"{type(value).__name__} {str(value)[:40]!r}"


def size(picture: Stored, limits: Limits) -> tuple[int, int]:
    """Width and height from the header alone, before any limit is applied.

    Raises: DataError when the file is missing, no picture, or too large.
    """
    with _open(picture) as image:
        _check_size(image.size, picture, limits)
        return image.size


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
            upright = rgb(ImageOps.exif_transpose(image))
        except (*_BROKEN, PIL.Image.DecompressionBombError) as error:
            raise DataError(
                f"{picture.where}: the picture cannot be decoded: {_reason(error)}; repair or remove it"
            ) from error
    if scale < 1.0:
        if (upright.width > upright.height) != (target[0] > target[1]):
            target = target[::-1]
        upright = upright.resize(target, PIL.Image.Resampling.BICUBIC, reducing_gap=2.0)
    return upright


def rgb(image: Image) -> Image:
    """Any mode as RGB: 16-bit grey scaled rather than cut off, transparency composed on white."""
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        values = np.asarray(image, dtype=np.float64)
        top = float(values.max(initial=0.0))
        grey = (
            values / 257.0
            if image.mode != "F" and top > 255.0
            else values * (255.0 if 0.0 < top <= 1.0 else 1.0)
        )
        return PIL.Image.fromarray(np.clip(grey, 0.0, 255.0).round().astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        figure = image.convert("RGBA")
        return PIL.Image.alpha_composite(PIL.Image.new("RGBA", figure.size, "white"), figure).convert("RGB")
    return image.copy() if image.mode == "RGB" else image.convert("RGB")


def _open(picture: Stored) -> Image:
    try:
        with _OPENING, warnings.catch_warnings():
            # The limit of `Limits` stands in for Pillow's warning.
            warnings.simplefilter("ignore", PIL.Image.DecompressionBombWarning)
            content = picture.content
            return PIL.Image.open(
                io.BytesIO(content) if isinstance(content, bytes) else content, formats=_formats()
            )
    except FileNotFoundError:
        raise DataError(f"{picture.where}: there is no such file{_near_file(picture.content)}") from None
    except PIL.Image.DecompressionBombError as error:
        raise DataError(
            f"{picture.where}: huge picture: {error}; make it smaller, or remove the row"
        ) from None
    except _BROKEN as error:
        raise DataError(
            f"{picture.where}: not a picture that can be read: {_reason(error)}{_kind_of(picture.content)}; "
            f"expected one of {', '.join(FORMATS)}; convert the file or remove the row"
        ) from error


@cache
def _formats() -> tuple[str, ...]:
    """The allowed kinds that this Pillow was built with; it raises for others."""
    PIL.Image.init()
    return tuple(name for name in FORMATS if name in PIL.Image.OPEN)


def _kind_of(content: bytes | Path) -> str:
    """The name of a kind that is not opened on purpose."""
    try:
        start = content[:16] if isinstance(content, bytes) else _start_of(content)
    except OSError:
        return ""
    for beginning, name in _REFUSED_STARTS.items():
        if start.startswith(beginning):
            return f" (it is {name}, which is not opened)"
    return ""


def _start_of(file: Path) -> bytes:
    with file.open("rb") as opened:
        return opened.read(16)


def _reason(error: Exception) -> str:
    """Pillow's words, without the address of the bytes in memory."""
    if isinstance(error, PIL.UnidentifiedImageError):
        return "its bytes begin like no known kind of picture"
    return str(error)


def _near_file(content: bytes | Path) -> str:
    if isinstance(content, bytes):
        return ""
    if not content.parent.is_dir():
        return f"; the folder {content.parent} does not exist; paths are relative to the data file"
    return nearest(content.name, (entry.name for entry in content.parent.iterdir())) or (
        f" in {content.parent}; paths are relative to the data file"
    )


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
