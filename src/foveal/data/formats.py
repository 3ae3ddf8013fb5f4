"""The kinds of pictures that are opened, whatever a file's name says."""

from functools import cache
from pathlib import Path

import PIL.Image

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")
"""Pillow knows forty more by a file's content, some of which start other programs (EPS runs Ghostscript) or
are seldom tested against hostile files."""

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


@cache
def formats() -> tuple[str, ...]:
    """The allowed kinds that this Pillow was built with; it raises for others."""
    PIL.Image.init()
    return tuple(name for name in FORMATS if name in PIL.Image.OPEN)


def expected_of(content: object) -> str:
    """The end of a refusal: what the content is where that is known, and what is expected."""
    start = _start(content)
    known = (name for beginning, name in _REFUSED_STARTS.items() if start.startswith(beginning))
    kind = next((f" (it is {name}, which is not opened)" for name in known), "")
    return f"{kind}; expected one of {', '.join(FORMATS)}; convert the file or remove the row"


def _start(content: object) -> bytes:
    """The first bytes of a picture in memory, in a file, or of what can be read."""
    try:
        if isinstance(content, Path):
            with content.open("rb") as opened:
                return opened.read(16)
        found = content if isinstance(content, bytes) else content.read()  # type: ignore[attr-defined]
        return bytes(found[:16])
    except (OSError, AttributeError):
        return b""
