"""Configuration base: frozen pydantic models, and components chosen by `type`.

A component (objective, perturbation, reward, ...) is written in a config as a table with a `type`: either a
short name of this library or the import path of a class of yours, `"my_file:MyClass"` or
`"my.package.module:MyClass"`.
"""

import difflib
import importlib
import importlib.util
import re
import sys
import sysconfig
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, cast, get_args

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, ValidationError
from pydantic_core import CoreSchema, ErrorDetails, PydanticCustomError, core_schema

from foveal.foreign import Held, answers
from foveal.text import printable, shortened

PLUGIN_FILES: set[str] = set()
"""Files of the modules that components were imported from by path."""

_FOREIGN = (str(Path(__file__).parent), sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"), "<")
"""How the names of files begin that no user wrote."""

_BRANCH = re.compile(r"(literal|tuple|list|dict|function-\w+)\[.*|constrained-\w+|int|float|str|bool|none")
"""What pydantic puts into a place to name a branch of a union."""


VALUE_LENGTH = 300
"""Characters of a value in a message."""

MESSAGE_LENGTH = 6000
"""Characters of a message: a value that is longer than a screen hides what is wrong with it."""


class FovealError(Exception):
    """A mistake of the user's that the command line prints without a traceback.

    The message says what is wrong (with the value), what was expected and where to change it. Values in it
    come from anywhere: control characters are shown, not obeyed, and what is endless is cut.
    """

    status: ClassVar[int] = 2
    """What the command ends with."""

    def __init__(self, message: str = "") -> None:
        super().__init__(shortened(printable(message), MESSAGE_LENGTH))


class ConfigError(FovealError):
    """A configuration that cannot be run."""


_OPAQUE = ("metadata", "config", "cls", "function", "default", "default_factory", "expected", "serialization")
"""Keys of a schema that hold no schema of a field's value."""


def _number(value: object) -> object:
    if isinstance(value, bool | str):
        raise PydanticCustomError("int_type", "Input should be a valid integer")
    return value


def _as_given(schema: Any) -> Any:
    """The schema with numbers and truth values that are taken as they are given, or not at all."""
    if isinstance(schema, list):
        return [_as_given(item) for item in schema]
    if isinstance(schema, tuple):
        return tuple(_as_given(item) for item in schema)
    if not isinstance(schema, dict):
        return schema
    kind = schema.get("type")
    if kind in ("bool", "float"):
        return {**schema, "strict": True}
    if kind == "function-before" and schema["function"].get("function") is _number:
        return schema
    if kind == "int":
        return core_schema.no_info_before_validator_function(_number, cast(CoreSchema, schema))
    return {key: value if key in _OPAQUE else _as_given(value) for key, value in schema.items()}


class Config(BaseModel):
    """Base of every configuration: frozen; unknown keys, NaN and infinities refused."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        validate_default=True,
        arbitrary_types_allowed=True,
        allow_inf_nan=False,
    )

    @classmethod
    def __get_pydantic_core_schema__(
        cls, source: type[BaseModel], handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        """The fields' own types alone: no `true` for 1, no "5" for 5. A whole float stands for an integer."""
        return _as_given(handler(source))  # type: ignore[no-any-return]


class Component(Config):
    """A configuration that is also the thing it configures, chosen by `type`."""

    type: str = ""
    """Short name, or import path `module:Class`, under which the component was chosen."""

    required: ClassVar[tuple[str, ...]] = ()
    """Methods that a class derived from this one has to write itself."""

    @classmethod
    def chain(cls, table: object) -> "Chain":
        """This class, and those of the bases that a table of it (or an instance) holds, outermost first."""
        return (cls,)


Chain = tuple[type[Component], ...]
"""A class, and those of the bases inside it, outermost first."""


def load_object(path: str, *, kind: str) -> Any:
    """Import what is named by `module:name` or `file.py:name`; a file is looked for in the working directory,
    then where Python looks, which is beside the config too.

    Raises: ConfigError, when the module or the name does not exist.
    """
    module_name, _, class_name = path.rpartition(":")
    if not module_name or not class_name:
        raise ConfigError(f"{kind} type {path!r} is not an import path; write it as 'my_file:MyClass'")
    module = _load_module(module_name, kind=kind, path=path)
    found = getattr(module, class_name, None)
    if found is None and (module_name == "__main__" or "." in class_name):
        raise ConfigError(
            f"{kind} type {path!r} was made in a script, a notebook or a function, and is not there any "
            f"more; put the class into a file, or go on from the program that made it"
        )
    if found is None:
        near = difflib.get_close_matches(class_name, [n for n in vars(module) if not n.startswith("_")], n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"{kind} type {path!r}: module {module_name!r} has no {class_name!r}{hint}")
    return found


def load_class(path: str, *, kind: str, base: type[Component] = Component) -> type[Component]:
    """Import the class named by `module:Class`; a module may be a file beside the working directory.

    Raises: ConfigError, when the module or the class does not exist, is not derived from `base`, or lacks a
    method that `base` leaves to it.
    """
    found = load_object(path, kind=kind)
    if not (isinstance(found, type) and issubclass(found, base)):
        # Perturbations are told, and imported in the docs, from where the other kinds are.
        origin = base.__module__.replace("foveal.views", "foveal.types")
        raise ConfigError(f"{kind} type {path!r} is not a class derived from {origin}.{base.__name__}")
    lacking = [name for name in base.required if getattr(found, name) is getattr(base, name)]
    if lacking:
        raise ConfigError(
            f"{kind} type {path!r} is not finished: it has no {', '.join(lacking)} of its own; write what "
            f"the class {base.__name__} leaves open, as its docstrings say"
        )
    return found


def absolute_path(path: str) -> str:
    """An import path that holds in any working directory: that of a file by the file's own."""
    name, _, attribute = path.rpartition(":")
    file = _plugin_file(name)
    return f"{file.resolve()}:{attribute}" if file.is_file() else path


def _plugin_file(name: str) -> Path:
    """The file that a module's name stands for, which need not be there."""
    file = Path(name if name.endswith(".py") else name.replace(".", "/") + ".py")
    if name.endswith(".py") and not file.is_file():
        return next((Path(place) / file for place in sys.path if (Path(place) / file).is_file()), file)
    return file


def _load_module(name: str, *, kind: str, path: str) -> Any:
    file = _plugin_file(name)
    try:
        module = _from_file(file) if file.is_file() else importlib.import_module(name)
    except (Exception, SystemExit) as error:  # importing runs the user's code
        raise ConfigError(
            f"{kind} type {path!r} cannot be imported: {_told(error)}; expected an installed module, or a "
            f"file {file} below {Path.cwd()}"
        ) from error
    origin = str(getattr(module, "__file__", None))
    if not origin.startswith(_FOREIGN):
        PLUGIN_FILES.add(origin)
    return module


def _from_file(file: Path) -> Any:
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


def plugin_failure(error: BaseException) -> str | None:
    """What to tell of an error that came out of a plug-in, and its line; None, when no plug-in is in it."""
    frames = traceback.extract_tb(error.__traceback__)
    if not any(frame.filename in PLUGIN_FILES for frame in frames):
        return None
    return f"a class of your own failed: {_told(error)}"


def _told(error: BaseException) -> str:
    """An error on one line, with the user's own line that it comes from."""
    text = (str(error).strip().splitlines() or [""])[0]
    known = isinstance(error, ImportError | SyntaxError)
    words = text if known else f"{type(error).__name__}: {text}".removesuffix(": ")
    own = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(_FOREIGN)]
    return f"{words} ({own[-1].filename} line {own[-1].lineno}, in {own[-1].name})" if own else words


