"""Pictures as rows store them, not opened yet: bytes, base64, data: URLs, paths, files of zips, objects."""

import base64
import binascii
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from PIL.Image import Image

from foveal.data.archives import Member, Places
from foveal.data.bounded import list_text, short, well_formed
from foveal.data.errors import DataError

MAX_PATH = 4096
"""Characters of a path; longer text is a picture in base64 or nothing."""

_DATA_URL = re.compile(r"data:[\w/+.-]*(?:;[\w=.-]+)*,", re.ASCII)
_BASE64 = re.compile(r"[A-Za-z0-9+/_\-\s]+={0,2}\s*")
_MAGIC = ("iVBORw0KGgo", "/9j/", "R0lGOD", "UklGR", "Qk", "SUkq", "TU0A")
"""How base64 of PNG, JPEG, GIF, WebP, BMP and TIFF begins."""


@dataclass(frozen=True, kw_only=True)
class Stored:
    """A picture not opened yet: its bytes, its file, or an image object. `where` names row and picture."""

    content: bytes | Path | Member | Image
    where: str


def stored(
    value: object, *, folder: Path | None, where: str, places: Places | None = None
) -> tuple[Stored, ...]:
    """The pictures in a cell: one or a list of {bytes, path} tables, bytes, base64 text, data: URLs, paths.

    Relative paths are looked for in `places`, by default in `folder` and the zips inside it.
    Raises: DataError for any other type.
    """
    found = list(filled(value))
    places = places or Places([folder] if folder is not None else [])
    return tuple(
        _stored(item, places, f"{where}, picture {n + 1} of {len(found)}") for n, item in enumerate(found)
    )


def filled(value: object) -> Iterator[Any]:
    """The pictures of a cell that are there, one by one; a list written as text is read."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        items = list_text(value)
        value = value if items is None else items
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        value = [value]
    for item in value:
        if (
            item is None
            or (isinstance(item, str) and not item.strip())
            or (isinstance(item, bytes) and not item)
        ):
            continue
        if isinstance(item, Mapping) and all(part in (None, "", b"") for part in item.values()):
            continue
        yield item


def _stored(value: object, places: Places, where: str) -> Stored:
    if isinstance(value, bytes | bytearray | memoryview):
        return Stored(content=bytes(value), where=where)
    if isinstance(value, Image):
        return Stored(content=value, where=where)
    if isinstance(value, Mapping):
        return _table(value, places, where)
    if isinstance(value, PurePath):
        value = str(value)
    if not isinstance(value, str):
        raise DataError(
            f"{where}: expected a path, bytes, or a table with `bytes` or `path`, got {_kind(value)}; "
            "name the column that holds pictures with images_column = 'NAME'"
        )
    return _text(value.strip(), places, where)


def _table(value: Mapping[str, Any], places: Places, where: str) -> Stored:
    content, path = value.get("bytes"), value.get("path")
    if isinstance(content, bytes | bytearray):
        name = f" ({short(path, limit=120)[1:-1]})" if isinstance(path, str) and path else ""
        return Stored(content=bytes(content), where=where + name)
    if isinstance(content, str) and content:
        return _text(content.strip(), places, where)
    if isinstance(path, str) and path:
        return _text(path.strip(), places, where)
    for key in ("image", "base64", "data", "image_url", "url", "file_name"):
        inner = value.get(key)
        if isinstance(inner, Mapping):
            inner = inner.get("url") or inner.get("bytes") or inner.get("path")
        if isinstance(inner, bytes | Image) or (
            isinstance(inner, str) and inner and (key != "url" or _is_data(inner) or ":" in inner)
        ):
            return _stored(inner, places, where)
    raise DataError(
        f"{where}: expected a path, bytes, or a table with `bytes` or `path`, got {_kind(value)}; "
        "name the column that holds pictures with images_column = 'NAME'"
    )


def _text(text: str, places: Places, where: str) -> Stored:
    if _is_data(text):
        head, _, body = text.partition(",")
        if not head.endswith(";base64"):
            raise DataError(f"{where}: a data: URL that is not base64 ({short(head)}); write it as base64")
        return Stored(content=_decoded(body, where), where=f"{where} (data: URL)")
    if _looks_like_base64(text):
        return Stored(content=_decoded(text, where), where=f"{where} (base64)")
    if text.startswith("file://"):
        text = text.removeprefix("file://")
    elif re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", text):
        raise DataError(
            f"{where}: {short(text, limit=120)} is an address; download the picture and write its path "
            "instead"
        )
    if len(text) > MAX_PATH or "\x00" in text or not well_formed(text):
        raise DataError(
            f"{where}: {len(text):,} characters that are no path and no picture in base64: {short(text)}"
        )
    found = places.find(text)
    if found is None:
        raise DataError(
            f"{where} ({short(text, limit=200)[1:-1]}): there is no such file{places.missing(text)}"
        )
    return Stored(content=found, where=f"{where} ({short(text, limit=200)[1:-1]})")


def _is_data(text: str) -> bool:
    return text.startswith("data:") and _DATA_URL.match(text[:200]) is not None


def _looks_like_base64(text: str) -> bool:
    """Text that begins like a picture in base64, or is longer than any path and of its letters alone."""
    begins = text.startswith(_MAGIC) and len(text) > 64
    return (begins or len(text) > MAX_PATH) and _BASE64.fullmatch(text) is not None


def _decoded(text: str, where: str) -> bytes:
    try:
        return base64.b64decode("".join(text.split()).replace("-", "+").replace("_", "/"), validate=True)
    except (binascii.Error, ValueError) as error:
        raise DataError(
            f"{where}: broken base64 of {len(text):,} characters ({error}); write the picture's bytes again, "
            "or its path"
        ) from None


def _kind(value: object) -> str:
    if isinstance(value, Mapping):
        return f"a table with {', '.join(short(key, limit=40)[1:-1] for key in list(value)[:8]) or 'nothing'}"
    return f"{type(value).__name__} {short(str(value)[:100], limit=42)}"
