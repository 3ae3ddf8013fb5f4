"""Components that are given as objects: the import path by which a resumed run finds their classes again."""

import importlib
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from foveal.spec import PLUGIN_FILES, Component, ConfigError, explain
from foveal.tables import add_plugin_folder

_INSTALLED = (sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"), sysconfig.get_path("platlib"))

if TYPE_CHECKING:
    from pydantic._internal._model_construction import ModelMetaclass

    Told = ModelMetaclass
else:

    class Told(type(Component)):
        """The metaclass of what a person makes by `foveal.PAPO(...)`: a wrong field raises the same
        ConfigError as in a config file."""

        def __call__(cls, *arguments: Any, **fields: Any) -> Any:  # noqa: ANN401
            """The object. Raises: ConfigError for fields that it does not take."""
            try:
                return super().__call__(*arguments, **fields)
            except ValidationError as error:
                kind = next(base for base in reversed(cls.__mro__) if isinstance(base, Told)).__name__.lower()
                raise ConfigError(explain(error, cls, where=f"{kind} {cls.__name__}")) from error


def with_import_path(component: Component) -> Component:
    """The component with the import path of its class as `type`, where it is a class of the user's.

    A class derived from a shipped one inherits that one's `type`: saved under it, a resumed run would go on
    with the shipped class. A class that cannot be imported is left as it is: `require_importable` says so.
    """
    path = _path(type(component))
    if path is None or component.type == path or _loaded_by_path(component):
        return component
    return component.model_copy(update={"type": path})


def require_importable(values: object, *, place: str = "") -> None:
    """Raises: ConfigError for a component whose class a resumed run could not find."""
    for where, component in _components(values, place):
        cls = type(component)
        if _is_ours(cls) or _loaded_by_path(component) or _path(cls) is not None:
            continue
        kind = where.split(".")[0].removesuffix("s") or "component"
        raise ConfigError(
            f"{where}: {cls.__qualname__} is defined in {_home(cls)}, where a resumed run cannot find it; "
            f"put the class into a file of its own, such as my_file.py, and import it from there (or write "
            f"{kind} type = 'my_file:{cls.__name__}')"
        )


def _components(values: object, place: str) -> Iterator[tuple[str, Component]]:
    if isinstance(values, Component):
        yield place, values
    if isinstance(values, Mapping):
        for key, value in values.items():
            yield from _components(value, f"{place}.{key}" if place else str(key))
    elif isinstance(values, list | tuple):
        for index, value in enumerate(values):
            yield from _components(value, f"{place}.{index}")
    elif isinstance(values, BaseModel):
        for name in type(values).model_fields:
            yield from _components(getattr(values, name), f"{place}.{name}" if place else name)


def _is_ours(cls: type) -> bool:
    return cls.__module__.split(".")[0] == "foveal"


def _loaded_by_path(component: Component) -> bool:
    """Whether it was chosen by the path that its `type` names: by a file, whose module has a made-up name."""
    module = sys.modules.get(type(component).__module__)
    return ":" in component.type and str(getattr(module, "__file__", None)) in PLUGIN_FILES


def _path(cls: type) -> str | None:
    """`module:Class`, where importing that gives this class; None for one of ours, of a main script, of a
    notebook or of a function."""
    if _is_ours(cls) or cls.__module__ == "__main__" or "." in cls.__qualname__:
        return None
    try:
        module = importlib.import_module(cls.__module__)
    except ImportError:
        return None
    if getattr(module, cls.__name__, None) is not cls:
        return None
    file = getattr(module, "__file__", None)
    if file is not None and not str(file).startswith(_INSTALLED):
        # Where a resumed run looks for it, from whatever folder it is started.
        add_plugin_folder(Path(file).resolve().parents[cls.__module__.count(".")])
        PLUGIN_FILES.add(str(file))
    return f"{cls.__module__}:{cls.__name__}"


def _home(cls: type) -> str:
    if cls.__module__ == "__main__":
        return "a notebook or main script"
    return "a function" if "<locals>" in cls.__qualname__ else f"{cls.__module__} under another name"
