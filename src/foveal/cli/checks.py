"""Folders and words of the command line, checked before any work is done."""

import tempfile
from pathlib import Path
from typing import Any

from foveal.spec import FovealError

Commands = Any
"""What `add_subparsers` gives; argparse does not export its type."""


def free_stem(folder: Path, name: str) -> Path:
    """folder/NAME, or folder/NAME-2, ...: an evaluation never writes over another."""
    stem, number = folder / name, 1
    while any(stem.with_name(stem.name + ending).exists() for ending in (".json", ".jsonl")):
        number += 1
        stem = folder / f"{name}-{number}"
    return stem


def check_words(*, model: str | None, data: str | None) -> None:
    """Raises: FovealError for an empty name, such as an unset variable of a shell leaves."""
    for option, value in (("--model", model), ("--data", data)):
        if value is not None and not value.strip():
            raise FovealError(f"{option} is empty; expected a path or hub id, or leave {option} out")


def make_folder(folder: Path, *, option: str) -> None:
    """Raises: FovealError, when there is a file in its place or it cannot be written."""
    if folder.exists() and not folder.is_dir():
        raise FovealError(f"{option} {folder} is a file; expected a folder; choose another {option}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise FovealError(
            f"{option}: nothing can be written to the folder {folder}: {error.strerror or error}; "
            f"choose another {option}"
        ) from error


def free_folder(root: Path, name: str) -> Path:
    """runs/NAME, or runs/NAME-2, ...: a run never writes into another."""
    folder, number = root / name, 1
    while folder.exists():
        number += 1
        folder = root / f"{name}-{number}"
    return folder
