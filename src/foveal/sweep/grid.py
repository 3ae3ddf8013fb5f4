"""What a sweep varies: the words of `--set` and the table [sweep], as arms of named overrides."""

import hashlib
import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from pydantic import Field

from foveal.evaluation.compare import COLD_START
from foveal.spec import Config, ConfigError

ARM = "arm"
"""Key of the axis whose values are the named arms."""

NAME_LENGTH = 40
"""Characters of a value that a folder's name has room for."""

OPENING, CLOSING, QUOTES = "[{", "]}", "\"'"


class SweepTable(Config):
    """The table [sweep] of a config."""

    seeds: int = Field(4, ge=1)
    """Runs of each arm, with seeds 0, 1, ..."""
    problems: int = Field(1000, ge=2)
    """Held-out problems that every run is evaluated on."""
    set: dict[str, Any] = {}
    """Key of the config -> list of its values; several keys make a grid."""
    arms: dict[str, dict[str, Any]] = {}
    """Name -> keys that are set together; each arm is combined with the grid of `set`."""


@dataclass(frozen=True, kw_only=True)
class Axis:
    """One thing that is varied, and its values as TOML (of named arms: their names)."""

    key: str
    values: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One point of the grid."""

    name: str
    """Fit for a folder."""
    label: str
    """For people."""
    point: Mapping[str, Any]
    """Axis -> value, as read from TOML."""
    overrides: tuple[str, ...]
    """What it sets, as `foveal train` takes it."""


def axis_of(words: str) -> Axis:
    """An axis from `section.key=value,value,...`; commas inside brackets and quotes do not separate.

    Raises: ConfigError for anything else.
    """
    key, separator, text = words.partition("=")
    if not separator or not all(part.strip() for part in key.split(".")):
        raise ConfigError(f"--set {words!r} is not of the form section.key=value,value,...")
    return _checked(Axis(key=key.strip(), values=tuple(_split(text, words))), where=f"--set {words!r}")


def axes_of(table: SweepTable, sets: Sequence[str]) -> tuple[Axis, ...]:
    """The axes of `--set` after those of the table; of the same key the former counts.

    Raises: ConfigError for a key without a list of values, or given twice.
    """
    found: dict[str, Axis] = {}
    for key, values in _flat(table.set, lists=True):
        if not isinstance(values, list):
            raise ConfigError(f"[sweep.set] {key} = {values!r} is not a list of values; write {key} = [...]")
        axis = Axis(key=key, values=tuple(map(toml, values)))
        found[key] = _checked(axis, where=f"[sweep.set] {key}")
    given: set[str] = set()
    for axis in map(axis_of, sets):
        if axis.key in given:
            raise ConfigError(f"--set {axis.key} is given twice; put all its values into one, by commas")
        given.add(axis.key)
        found[axis.key] = axis
    for key in found:
        require_no_seed(key)
    return tuple(found.values())


def require_no_seed(key: str) -> None:
    """Raises: ConfigError for the key `seed`: every arm is run with seeds of the sweep's own."""
    if key.strip() == "seed":
        raise ConfigError("the seed is varied for every arm; give their number by --seeds instead")


def arms_of(table: SweepTable, axes: Sequence[Axis]) -> list[Arm]:
    """Every named arm with every point of the grid, the last axis fastest.

    Raises: ConfigError, when nothing is varied, or a name is no folder's.
    """
    named = {name: _overrides(name, keys) for name, keys in table.arms.items()}
    if not named and not axes:
        raise ConfigError(
            "nothing is varied; give --set section.key=value,value,... or a [sweep] table with set or arms"
        )
    short = _short_names([axis.key for axis in axes])
    found = []
    for name in named or [None]:
        for values in product(*(axis.values for axis in axes)):
            pairs = list(zip(axes, values, strict=True))
            slugs = [f"{short[axis.key]}-{_slug(value)}" for axis, value in pairs]
            labels = [f"{short[axis.key]} = {_shown(value)}" for axis, value in pairs]
            found.append(
                Arm(
                    name="-".join([*([name] if name else []), *slugs]),
                    label=", ".join([*([name] if name else []), *labels]),
                    point={**({ARM: name} if name else {}), **{a.key: read(v) for a, v in pairs}},
                    overrides=(
                        *(named[name] if name else ()),
                        *(f"{axis.key}={value}" for axis, value in pairs),
                    ),
                )
            )
    _require_unique([arm.name for arm in found])
    return found


