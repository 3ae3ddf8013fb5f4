"""Pictures by path: on disk beside the data, or inside a zip that lies there. Nothing is unpacked to disk."""

import re
import stat
import threading
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from foveal.data.errors import DataError, nearest

MAX_FILE_BYTES = 1 << 28
"""Bytes of one picture inside a zip, unpacked."""
MAX_ARCHIVES = 64
"""Zips that are looked into beside one data file."""
MAX_MEMBERS = 2_000_000
"""Files inside one zip."""
MAX_ENTRIES = 1_000_000
"""Names of a folder among which its zips are looked for."""
NEAR_NAMES = 5_000
"""Names of a folder among which the nearest to a missing one is looked for."""

GENERIC = frozenset((".", "data", "dataset", "images", "image", "imgs", "img", "pictures", "figures"))
"""Leading folders of a path that depend on where its makers kept the set; dropped when nothing lies there."""


@dataclass(frozen=True, kw_only=True)
class Member:
    """A file inside a zip."""

    archive: zipfile.ZipFile
    name: str

    def read(self) -> bytes:
        """Its bytes, at most `MAX_FILE_BYTES`. Raises: OSError for a broken or larger one."""
        info = self.archive.getinfo(self.name)
        if info.file_size > MAX_FILE_BYTES:
            raise OSError(f"{info.file_size:,} bytes unpacked, more than {MAX_FILE_BYTES:,}")
        try:
            with self.archive.open(info) as file:
                return file.read(MAX_FILE_BYTES)
        except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, ValueError) as error:
            raise OSError(f"broken in its zip: {error}") from error


class Places:
    """Where the relative picture paths of a data file may lie: folders, and zips inside these."""

    def __init__(self, roots: Iterable[Path]) -> None:
        """`roots` in the order in which they are tried."""
        self.roots = tuple(dict.fromkeys(roots))
        self._members: dict[str, list[Member]] | None = None
        self._opening = threading.Lock()

    def find(self, path: str) -> Path | Member | None:
        """The file of a path as the data has it; None when it lies nowhere.

        Tried in order: the path below each root; the same without leading folders of a generic name (`data`,
        `images`); then files of the zips whose whole path ends with it. Never a file of another folder that
        has the same last name alone.
        """
        given = Path(path).expanduser()
        if given.is_absolute():
            return given if _is_there(given) else None
        ways = list(_ways(path))
        for way in ways:
            for root in self.roots:
                for place in (root / way, root / "images" / way):
                    if _is_there(place):
                        return place
        return self._in_archives([way for way in ways if ".." not in way.split("/")])

    def missing(self, path: str) -> str:
        """What a message says of a path that lies nowhere."""
        given = Path(path).expanduser()
        root = Path() if given.is_absolute() or not self.roots else self.roots[0]
        folder = (root / given).parent
        if not folder.is_dir():
            return f"; the folder {folder} does not exist; paths are relative to the data file"
        names = (entry.name for entry in islice(folder.iterdir(), NEAR_NAMES))
        return nearest(given.name, names) or f" in {folder}; paths are relative to the data file"

    def _in_archives(self, ways: list[str]) -> Member | None:
        with self._opening:
            if self._members is None:
                self._members = _members(self.roots)
        for way in ways:
            named = self._members.get(way.rpartition("/")[2], [])
            found = [one for one in named if one.name == way or one.name.endswith(f"/{way}")]
            if len(found) == 1 or (found and found[0].name == way):
                return found[0]
            if found:
                places = ", ".join(f"{one.archive.filename}:{one.name}" for one in found[:3])
                raise DataError(
                    f"{way} is in several zips: {places}; unpack the right one beside the data file"
                )
        return None


def _ways(path: str) -> Iterator[str]:
    """The path, then the path without its leading generic folders, one after the other."""
    parts = [part for part in path.replace("\\", "/").split("/") if part not in ("", ".")]
    yield "/".join(parts)
    while len(parts) > 1 and parts[0].casefold() in GENERIC:
        parts = parts[1:]
        yield "/".join(parts)


def _is_there(place: Path) -> bool:
    try:
        place.stat()
    except (OSError, ValueError):
        return False
    return True


def check_regular(place: Path) -> None:
    """Nothing but files is ever opened: a pipe would hang, a device may never end. Raises: OSError."""
    mode = place.stat().st_mode
    if not stat.S_ISREG(mode):
        kind = "folder" if stat.S_ISDIR(mode) else "pipe" if stat.S_ISFIFO(mode) else "device or socket"
        raise OSError(f"it is a {kind}, not a file")


def _members(roots: Iterable[Path]) -> dict[str, list[Member]]:
    """Last name -> the files of that name in the zips of these folders, without links and paths with `..`."""
    found: dict[str, list[Member]] = {}
    for archive in islice(_archives(roots), MAX_ARCHIVES):
        for info in islice(archive.infolist(), MAX_MEMBERS):
            parts = re.split(r"[/\\]", info.filename)
            is_link = stat.S_ISLNK(info.external_attr >> 16)
            if info.is_dir() or is_link or info.flag_bits & 1 or ".." in parts or parts[0] == "":
                continue
            found.setdefault(parts[-1], []).append(Member(archive=archive, name=info.filename))
    return found


def _archives(roots: Iterable[Path]) -> Iterator[zipfile.ZipFile]:
    for root in roots:
        try:
            names = sorted(
                entry for entry in islice(root.iterdir(), 100_000) if entry.suffix.lower() == ".zip"
            )
        except OSError:
            continue
        for name in names:
            try:
                check_regular(name)
                yield zipfile.ZipFile(name)
            except (OSError, zipfile.BadZipFile, ValueError):
                continue
