"""Configs as tables: TOML files that extend others, shipped ones by name, overrides. Nothing is checked."""

import difflib
import sys
import tomllib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from foveal.boundary import reason, require_name
from foveal.spec import ConfigError
from foveal.text import shortened

MOST_EXTENDS = 16
"""Configs that may extend one another."""

MOST_DEPTH = 32
"""Tables and lists in one another."""

MOST_BYTES = 4 << 20
"""Longest config file."""

PLUGIN_FOLDERS: list[str] = []
"""Folders of the configs that were read: plug-in modules are found beside them."""


def shipped(name: str) -> Path:
    """The path of a config: a file as it is, or the name of one that ships with the package."""
    own = Path(str(resources.files("foveal") / "configs" / f"{name}.toml"))
    return own if own.is_file() and not Path(name).is_file() else Path(name)


def read_table(
    source: Path | Mapping[str, Any] | None, *, extended_by: tuple[Path, ...] = ()
) -> dict[str, Any]:
    """The tables of a TOML file; its folder becomes a place for plug-in modules.

    A key `extends = "other.toml"` starts from that file, relative to this one; tables are merged, other
    values replaced.
    """
    if source is None:
        return {}
    if not isinstance(source, Path):
        return dict(own_copy(source))
    require_name(source, where="the config")
    if not source.is_file():
        raise ConfigError(f"no such config file: {source}{_similar_files(source)}")
    if len(extended_by) >= MOST_EXTENDS:
        raise ConfigError(
            f"{extended_by[0]} extends a file that extends another, and so on, more than {MOST_EXTENDS} "
            f"times; put what they hold into fewer files"
        )
    table = _read_toml(source)
    add_plugin_folder(source.resolve().parent)
    base = table.pop("extends", None)
    if base is None:
        return table
    chain = (*extended_by, source.resolve())
    if not isinstance(base, str):
        raise ConfigError(
            f"{source}: extends = {base!r} is not the path of a TOML file; write it relative to this one"
        )
    require_name(source.parent / base, where=f"{source}: extends")
    if (source.parent / base).resolve() in chain:
        circle = " -> ".join(path.name for path in (*chain, source.parent / base))
        raise ConfigError(f"{source}: extends = {base!r} goes round in a circle ({circle}); leave one out")
    return _merged(read_table(source.parent / base, extended_by=chain), table)


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        if file.stat().st_size > MOST_BYTES:
            raise ConfigError(f"{file} has {file.stat().st_size >> 20} MB; expected a short TOML file")
        table = tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is not valid TOML: {error}") from error
    except RecursionError as error:
        raise ConfigError(f"{file}: tables or lists stand too deep in one another") from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file} cannot be read: {reason(error)}") from error
    if _depth(table) > MOST_DEPTH:
        raise ConfigError(f"{file}: tables or lists stand more than {MOST_DEPTH} deep in one another")
    return table


def _depth(value: object) -> int:
    """How many tables and lists stand in one another; counted up to one more than are allowed."""
    level, deep = [value], 0
    while level and deep <= MOST_DEPTH:
        held = [one for one in level if isinstance(one, dict | list)]
        level = [item for one in held for item in (one.values() if isinstance(one, dict) else one)]
        deep += 1
    return deep


def add_plugin_folder(folder: Path) -> None:
    """Let plug-in modules be imported from a folder, after all other places."""
    name = str(folder)
    if name not in PLUGIN_FOLDERS:
        PLUGIN_FOLDERS.append(name)
    if name not in sys.path:
        sys.path.append(name)


def _similar_files(wanted: Path) -> str:
    """The config that may be meant: one beside it or a shipped one of a similar name, else those beside
    it."""
    beside = sorted(wanted.parent.glob("*.toml")) if wanted.parent.is_dir() else []
    own = sorted((Path(str(resources.files("foveal"))) / "configs").glob("*.toml"))
    places = {path.stem: path.stem for path in own} | {path.stem: str(path) for path in beside}
    near = difflib.get_close_matches(wanted.stem, list(places), n=1)
    if near:
        return f"; did you mean {places[near[0]]}?"
    return f"; found {', '.join(str(path) for path in beside[:5])}" if beside else ""


def apply_override(table: dict[str, Any], override: str) -> None:
    """Set `a.b.c=value` in nested tables; the value is read as TOML, or taken as text where it is not
    TOML."""
    path, separator, text = override.partition("=")
    keys = path.strip().split(".")
    if not separator or not all(keys):
        raise ConfigError(f"override {override!r} is not of the form section.key=value")
    try:
        value: Any = tomllib.loads(f"value = {text}")["value"]
    except (tomllib.TOMLDecodeError, ValueError):
        value = text
    except RecursionError:
        value = None
    if value is None or len(keys) + _depth(value) > MOST_DEPTH:
        shown = shortened(override, 80)
        raise ConfigError(f"override {shown!r}: more than {MOST_DEPTH} tables or lists in one another")
    here: Any = table
    for key in keys[:-1]:
        here = here[_index(here, key, override)] if isinstance(here, list) else here.setdefault(key, {})
        if not isinstance(here, dict | list):
            whole = f'{path.strip().rpartition(".")[0]}={{type="{here}", {keys[-1]}=...}}'
            hint = f"; give the whole table, as in '{whole}'" if isinstance(here, str) else ""
            raise ConfigError(f"override {override!r}: {key!r} is a value, not a table{hint}")
    if isinstance(here, list):
        here[_index(here, keys[-1], override)] = value
    else:
        here[keys[-1]] = value


def _index(values: list[Any], key: str, override: str) -> int:
    if not key.isdigit() or int(key) >= len(values):
        raise ConfigError(f"override {override!r}: {key!r} is not a place in a list of {len(values)}")
    return int(key)


def _merged(base: Mapping[str, Any], table: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the values of `table`; a table with another `type` replaces the base's as a whole."""
    found = dict(base)
    for key, value in table.items():
        before = base.get(key)
        found[key] = value
        if isinstance(value, Mapping) and isinstance(before, Mapping):
            kind = before.get("type")
            found[key] = _merged(before, value) if value.get("type", kind) == kind else value
    return found


def own_copy(value: Any) -> Any:
    """Tables and lists of one's own, to be changed by overrides; other values as they are."""
    if isinstance(value, Mapping):
        return {key: own_copy(inner) for key, inner in value.items()}
    return [own_copy(inner) for inner in value] if isinstance(value, list | tuple) else value
