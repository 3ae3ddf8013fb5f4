"""Finds out what a path is: a file by its suffix, a folder by what it holds, else a data set of the hub."""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

from foveal.data.bounded import short
from foveal.data.errors import DataError, listing, nearest
from foveal.data.hub import hub_rows, saved_rows
from foveal.data.readers import ParquetRows, Rows, csv_rows, json_rows, jsonl_rows

KINDS = ("auto", "parquet", "jsonl", "folder", "saved", "hub")
SPLITS = ("train", "test", "validation", "valid", "val", "dev", "heldout")

MAX_DEPTH = 4
"""Levels of folders below the given one that are looked into."""
MAX_ENTRIES = 20_000
"""Files and folders that are looked at, pictures not counted: a folder of data has a few hundred."""
MAX_PICTURES = 5_000_000
"""Pictures passed over on the way."""

MAX_NAMED = 300
"""Characters of a path in a message."""

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
_READERS: dict[str, Callable[[Path], Rows]] = {
    ".parquet": lambda path: ParquetRows([path]),
    ".jsonl": jsonl_rows,
    ".ndjson": jsonl_rows,
    ".json": json_rows,
    ".csv": csv_rows,
    ".tsv": csv_rows,
}
_SUFFIXES = {"parquet": (".parquet",), "jsonl": (".jsonl", ".ndjson", ".json")}


