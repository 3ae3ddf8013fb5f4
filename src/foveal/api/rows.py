"""Rows that are in memory, written down where a resumed run finds them."""

import contextlib
import hashlib
import io
import json
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL.Image import Image

from foveal.data.errors import DataError
from foveal.data.pictures import check_kind, rgb
from foveal.data.problems import DataSource
from foveal.data.saved import save_problems
from foveal.spec import ConfigError
from foveal.text import printable
from foveal.train.record import CONFIG, writing
from foveal.train.reopen import OWN_DATA
from foveal.types import Problem

LOSSLESS = frozenset(("1", "L", "LA", "P", "RGB", "RGBA", "I;16"))
"""Modes of pictures that PNG holds as they are; others become RGB, as the model sees them."""

DEPTH = 32
"""Lists and tables inside each other that a cell may have."""

NAME_LENGTH = 60
"""Letters of row and column in the name of a picture's file."""

LONGEST = 60
"""Letters of the place of a cell that is too deep: it is as long as the cell is deep."""

PATH_WORDS = ("image", "img", "picture", "photo", "file", "path")
"""Parts of the names of columns whose texts may be paths of pictures."""

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")

NAMES = ("train", "validation")
"""What rows of a run are for; their files have these names."""

BATCH = 256
"""Rows of a data set that are read at once."""

EXPECTED = (
    "a path or hub id, 'world', a list of dicts (question, images, answer), a datasets.Dataset, a DataFrame, "
    "or a list of foveal.Problem"
)


class RowsFolder:
    """The folder of a run for rows that were in memory. It is made when there are some, and only what was
    made is ever taken away: files of a person may lie beside it, or in its place."""

    def __init__(self, run: Path) -> None:
        self._run = run
        self._folder = run / OWN_DATA
        self._made: list[Path] = []
        """Folders that were not there before, the outermost first."""

    def make(self) -> Path:
        """The folder, new.

        Raises: FovealError, when something has its name already, or it cannot be made.
        """
        if self._folder in self._made:
            return self._folder
        if self._folder.exists() or self._folder.is_symlink():
            raise ConfigError(
                f"{self._folder} is already there, and rows in memory are written into a new folder of that "
                f"name; choose another out="
            )
        with writing(self._folder):
            for place in (*reversed(self._run.parents), self._run, self._folder):
                if place == self._folder or not place.exists():
                    place.mkdir()  # raises where another process was faster: the folder is not ours then
                    self._made.append(place)
        return self._folder

    def discard(self) -> None:
        """Delete what was made, and no folder that holds anything else."""
        for place in reversed(self._made):
            if place == self._folder and not place.is_symlink():
                for name in NAMES:
                    shutil.rmtree(place / name, ignore_errors=True)
                    with contextlib.suppress(OSError):
                        (place / f"{name}.jsonl").unlink()
            with contextlib.suppress(OSError):
                place.rmdir()


@contextmanager
def kept_if_started(run: Path) -> Iterator[RowsFolder]:
    """The folder for rows of a run; taken away again when no run came of it."""
    rows = RowsFolder(run)
    try:
        yield rows
    except BaseException:
        if not (run / CONFIG).exists():
            rows.discard()
        raise


def is_rows(data: object) -> bool:
    """Whether this is data itself, not the name of some."""
    return not isinstance(data, str | Path | Mapping | DataSource)


def write_rows(data: Any, folder: Path, *, name: str) -> str | DataSource:
    """Write rows and pictures into the folder; the path, or the source, that reads them.

    Raises: FovealError, when they are no rows, or cannot be written.
    """
    file = folder / f"{name}.jsonl"
    with writing(file):
        (folder / name).mkdir(parents=True, exist_ok=True)
        pictures = _Pictures(folder / name)
        first = _first(data, name)
        if isinstance(first, Problem):
            wrong = next((n for n, row in enumerate(data) if not isinstance(row, Problem)), None)
            if wrong is not None:
                kind = type(data[wrong]).__name__
                raise _unexpected(name, f"item {wrong} is a {kind}, others are problems")
            return save_problems(data, file, save=pictures.save)
        with file.open("w", encoding="utf-8") as lines:
            for number, row in enumerate(_rows(data, name)):
                if not isinstance(row, Mapping):
                    raise _unexpected(name, f"item {number} is a {type(row).__name__}")
                lines.write(_line(row, number, pictures))
    return str(file.absolute())


