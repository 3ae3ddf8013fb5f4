"""Keyword arguments as settings: nested tables, dotted keys, or double underscores."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from foveal.config import DEFAULTS
from foveal.rewards.adapters import reward_from
from foveal.spec import Component, ConfigError
from foveal.switches import switch_type
from foveal.tables import own_copy, read_table, shipped
from foveal.types import Objective, Reward

Table = dict[str, Any]
Message = Callable[[str], None]
Rewards = Sequence[Any] | str | Reward | Mapping[str, Any] | Callable[..., Any]
"""One reward or several: a name, a table, a `Reward`, or a function (see `foveal.reward`)."""


def table_of(config: str | Path | Mapping[str, Any] | None) -> Table:
    """The tables that settings are put into: of a shipped config by name, a file, or a mapping.

    Raises: ConfigError, when there is no such config.
    """
    if config is None:
        return dict(own_copy(DEFAULTS))
    if isinstance(config, Mapping):
        return dict(own_copy(config))
    if not isinstance(config, str | Path):
        raise ConfigError(
            f"config is a {type(config).__name__}; expected the name of a shipped config, a TOML file, or a "
            f"dict"
        )
    return read_table(shipped(str(config)))


def apply_settings(table: Table, settings: Mapping[str, Any], *, message: Message) -> None:
    """Put settings into the table, in place.

    `optimizer={"lr": 1e-4}`, `optimizer__lr=1e-4` and `**{"optimizer.lr": 1e-4}` are the same. A table with a
    `type` replaces one of another type as a whole.
    Raises: ConfigError for a place that is no table.
    """
    for path, value in _flat((), settings):
        kind = value if path[-1] == "type" and isinstance(value, str) else None
        if kind is not None and len(path) > 1:
            switch_type(table, path[:-1], kind, message=message)
        _put(table, path, _plain(value))


def _flat(place: tuple[str, ...], settings: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], Any]]:
    for key, value in settings.items():
        path = (*place, *str(key).replace("__", ".").split("."))
        if not all(path):
            raise ConfigError(f"setting {key!r} is no place in a config; write it as optimizer__lr=1e-4")
        if isinstance(value, Mapping) and "type" not in value:
            yield from _flat(path, value)
        else:
            yield path, value


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else own_copy(value)


def _put(table: Table, path: Sequence[str], value: Any) -> None:
    here: Any = table
    for depth, key in enumerate(path[:-1]):
        here = here[_index(here, key, path)] if isinstance(here, list) else here.setdefault(key, {})
        if not isinstance(here, dict | list):
            kind = f"{type(here).__name__} object" if isinstance(here, Component) else repr(here)
            place = ".".join(path[: depth + 1])
            raise ConfigError(
                f"setting {'.'.join(path)}: {place} is {kind}, not a table; give the whole of it in one place"
            )
    here[_index(here, path[-1], path) if isinstance(here, list) else path[-1]] = value


def _index(values: list[Any], key: str, path: Sequence[str]) -> int:
    if not key.isdigit() or int(key) >= len(values):
        raise ConfigError(f"setting {'.'.join(path)}: {key!r} is not a place in a list of {len(values)}")
    return int(key)


def put_objective(table: Table, objective: Any, *, message: Message) -> None:
    """The objective by its name, as a table, as an instance, or as a class of which one is made."""
    if isinstance(objective, type) and issubclass(objective, Objective):
        objective = objective()
    if isinstance(objective, str):
        known = table.setdefault("objective", {"type": objective})
        if isinstance(known, str | Component):
            table["objective"] = {"type": objective}
        switch_type(table, ["objective"], objective, message=message)
    elif isinstance(objective, Mapping):
        apply_settings(table, {"objective": objective}, message=message)
    elif isinstance(objective, Objective):
        table["objective"] = objective
    else:
        raise ConfigError(
            f"objective is a {type(objective).__name__}; expected a name such as 'papo', a dict with a type, "
            f"or an objective such as foveal.PAPO(kl_prcp_coef=0.02)"
        )


def rewards_of(rewards: Rewards) -> list[Any]:
    """Rewards as a config takes them; functions become rewards."""
    return [_reward(reward) for reward in as_list(rewards)]


def as_list(rewards: Rewards) -> list[Any]:
    """One reward or several, as a list."""
    if isinstance(rewards, Sequence) and not isinstance(rewards, str):
        return list(rewards)
    return [rewards]


def _reward(reward: Any) -> Any:
    if isinstance(reward, str | Reward):
        return reward
    if isinstance(reward, Mapping):
        function = reward.get("type")
        if not callable(function):
            return dict(reward)
        rest = {key: value for key, value in reward.items() if key != "type"}
        return reward_from(function, **rest)
    if isinstance(reward, type) and issubclass(reward, Reward):
        return reward()
    if callable(reward):
        return reward_from(reward)
    raise ConfigError(
        f"a reward is a {type(reward).__name__}; expected a name such as 'boxed', a dict with a type, a "
        f"function, or an object derived from foveal.Reward"
    )
