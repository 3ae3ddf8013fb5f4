"""Configuration base: frozen pydantic models, and components chosen by `type`.

A component (objective, perturbation, reward, ...) is written in a config as a table with a `type`: either a
short name of this library or the import path of a class of yours, `"my_file:MyClass"` or
`"my.package.module:MyClass"`.
"""

import difflib
import importlib
import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, ValidationError


class FovealError(Exception):
    """A mistake of the user's that the command line prints without a traceback.

    The message says what is wrong (with the value), what was expected and where to change it.
    """


class ConfigError(FovealError):
    """A configuration that cannot be run."""


class Config(BaseModel):
    """Base of every configuration: frozen; unknown keys, NaN and infinities refused."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        validate_default=True,
        arbitrary_types_allowed=True,
        allow_inf_nan=False,
    )


class Component(Config):
    """A configuration that is also the thing it configures, chosen by `type`."""

    type: str = ""
    """Short name, or import path `module:Class`, under which the component was chosen."""


def load_class(path: str, *, kind: str) -> type[Component]:
    """Import the class named by `module:Class`; a module may be a file beside the working directory.

    Raises: ConfigError, when the module or the class does not exist or is not a `Component`.
    """
    module_name, _, class_name = path.partition(":")
    if not module_name or not class_name:
        raise ConfigError(f"{kind} type {path!r} is not an import path; write it as 'my_file:MyClass'")
    module = _load_module(module_name, kind=kind, path=path)
    found = getattr(module, class_name, None)
    if found is None:
        near = difflib.get_close_matches(class_name, [n for n in vars(module) if not n.startswith("_")], n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"{kind} type {path!r}: module {module_name!r} has no {class_name!r}{hint}")
    if not (isinstance(found, type) and issubclass(found, Component)):
        raise ConfigError(f"{kind} type {path!r} is not a class derived from foveal.spec.Component")
    return found


def _load_module(name: str, *, kind: str, path: str) -> Any:
    file = Path(name if name.endswith(".py") else name.replace(".", "/") + ".py")
    try:
        if file.is_file():
            alias = f"foveal_plugin_{file.resolve().as_posix().replace('/', '_').replace('.', '_')}"
            if alias in sys.modules:
                return sys.modules[alias]
            spec = importlib.util.spec_from_file_location(alias, file.resolve())
            if spec is None or spec.loader is None:
                raise ImportError(f"{file} is not a Python file")
            module = importlib.util.module_from_spec(spec)
            sys.modules[alias] = module
            try:
                spec.loader.exec_module(module)
            except BaseException:
                del sys.modules[alias]
                raise
            return module
        return importlib.import_module(name)
    except (ImportError, SyntaxError) as error:
        raise ConfigError(
            f"{kind} type {path!r} cannot be imported: {error}; expected an installed module, or a file "
            f"{file} below {Path.cwd()}"
        ) from error


def build_component(value: object, registry: Mapping[str, str], *, kind: str) -> Component:
    """Make a component from a table with a `type`, a bare name, or an instance.

    `registry` maps short names to import paths, so that nothing is imported that is not used.
    Raises: ConfigError for an unknown name (with the nearest one), or a bad field.
    """
    if isinstance(value, Component):
        return value
    if isinstance(value, str):
        value = {"type": value}
    if not isinstance(value, Mapping) or not isinstance(value.get("type"), str):
        raise ConfigError(
            f"{kind} needs a `type`, one of {', '.join(sorted(registry))}, or 'my_file:MyClass'"
        )
    name = value["type"]
    if ":" in name:
        cls = load_class(name, kind=kind)
    elif name in registry:
        cls = load_class(registry[name], kind=kind)
    else:
        near = difflib.get_close_matches(name, list(registry), n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ConfigError(
            f"unknown {kind} type {name!r}; {hint}known: {', '.join(sorted(registry))}, or an import path "
            f"'my_file:MyClass'"
        )
    try:
        return cls.model_validate(dict(value))
    except ValidationError as error:
        raise ConfigError(explain(error, cls, where=f"{kind} {name!r}")) from error


def explain(
    error: ValidationError, model: type[BaseModel], *, where: str, overrides: Mapping[str, str] | None = None
) -> str:
    """A validation error as lines a person can act on; an unknown key comes with the nearest known one.

    `overrides` maps places to the words of the overrides that set them: those are named instead of `where`.
    """
    lines, given = [], where
    for item in error.errors():
        place = ".".join(str(part) for part in item["loc"])
        where = _origin(place, overrides or {}) or given
        if item["type"] == "extra_forbidden":
            owner = _owner(model, item["loc"])
            known = list(owner.model_fields) if owner is not None else []
            near = difflib.get_close_matches(str(item["loc"][-1]), known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; known keys: {', '.join(known)}"
            lines.append(f"{where}: unknown key {place!r}{hint}")
        elif item["type"] == "missing":
            lines.append(
                f"{where}: {place!r} is missing; set it in the config or with an override {place}=VALUE"
            )
        else:
            lines.append(f"{where}: {place} = {item.get('input')!r}: {item['msg']}")
    return "\n".join(lines)


def _origin(place: str, overrides: Mapping[str, str]) -> str | None:
    """The last override that set this place, a table around it, or something below it."""
    found = [
        words
        for key, words in overrides.items()
        if f"{place}.".startswith(f"{key}.") or f"{key}.".startswith(f"{place}.")
    ]
    return f"override {found[-1]!r}" if found else None


def _owner(model: type[BaseModel], place: tuple[int | str, ...]) -> type[BaseModel] | None:
    """The model whose key `place` names, following nested models."""
    for part in place[:-1]:
        field = model.model_fields.get(str(part))
        # An optional table is annotated as `Model | None`.
        choices = (field.annotation, *get_args(field.annotation)) if field is not None else ()
        inner = [c for c in choices if isinstance(c, type) and issubclass(c, BaseModel)]
        if not inner:
            return None
        model = inner[0]
    return model
