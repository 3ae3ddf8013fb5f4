"""Paths of a run that hold from any working directory."""

from pathlib import Path
from typing import Any

from foveal.config import SHIPPED_MODELS, RunConfig
from foveal.data.problems import DataConfig, DataSource
from foveal.instances import require_importable
from foveal.perturbations.salient import SalientMask
from foveal.types import Perturbation


def with_absolute_paths(config: RunConfig) -> RunConfig:
    """The same run from any working directory: local files and folders by their absolute paths.

    Hub ids, names of shipped models and the procedural worlds stay as they are.
    Raises: ConfigError for a class of the user's that a resumed run could not find.
    """
    require_importable(config)
    changes: dict[str, Any] = {"data": _absolute_data(config.data)}
    model = Path(config.model.path).expanduser()
    if config.model.path not in SHIPPED_MODELS and model.is_dir():
        changes["model"] = config.model.model_copy(update={"path": str(model.absolute())})
    changes["perturbations"] = {view: _absolute_models(p) for view, p in config.perturbations.items()}
    if config.validation is not None:
        data = _absolute_data(config.validation.data)
        changes["validation"] = config.validation.model_copy(update={"data": data})
    return config.model_copy(update=changes)


def _absolute_models(perturbation: Perturbation) -> Perturbation:
    """The perturbation with the folders of saliency models, its own and those it holds, by absolute paths."""
    changes: dict[str, Any] = {}
    for name in type(perturbation).model_fields:
        value = getattr(perturbation, name)
        if isinstance(value, tuple) and any(isinstance(part, Perturbation) for part in value):
            changes[name] = tuple(_absolute_models(part) for part in value)
    if isinstance(perturbation, SalientMask):
        folder = Path(perturbation.model).expanduser()
        changes["model"] = str(folder.absolute()) if folder.is_dir() else perturbation.model
    return perturbation.model_copy(update=changes)


def _absolute_data(source: DataSource) -> DataSource:
    if not isinstance(source, DataConfig) or source.type == "hub":
        return source
    path = Path(source.path).expanduser()
    return source.model_copy(update={"path": str(path.absolute())}) if path.exists() else source
