"""Paths of a run that hold from any working directory."""

from pathlib import Path
from typing import Any

from foveal.config import SHIPPED_MODELS, RunConfig
from foveal.data.problems import DataConfig, DataSource


def with_absolute_paths(config: RunConfig) -> RunConfig:
    """The same run from any working directory: local files and folders by their absolute paths.

    Hub ids, names of shipped models and the procedural worlds stay as they are.
    """
    changes: dict[str, Any] = {"data": _absolute_data(config.data)}
    model = Path(config.model.path).expanduser()
    if config.model.path not in SHIPPED_MODELS and model.is_dir():
        changes["model"] = config.model.model_copy(update={"path": str(model.absolute())})
    if config.validation is not None:
        data = _absolute_data(config.validation.data)
        changes["validation"] = config.validation.model_copy(update={"data": data})
    return config.model_copy(update=changes)


def _absolute_data(source: DataSource) -> DataSource:
    if not isinstance(source, DataConfig) or source.type == "hub":
        return source
    path = Path(source.path).expanduser()
    return source.model_copy(update={"path": str(path.absolute())}) if path.exists() else source
