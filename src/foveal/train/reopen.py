"""The configuration of a run folder, wherever the folder is now."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from foveal.config import RunConfig, load
from foveal.tables import add_plugin_folder, read_table
from foveal.train.record import CONFIG, import_paths, require_run

OWN_DATA = "data"
"""Folder in a run folder with the rows that were in memory when it was started."""


def run_config(folder: Path, *, message: Callable[[str], None] = lambda text: None) -> RunConfig:
    """The configuration of a run; modules of one's own are found where they were when it was started.

    Raises: FovealError, when the folder holds no run, or its config cannot be read.
    """
    require_run(folder)
    for place in import_paths(folder):
        add_plugin_folder(Path(place))
    return load(moved(read_table(folder / CONFIG), folder), message=message)


def moved(table: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The tables of a run with the rows of its own folder found where that folder is now."""
    found = dict(table)
    if "data" in found:
        found["data"] = _here(found["data"], folder)
    validation = found.get("validation")
    if isinstance(validation, Mapping) and "data" in validation:
        found["validation"] = {**validation, "data": _here(validation["data"], folder)}
    return found


def _here(data: Any, folder: Path) -> Any:
    path = Path(str(data.get("path", ""))) if isinstance(data, Mapping) else Path()
    own = folder / OWN_DATA / path.name
    if path.parent.name == OWN_DATA and not path.exists() and own.is_file():
        return {**data, "path": str(own.absolute())}
    return data
