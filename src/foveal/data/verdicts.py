"""Whether stored pictures can be decoded: found by decoding each once, remembered between runs.

A verdict is kept for good pictures alone: a bad one is decoded again, so that its message is always a fresh
one. A picture in a file is known by path, inode, size and times (a change of the content changes the inode's
time, which no program can set back), one inside the data by a hash of its bytes.
"""

import contextlib
import hashlib
import os
import stat
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import PIL
from PIL.Image import Image

from foveal.data.errors import DataError
from foveal.data.pictures import Limits, check_kind, decode, header
from foveal.data.stored import Stored

CACHE_BYTES = 256 << 20
"""The cache folder is cut to so many bytes, least recently used data sets first."""

MOST_VERDICTS = 1_000_000
"""Pictures remembered for one data set: 32 MB."""

DRAFT_PIXELS = 4096
"""A JPEG is decoded at an eighth of its size or so: all of its data is read, for two thirds of the time."""

SETTLED_S = 0.05
"""A file changed within this time could change again without a new time stamp: it is not remembered."""

_MAGIC = b"foveal pictures 1\n"
_DIGEST = 16
_RECORD = 2 * _DIGEST


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A picture that can be used."""

    size: tuple[int, int]
    """Width and height as stored, pixels."""
    format: str
    """Pillow's name, such as "JPEG"."""
    digest: bytes | None
    """Hash of the stored bytes; None where only the header was read."""


def cache_folder() -> Path:
    """$FOVEAL_CACHE, else `foveal` in $XDG_CACHE_HOME, else ~/.cache/foveal."""
    own = os.environ.get("FOVEAL_CACHE")
    if own:
        return Path(own)
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache") / "foveal"


class Verdicts:
    """Pictures of one data set that could be decoded. Never the reason why a run fails: a cache that cannot
    be read or written is none.
    """

    def __init__(self, name: str | None) -> None:
        """`name` of the data set; None remembers nothing."""
        self._file: Path | None = None
        self._known: dict[bytes, bytes] = {}
        self._new: dict[bytes, bytes] = {}
        if name is not None:
            # Another Pillow may refuse what this one takes.
            key = hashlib.blake2b(f"{name}\0{PIL.__version__}".encode(errors="replace"), digest_size=_DIGEST)
            with contextlib.suppress(RuntimeError, ValueError):  # no home folder; a NUL in the variable
                self._file = cache_folder() / "pictures" / f"{key.hexdigest()}.bin"
                self._known = _read(self._file)

    def find(self, key: bytes) -> bytes | None:
        """The hash of the bytes of a picture that was decoded; None for one not known."""
        return self._known.get(key) or self._new.get(key)

    def add(self, key: bytes, digest: bytes) -> None:
        """Remember a picture that was decoded."""
        self._new[key] = digest

    def save(self) -> None:
        """Write what is new, whole or not at all; of two processes the later one wins."""
        if self._file is None or not self._new:
            return
        records = {**self._new, **self._known}
        kept = list(records.items())[:MOST_VERDICTS]
        payload = b"".join(key + digest for key, digest in kept)
        with contextlib.suppress(OSError, ValueError):
            self._file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with tempfile.NamedTemporaryFile(dir=self._file.parent, prefix=".partial-", delete=False) as part:
                try:
                    part.write(_MAGIC + hashlib.blake2b(payload, digest_size=_DIGEST).digest() + payload)
                    part.close()
                    os.replace(part.name, self._file)
                except BaseException:
                    os.unlink(part.name)
                    raise
            self._known, self._new = dict(kept), {}
            _cut(self._file.parent)


def examine(picture: Stored, limits: Limits, verdicts: Verdicts, *, decoded: bool) -> Seen:
    """Read the header of a picture and, where `decoded`, make sure that all of it can be decoded.

    Raises: DataError as `decode` does.
    """
    size, kind = header(picture, limits)
    if not decoded:
        return Seen(size=size, format=kind, digest=None)
    key = _key(picture)
    digest = verdicts.find(key) if key is not None else None
    if digest is None:
        digest = key if key is not None and isinstance(picture.content, bytes) else _digest(picture.content)
        jpeg = kind in ("JPEG", "MPO")
        decode(picture, Limits(max_pixels=DRAFT_PIXELS, oversize="resize") if jpeg else limits)
        if key is not None:
            verdicts.add(key, digest)
    return Seen(size=size, format=kind, digest=digest)


def in_memory(image: Image, *, where: str, decoded: bool) -> Seen:
    """A picture of a problem that is no file's row; one that Pillow has only opened so far is decoded here.

    Raises: DataError, when it cannot be.
    """
    check_kind(image, where=where)
    try:
        made = _digest(image) if decoded else None
    except Exception as error:  # a decoder raises whatever it trips over
        raise DataError(
            f"{where}: the picture cannot be decoded: {error}; repair or remove it", kind="picture"
        ) from error
    return Seen(size=image.size, format=image.format or "in memory", digest=made)


def _key(picture: Stored) -> bytes | None:
    """By what a picture is known; None for one that must not be remembered."""
    content: object = picture.content
    if isinstance(content, bytes):
        return _digest(content)
    if not isinstance(content, Path):
        return None
    try:
        path = os.path.abspath(content)
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    if not stat.S_ISREG(found.st_mode) or abs(time.time() - found.st_ctime) < SETTLED_S:
        return None
    state = (path, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
    return hashlib.blake2b(repr(state).encode(errors="surrogateescape"), digest_size=_DIGEST).digest()


def _digest(content: object) -> bytes:
    """Hash of a picture as it is stored: bytes, a file, a part of an archive, or an image in memory."""
    made = hashlib.blake2b(digest_size=_DIGEST)
    if isinstance(content, Path):
        with content.open("rb") as file:
            return hashlib.file_digest(file, lambda: made).digest()
    if isinstance(content, Image):
        made.update(f"{content.mode} {content.size} ".encode() + content.tobytes())
    else:
        reader = getattr(content, "read", None)
        made.update(content if isinstance(content, bytes) else reader() if reader is not None else b"")
    return made.digest()


def _read(file: Path) -> dict[bytes, bytes]:
    """The verdicts of a file; none of one that is missing or damaged."""
    try:
        content = file.read_bytes()
        os.utime(file)  # the least recently used are removed first
    except (OSError, ValueError):
        return {}
    start = len(_MAGIC) + _DIGEST
    payload = content[start:]
    head = _MAGIC + hashlib.blake2b(payload, digest_size=_DIGEST).digest()
    if content[:start] != head or len(payload) % _RECORD:
        return {}
    return {
        payload[at : at + _DIGEST]: payload[at + _DIGEST : at + _RECORD]
        for at in range(0, len(payload), _RECORD)
    }


def _cut(folder: Path) -> None:
    """Remove the files least recently used until the folder is small enough, and what killed processes
    left."""
    files = []
    for file in folder.iterdir():
        with contextlib.suppress(OSError):
            found = file.stat()
            if file.name.startswith(".partial-") and time.time() - found.st_mtime > 3600:
                file.unlink()
            elif file.suffix == ".bin":
                files.append((found.st_mtime, found.st_size, file))
    total = sum(size for _, size, _ in files)
    for _, size, file in sorted(files):
        if total <= CACHE_BYTES:
            break
        with contextlib.suppress(OSError):
            file.unlink()
            total -= size
