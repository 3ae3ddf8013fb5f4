"""Files of a run folder: written whole or not at all, and read as what anyone may have changed."""

import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL.Image import Image

from foveal.boundary import door, require_name
from foveal.boundary import reason as reason_of
from foveal.spec import FovealError
from foveal.text import shortened

METRICS = "metrics.jsonl"
COMPLETIONS = "completions.jsonl"
EVENTS = "events.jsonl"
CONFIG = "config.toml"
MEASURED = "measured.json"
SUMMARY = "summary.json"
MANIFEST = "manifest.json"
LOCK = "lock"

FILES = (METRICS, COMPLETIONS, EVENTS, CONFIG, MEASURED, SUMMARY, MANIFEST, LOCK)
FOLDERS = ("checkpoints", "pictures", "validation")


def save_picture(image: Image, file: Path) -> None:
    """Write a PNG unless it is there, whole or not at all."""
    if file.is_file():
        return
    hidden = file.with_name(f".{file.name}.partial")
    with writing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        image.convert("RGB").save(hidden, format="PNG")
        hidden.replace(file)


def read_lines(file: Path, *, stepped: bool = False) -> list[dict[str, Any]]:
    """The lines of a JSONL file, each a table, with its step where they are `stepped`; a last line that was
    cut off, perhaps within a letter, is left out.

    Raises: FovealError for another line that is broken: what follows it would be lost.
    """
    found: list[dict[str, Any]] = []
    # Not splitlines: a completion may hold separators of lines that JSON does not escape.
    with door(str(file), "check its permissions"):
        lines = file.read_bytes().split(b"\n")
    for number, line in enumerate(lines, start=1):
        try:
            one: object = json.loads(line)
        except (ValueError, RecursionError):
            one = None
        if isinstance(one, dict) and (not stepped or isinstance(one.get("step"), int)):
            found.append(one)
        elif any(later.strip() for later in lines[number:]):
            shown = shortened(line[:80].decode(errors="replace"), 60)
            raise FovealError(
                f"{file} line {number} is broken: {shown!r} is no table{' with a step' * stepped}; delete "
                f"that line, or the file where its lines are not needed"
            )
        else:
            break
    return found


def write_json(file: Path, value: object) -> None:
    """Write JSON, whole or not at all."""
    write_text(file, json.dumps(finite(value), indent=1, ensure_ascii=False, allow_nan=False))


def write_text(file: Path, text: str) -> None:
    """Write a file beside its place and move it there."""
    hidden = file.with_name(f".{file.name}.partial")
    with writing(file):
        with hidden.open("w", encoding="utf-8") as handle:
            handle.write(text)
            handle.flush()
            os.fsync(handle.fileno())
        hidden.replace(file)


@contextmanager
def writing(file: Path) -> Iterator[None]:
    """Turns a failed write into an error that says the way out.

    Raises: FovealError.
    """
    try:
        yield
    except OSError as error:
        raise FovealError(
            f"{file} cannot be written: {error.strerror or error}; nothing finished is lost: make room "
            f"on the disk, then go on with `foveal train --resume RUN`, or start again where no step is done"
        ) from error


def require_run(path: Path) -> None:
    """Raises: FovealError, when the folder holds no run."""
    require_name(path, where="the run folder")
    if not (path / CONFIG).is_file():
        near = sorted(str(p.parent) for p in path.glob(f"*/{CONFIG}")) if path.is_dir() else []
        hint = f"; did you mean {near[0]}?" if near else ""
        raise FovealError(f"no run in {path}: it has no {CONFIG}{hint}")


def require_sound(path: Path) -> None:
    """Raises: FovealError, where something else stands in the place of a run's file or folder: a pipe would
    hold up whoever opens it."""
    for name in (*FILES, *FOLDERS):
        place, folder = path / name, name in FOLDERS
        right = place.is_dir() if folder else place.is_file()
        if (place.exists() or place.is_symlink()) and not right:
            kind = "folder" if folder else "file"
            raise FovealError(
                f"{place} is no {kind}; expected the {kind} of that name in a run folder; move it away"
            )


def import_paths(path: Path) -> list[str]:
    """Folders in which a run finds the plug-in modules that its config names.

    Raises: FovealError, when they cannot be read.
    """
    otherwise = "modules of your own are then looked for in the working directory alone"
    found = read_table(path / MANIFEST, needs={"import_paths": list}, otherwise=otherwise)
    places = found["import_paths"] if found else []
    return [place for place in places if isinstance(place, str) and "\0" not in place]


def read_table(file: Path, *, needs: Mapping[str, type], otherwise: str) -> dict[str, Any] | None:
    """A JSON table with values of these types; None where there is no file."""
    if not file.is_file():
        return None
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        reason = "it is not a table"
        if isinstance(found, dict):
            bad = [key for key, kind in needs.items() if type(found.get(key)) is not kind]
            if not bad:
                return found
            reason = f"{bad[0]} is {found.get(bad[0])!r}"
    except (OSError, ValueError, RecursionError) as error:
        reason = reason_of(error)
    raise FovealError(f"{file} cannot be read: {reason}; delete it to go on without it: {otherwise}")


def json_line(value: Mapping[str, Any]) -> str:
    """A line of a JSONL file."""
    return json.dumps(finite(value), ensure_ascii=False, allow_nan=False) + "\n"


def finite(value: object) -> object:
    """The value with null for NaN and infinities, which JSON does not know."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: finite(inner) for key, inner in value.items()}
    return [finite(inner) for inner in value] if isinstance(value, list | tuple) else value