def open_rows(path: str, *, kind: str = "auto", split: str | None = None) -> Rows:
    """The rows at `path`, as `kind` says or as they look.

    Raises: DataError for a path that is not there (with the nearest name), or of no known kind.
    """
    if kind == "hub":
        return hub_rows(path, split=split)
    try:
        place = Path(path).expanduser()
        is_folder, is_file, there = place.is_dir(), place.is_file(), os.path.lexists(place)
    except (OSError, ValueError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DataError(f"data {short(path)} cannot be looked up: {reason}; set path") from None
    if is_folder:
        try:
            return _folder_rows(place, kind=kind, split=split)
        except OSError as error:
            raise DataError(f"{place}: cannot be read: {error.strerror or error}") from None
    if is_file:
        wanted = _SUFFIXES.get(kind, tuple(_READERS))
        suffix = place.suffix.lower()
        if kind in ("folder", "saved") or suffix not in wanted:
            expected = "a folder" if kind in ("folder", "saved") else " or ".join(wanted)
            raise DataError(f"{place}: unknown kind of file for type = {kind!r}; expected {expected}")
        if split is not None:
            raise DataError(
                f"{place} is a single file, which has no splits, but split = {split!r}; leave split out, or "
                "point path at the file of that split (folders of files, folders written by `datasets` and "
                "data sets of the hub have splits)"
            )
        return _read(place, roots=_beside(place))
    if there:
        raise DataError(
            f"{place} is no file that can be read: a broken link, a pipe, a device or a socket; set path"
        )
    if kind == "auto" and _looks_like_hub_id(path):
        return hub_rows(path, split=split)
    raise DataError(_missing(place))


def _read(place: Path, *, roots: Sequence[Path]) -> Rows:
    try:
        rows = _READERS[place.suffix.lower()](place)
    except OSError as error:
        raise DataError(f"{place}: cannot be read: {error.strerror or error}") from None
    rows.roots = tuple(roots)
    return rows


def _beside(place: Path) -> list[Path]:
    """Where pictures of a single file may lie beside its own folder: sets keep their files in `data/`."""
    return [place.parent.parent] if place.parent.name == "data" else []


def _looks_like_hub_id(path: str) -> bool:
    suffix = Path(path).suffix.lower()
    known = suffix in _READERS or suffix in _PICTURES
    return _HUB_ID.fullmatch(path) is not None and not known and not Path(path).parent.is_dir()


def _missing(place: Path) -> str:
    folder = place.parent
    if not folder.is_dir():
        there = f"there is no folder {_named(folder)} (seen from {Path.cwd()})"
        return f"data {_named(place)} does not exist: {there}; set path"
    try:
        names = sorted(entry.name for entry in islice(folder.iterdir(), MAX_ENTRIES))
    except OSError:
        names = []
    hint = nearest(place.name, names) or f"; {folder} holds {listing(names) or 'nothing'}"
    return f"data {_named(place)} does not exist{hint}"


def _named(place: Path) -> str:
    """A path for a message, its beginning where it is very long."""
    return str(place) if len(str(place)) <= MAX_NAMED else short(str(place), limit=MAX_NAMED)


def _folder_rows(folder: Path, *, kind: str, split: str | None) -> Rows:
    if kind == "saved" or (kind == "auto" and _is_saved(folder)):
        return saved_rows(folder, split=split)
    metadata = _metadata(folder / split if split else folder)
    if metadata is not None and kind in ("auto", "folder"):
        return _read(metadata, roots=[folder])
    whole = _metadata(folder) if split else None
    if whole is not None and kind in ("auto", "folder"):
        raise DataError(
            f"{whole} describes the whole folder, which has no splits, but split = {split!r}; leave split "
            f"out, or put that split's rows into {folder / str(split) / whole.name}"
        )
    every = _files(folder)
    for suffixes in ((".parquet",), (".jsonl", ".ndjson"), (".json",), (".csv", ".tsv")):
        files = sorted(path for path in every if path.suffix.lower() in suffixes)
        if suffixes == (".json",):
            files = [path for path in files if path.name not in _ABOUT] or files
        if not files or (kind in _SUFFIXES and suffixes[0] not in _SUFFIXES[kind]) or kind == "folder":
            continue
        chosen = _of_split(files, folder, split)
        if suffixes == (".parquet",):
            rows = ParquetRows(chosen)
            rows.roots = (folder,)
            return rows
        if len(chosen) == 1:
            return _read(chosen[0], roots=[folder])
        raise DataError(
            f"{folder} holds several files: {listing(_relative(chosen, folder))}; set path to one of them"
        )
    found = sorted(entry.name for entry in islice(folder.iterdir(), MAX_ENTRIES))
    pictures = sum(name.lower().endswith(_PICTURES) for name in found)
    what = (
        f"{pictures} pictures but no metadata.jsonl or metadata.csv; write one line per problem "
        "with file_name, question and answer"
        if pictures
        else f"no parquet, JSONL or metadata file; it holds {listing(found) or 'nothing'}"
    )
    raise DataError(f"{folder} has {what}")


def _metadata(folder: Path) -> Path | None:
    names = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _is_saved(folder: Path) -> bool:
    return (folder / "dataset_dict.json").is_file() or (
        (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file()
    )


def _files(folder: Path) -> list[Path]:
    """Data files below a folder, hidden ones and links to folders left out; bounded in depth and number.

    Raises: DataError for a folder with too many other things, such as a home or the whole disk.
    """
    found: list[Path] = []
    level, others, pictures = [folder], 0, 0
    for _ in range(MAX_DEPTH):
        below: list[Path] = []
        for entry in (entry for place in level for entry in _entries(place)):
            suffix = os.path.splitext(entry.name)[1].lower()
            is_picture = suffix in _PICTURES
            others, pictures = others + (not is_picture), pictures + is_picture
            if others > MAX_ENTRIES or pictures > MAX_PICTURES:
                raise DataError(
                    f"{folder} holds more than {MAX_ENTRIES:,} files and folders, so it is no folder of a "
                    "data set; set path to the folder or the file of the data"
                )
            if entry.name.startswith("."):
                continue
            try:
                if entry.is_dir(follow_symlinks=False):
                    below.append(Path(entry.path))
                elif suffix in _READERS and entry.is_file():
                    found.append(Path(entry.path))
            except OSError:
                continue  # a link to where nobody may look
        level = below
    return found


def _entries(place: Path) -> Iterator[os.DirEntry[str]]:
    """What a folder holds, as far as it may be read."""
    try:
        with os.scandir(place) as entries:
            yield from entries
    except OSError:
        return


_ABOUT = frozenset(("dataset_info.json", "dataset_infos.json", "state.json", "config.json"))
"""JSON files about a set, which hold no rows."""


def _relative(files: Sequence[Path], folder: Path) -> list[str]:
    return [str(path.relative_to(folder)) for path in files]


def _of_split(files: Sequence[Path], folder: Path, split: str | None) -> list[Path]:
    """The files of one split, known by folder or start of the name; never training and test mixed."""
    splits = {path: _split_name(path.relative_to(folder), split) for path in files}
    known = sorted({name for name in splits.values() if name is not None})
    if split is not None:
        chosen = [path for path in files if splits[path] == split]
        if chosen:
            return chosen
        have = listing(known) if known else f"none; it holds {listing(_relative(files, folder))}"
        raise DataError(f"{folder} has no files of split {split!r}{nearest(split, known)}; splits: {have}")
    if len(known) > 1:
        raise DataError(f"{folder} holds several splits: {listing(known)}; choose one with split = 'NAME'")
    return list(files)


def _split_name(path: Path, wanted: str | None) -> str | None:
    """The split of a file, by its folder, the start of its name, or the hub's `NAME-00000-of-00001`."""
    names = SPLITS if wanted is None else (wanted, *SPLITS)
    parts = [part.lower() for part in path.parts]
    for name in names:
        if name.lower() in parts[:-1] or re.match(rf"{re.escape(name.lower())}(?:[-_.]|$)", parts[-1]):
            return name
    shard = re.fullmatch(r"(.+)-\d{5}-of-\d{5}", path.stem)
    return shard[1] if shard else None