def fingerprint(folder: Path) -> str:
    """What stands for rows in memory in a file: how many, and a hash of them and their pictures."""
    digest, rows = hashlib.sha256(), 0
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        content = file.read_bytes()
        digest.update(f"{file.relative_to(folder)}\0{len(content)}\0".encode() + content)
        rows += content.count(b"\n") if file.parent == folder else 0
    return f"in memory, {rows} rows, sha256 {digest.hexdigest()[:16]}"


def _unexpected(name: str, what: str) -> ConfigError:
    return ConfigError(f"{name}: {what}; expected {EXPECTED}")


def _first(data: Any, name: str) -> Any:
    """The first row.

    Raises: ConfigError, when this holds no rows.
    """
    if hasattr(data, "keys") and not hasattr(data, "columns"):
        raise _unexpected(
            name, f"it is a table of {', '.join(map(str, list(data.keys())[:5]))}; choose a split"
        )
    if not (hasattr(data, "__len__") and hasattr(data, "__getitem__")):
        raise _unexpected(
            name, f"it is a {type(data).__name__}, whose length is not known; make a list of it"
        )
    if len(data) == 0:
        raise ConfigError(f"{name} holds no rows; expected at least one problem")
    return None if hasattr(data, "columns") or hasattr(data, "column_names") else data[0]


def _rows(data: Any, name: str) -> Iterator[Any]:
    if hasattr(data, "with_format") and hasattr(data, "features"):
        yield from _dataset_rows(data)
    elif hasattr(data, "to_pylist"):
        yield from data.to_pylist()
    elif hasattr(data, "to_dict") and hasattr(data, "columns"):
        yield from data.to_dict("records")
    else:
        # Not `iter`: a data set of one's own may know its length and its items alone.
        yield from (data[n] for n in range(len(data)))


def _dataset_rows(data: Any) -> Iterator[dict[str, Any]]:
    """Rows of a `datasets.Dataset` with pictures as stored, and classes by their names."""
    classes = {key: kind.names for key, kind in data.features.items() if hasattr(kind, "int2str")}
    for batch in data.with_format("arrow").iter(BATCH):
        for row in batch.to_pylist():
            for key, names in classes.items():
                if isinstance(row[key], int) and 0 <= row[key] < len(names):
                    row[key] = names[row[key]]
            yield row


class _Pictures:
    """Writes pictures beside the rows; the same object is written once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._names: dict[int, tuple[object, str]] = {}
        self._written = 0

    def save(self, image: Image, name: str) -> str:
        """The path of a picture, relative to the rows."""
        known = self._names.get(id(image))
        if known is not None:
            return known[1]
        check_kind(image, where=_column(name))
        buffer = io.BytesIO()
        try:
            whole = image if image.mode in LOSSLESS else rgb(image)
            whole.save(buffer, format="PNG")
        except (OSError, ValueError, SyntaxError) as error:
            raise DataError(
                f"{_column(name)}: a picture of {image.width} x {image.height}, mode {image.mode}, cannot be "
                f"written: {error}; expected a picture that can be saved as PNG"
            ) from error
        # The object is held too: another one could get its identity.
        self._names[id(image)] = (image, self.write(buffer.getvalue(), f"{name}.png"))
        return self._names[id(image)][1]

    def write(self, content: bytes, name: str) -> str:
        """The path of a picture's bytes, relative to the rows.

        Files are numbered: names of columns that differ in what no file name holds are not one file.
        """
        safe = "".join(
            letter if letter.isascii() and letter.isalnum() or letter in "-_." else "_" for letter in name
        )
        self._written += 1
        file = f"{self._written:06d}-{Path(safe).stem[:NAME_LENGTH]}{Path(safe).suffix[:8]}"
        (self._folder / file).write_bytes(content)
        return f"{self._folder.name}/{file}"


def _column(name: str) -> str:
    """The row and column that a cell's name stands for."""
    return f"row {int(name[:6])}, column {printable(name[7:])!r}"