def build_component(
    value: object,
    registry: Mapping[str, str],
    *,
    kind: str,
    base: type[Component] = Component,
    place: str | None = None,
) -> Component:
    """Make a component from a table with a `type`, a bare name, or an instance.

    `registry` maps short names to import paths, so that nothing is imported that is not used; a class named
    by its path has to be derived from `base`. `place` is where the table stands, by default `kind`.
    Raises: ConfigError for an unknown name (with the nearest one), a class that does not fit, or a bad field.
    """
    if isinstance(value, Component):
        from foveal.instances import with_import_path

        return with_import_path(value)
    if isinstance(value, str):
        value = {"type": value}
    if not isinstance(value, Mapping) or not isinstance(value.get("type"), str):
        raise ConfigError(
            f"{kind} = {shortened(repr(value), VALUE_LENGTH)}: {kind} needs a `type`, one of "
            f"{', '.join(sorted(registry))}, or 'my_file:MyClass'"
        )
    name = value["type"]
    if ":" in name:
        cls = load_class(name, kind=kind, base=base)
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
        held = held_by(cls, value, place=place or kind) if kind == "objective" else None
        raise ConfigError(explain(error, cls, where=f"{kind} {name!r}", held=held)) from error
    except FovealError:
        raise
    except Exception as error:
        if ":" not in name:
            raise
        raise ConfigError(f"{kind} type {name!r} cannot be made: {_told(error)}; change the class") from error