def read(text: str) -> Any:  # noqa: ANN401
    """A value as overrides read it: TOML, or the text itself."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def toml(value: object) -> str:
    """A value of a config on one line of TOML."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(str(k))} = {toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(toml, value)) + "]"
    return str(value)


def _checked(axis: Axis, *, where: str) -> Axis:
    """Raises: ConfigError for no value, or one given twice."""
    if not axis.values:
        raise ConfigError(f"{where} has no value")
    seen: list[Any] = []
    for text in axis.values:
        value = read(text)
        if any(value == other and type(value) is type(other) for other in seen):
            raise ConfigError(f"{where} has the value {text} twice; leave one out")
        seen.append(value)
    return axis


def _split(text: str, words: str) -> Iterator[str]:
    """The parts between top-level commas."""
    depth, quote, begin = 0, "", 0
    for place, letter in enumerate(text):
        if quote:
            quote = "" if letter == quote else quote
        elif letter in QUOTES:
            quote = letter
        elif letter in OPENING:
            depth += 1
        elif letter in CLOSING:
            depth -= 1
        elif letter == "," and depth == 0:
            yield _part(text[begin:place], words)
            begin = place + 1
    if quote or depth:
        what = f"a quote {quote}" if quote else "a bracket"
        raise ConfigError(f"--set {words!r}: {what} is not closed; put the whole word in quotes of the shell")
    yield _part(text[begin:], words)


def _part(text: str, words: str) -> str:
    if not text.strip():
        raise ConfigError(f'--set {words!r} has an empty value; an empty text is written as ""')
    return text.strip()


def _flat(table: Mapping[str, Any], *, lists: bool, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values. A table below a key without dots is taken apart, so that unquoted keys and
    headers of tables work; a table below a quoted key with dots is a value.
    """
    for key, value in table.items():
        if isinstance(value, Mapping) and value and (lists or "." not in key):
            yield from _flat(value, lists=lists, prefix=f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _overrides(name: str, keys: Mapping[str, Any]) -> tuple[str, ...]:
    if not re.fullmatch(r"[A-Za-z0-9][\w+-]*", name):
        raise ConfigError(
            f"[sweep.arms] {name!r} names a folder and a part of a key; expected letters, digits, _ + -"
        )
    if name == COLD_START:
        raise ConfigError(
            f"[sweep.arms] {name!r} is the name of the model before training; rename that arm, since its "
            f"results would be taken for that model's"
        )
    found = dict(_flat(keys, lists=False))
    for key in found:
        require_no_seed(key)
    return tuple(f"{key}={toml(value)}" for key, value in found.items())


def _short_names(keys: Sequence[str]) -> dict[str, str]:
    """Of each key as many of its last parts as tell it from the others."""
    found = {}
    for key in keys:
        parts = key.split(".")
        count = 1
        while count < len(parts) and any(
            other != key and other.split(".")[-count:] == parts[-count:] for other in keys
        ):
            count += 1
        found[key] = ".".join(parts[-count:])
    return found


def _slug(value: str) -> str:
    """A value as part of a folder's name; cut or changed ones keep a digest of the whole."""
    plain = value.strip("\"'")
    safe = re.sub(r"[^\w.+-]+", "_", plain).strip("_.")[:NAME_LENGTH]
    if safe == plain and plain:
        return safe
    digest = hashlib.blake2b(value.encode(), digest_size=3).hexdigest()
    return f"{safe}-{digest}" if safe else digest


def _shown(value: str) -> str:
    found = read(value)
    return found if isinstance(found, str) else value


def _require_unique(names: Sequence[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"two arms would be called {twice[0]!r}; rename one of [sweep.arms]")