def _line(row: Mapping[Any, Any], number: int, pictures: _Pictures) -> str:
    """A row as a line of JSON."""
    plain = {_text(str(key), f"{number:06d}-{key}"): _plain(value, f"{number:06d}-{key}", pictures)
             for key, value in row.items()}  # fmt: skip
    try:
        return json.dumps(plain, ensure_ascii=False) + "\n"
    except ValueError as error:  # an integer of thousands of digits
        raise DataError(f"row {number} cannot be written to the run folder: {error}") from error


def _text(text: str, name: str) -> str:
    """A text that a file can hold."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{_column(name)}: character {error.start} of a text is {text[error.start]!r}, half of a pair "
            f"that stands for one character; expected text that UTF-8 can hold; mend it by "
            f"text.encode('utf-16', 'surrogatepass').decode('utf-16', 'replace')"
        ) from error
    return text


def _plain(value: Any, name: str, pictures: _Pictures, depth: int = 0) -> Any:
    """A cell as JSON holds it, its pictures as paths."""
    if depth > DEPTH:
        raise DataError(
            f"{_column(name)[:LONGEST]}...: lists or tables are more than {DEPTH} deep, or hold themselves; "
            f"expected text, numbers, pictures, or lists and tables of them"
        )
    if isinstance(value, str):
        return _picture_path(_text(value, name), name)
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Image):
        return pictures.save(value, name)
    if isinstance(value, bytes | bytearray):
        return pictures.write(bytes(value), name)
    if isinstance(value, Path):
        return _text(str(value.expanduser().absolute()), name)
    if isinstance(value, Mapping):
        if isinstance(value.get("bytes"), bytes) and set(value) <= {"bytes", "path"}:
            return pictures.write(value["bytes"], f"{name}-{Path(str(value.get('path') or '')).name}")
        return {
            _text(str(key), name): _plain(inner, f"{name}-{key}", pictures, depth + 1)
            for key, inner in value.items()
        }
    if hasattr(value, "tolist") and not hasattr(value, "filename"):
        return _array(value, name, pictures, depth)
    if isinstance(value, Sequence | set | frozenset):
        return [_plain(inner, f"{name}-{n}", pictures, depth + 1) for n, inner in enumerate(value)]
    if isinstance(getattr(value, "value", None), str | int):  # a member of an Enum
        return value.value
    raise DataError(
        f"{_column(name)}: a {type(value).__name__} cannot be written to the run folder; expected text, "
        f"numbers, pictures (PIL, bytes, or a path), lists or tables"
    )


def _picture_path(text: str, name: str) -> str:
    """The text; a relative path of a picture, which starts at the working directory, as an absolute one."""
    named = any(word in name.lower() for word in PATH_WORDS)
    if not named or "://" in text or not text.lower().endswith(SUFFIXES):
        return text
    return str(Path(text).expanduser().absolute())


def _array(value: Any, name: str, pictures: _Pictures, depth: int) -> Any:
    """Numbers of numpy and the like; what has the shape and type of a picture becomes one."""
    shape = tuple(getattr(value, "shape", ()))
    if str(getattr(value, "dtype", "")) == "uint8" and len(shape) in (2, 3) and min(shape[:2]) > 1:
        import PIL.Image

        try:
            return pictures.save(PIL.Image.fromarray(value), name)
        except (TypeError, ValueError, AttributeError) as error:
            raise DataError(
                f"{_column(name)}: an array of shape {shape} is no picture ({error}); expected height x "
                f"width x 3"
            ) from error
    return _plain(value.tolist(), name, pictures, depth + 1)