def held_by(cls: type[Component], table: object, *, place: str) -> Held | None:
    """The fields of a component and its bases; None where the table names a base that there is not."""
    try:
        return Held(place, [frozenset(part.model_fields) for part in cls.chain(table)])
    except ConfigError:
        return None


def explain(
    error: ValidationError,
    model: type[BaseModel],
    *,
    where: str,
    overrides: Mapping[str, str] | None = None,
    held: Held | None = None,
) -> str:
    """A validation error as lines a person can act on; an unknown key comes with the nearest known one.

    `overrides` maps places to the words of the overrides that set them: those are named instead of `where`.
    `held`: the objective, whose base has fields of its own.
    """
    lines = []
    for loc, items in _by_place(error.errors()).items():
        place = ".".join(map(str, loc))
        origin = _origin(place, overrides or {}) or where
        kind, given = items[0]["type"], items[0].get("input")
        # Places inside a component are relative to it, so its kind is put in front.
        start = where.split()[0] if held is None else held.place
        scope = place if overrides is not None else f"{start}.{place}"
        theirs = answers(scope, given, held) if kind == "extra_forbidden" else []
        if theirs:
            # A key of another library, with ours; a table of theirs has several.
            for key, ours in theirs:
                lines.append(f"{_origin(key, overrides or {}) or where}: unknown key {key!r}; {ours}")
        elif kind == "extra_forbidden":
            owner = _owner(model, loc)
            known = list(owner.model_fields) if owner is not None else []
            near = difflib.get_close_matches(str(loc[-1]), known, n=1)
            elsewhere = held.hint(place) if held is not None and overrides is None else None
            hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}"
            lines.append(f"{origin}: unknown key {place!r}; {elsewhere or hint}")
        elif kind == "missing":
            way = f"add it to the table of this {where}"
            if overrides is not None:
                way = f"set it in the config or with an override {place}=VALUE"
            lines.append(f"{origin}: {place!r} is missing; {way}")
        else:
            reasons = "; or: ".join(_reason(item) for item in items)
            value = shortened(repr(given), VALUE_LENGTH)
            lines.append(f"{origin}: {place} = {value}: {reasons}" if place else f"{origin}: {reasons}")
    return "\n".join(lines)


def _by_place(items: Sequence[ErrorDetails]) -> dict[tuple[int | str, ...], list[ErrorDetails]]:
    """Errors by the place in the config: the branches of a union are one place, told by its whole value."""
    found: dict[tuple[int | str, ...], list[ErrorDetails]] = {}
    for item in items:
        loc = item["loc"]
        cut = next((i for i, part in enumerate(loc) if i and _BRANCH.fullmatch(str(part))), len(loc))
        found.setdefault(loc[:cut], []).append(item)
    return {loc: sorted(some, key=lambda item: len(item["loc"])) for loc, some in found.items()}


def _reason(item: ErrorDetails) -> str:
    if item["type"] in ("model_type", "dict_type"):
        return "expected a table"
    return item["msg"].removeprefix("Value error, ")


def _origin(place: str, overrides: Mapping[str, str]) -> str | None:
    """The last override that set this place, a table around it, or something below it."""
    found = [
        words
        for key, words in overrides.items()
        if f"{place}.".startswith(f"{key}.") or f"{key}.".startswith(f"{place}.")
    ]
    return f"override {shortened(repr(found[-1]), VALUE_LENGTH)}" if found else None


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
