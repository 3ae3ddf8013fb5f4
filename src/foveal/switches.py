"""One-word changes of a config: another `type` by an override, a validation switched off, other data.

An override such as `objective.type=cppo` would leave a table of settings that belong to the old type. Here
the rest of the config follows: the base is kept, what the new method needs beside it is filled in, and each
change is printed.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from foveal import objectives, rewards
from foveal.crosscheck import perturbed_views
from foveal.objectives.extension import Extension
from foveal.objectives.presets import with_preset
from foveal.spec import Component, ConfigError, FovealError, build_component, load_class
from foveal.tables import apply_override
from foveal.types import Objective

Message = Callable[[str], None]
Table = dict[str, Any]

VIEW_FIELDS = ("removed_view", "preserved_view", "noised_view")

USUAL_VIEWS: Mapping[str, Mapping[str, Any]] = {
    "removed": {"type": "patch_mask"},
    "preserved": {"type": "random_choice", "options": ["colour", "perspective", "rotation"]},
    "noised": {"type": "diffusion_noise"},
}
"""What a view is when nobody says: PAPO's mask, CPPO's three changes that keep the answer, NoisyRollout's
noise."""

METHOD_VIEWS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "cppo": {
        "removed": {
            "type": "random_choice",
            "options": [
                {"type": "occlusion", "rectangles": 50},
                {"type": "crop", "smallest": 0.6, "largest": 0.7},
            ],
        }
    },
    "vppo": {"removed": {"type": "patch_mask", "ratio": 0.5}},
    "dvrp": {
        "removed": {"type": "patch_mask", "ratio": 0.6},
        "noised": {"type": "diffusion_noise", "strength": 500, "steepness": 10.0},
    },
    "noisy_rollout": {"noised": {"type": "diffusion_noise", "strength": 500, "steepness": 30.0}},
}
"""What a method's paper or code does to a view, where that is another thing than usual."""

SCENE_REWARDS = ("facts",)
"""Rewards that read the known scene of a world: on other data they grade nothing."""


def apply_overrides(table: Table, overrides: Sequence[str], *, message: Message) -> bool:
    """Apply `a.b=value` overrides in place; whether one of them chose another objective.

    A word that sets a `type` comes first, whatever its place in the line: the others are then settings of
    the new one.
    """
    types = [word for word in overrides if _switches(word, overrides)]
    before = _type_of(table.get("objective"))
    for word in types:
        place, _, kind = word.partition("=")
        switch_type(
            table, place.strip().removesuffix(".type").split("."), kind.strip(" \"'"), message=message
        )
    for word in overrides:
        apply_override(table, word)
    return _type_of(table.get("objective")) != before


def _switches(word: str, overrides: Sequence[str]) -> bool:
    place, separator, _ = word.partition("=")
    owner = place.strip().removesuffix(".type")
    if not separator or owner == place.strip() or not owner:
        return False
    whole = [other.partition("=")[0].strip() for other in overrides]
    # A table that is set as a whole is what its own words say.
    return not any(owner == other or owner.startswith(f"{other}.") for other in whole)


def switch_type(table: Table, place: Sequence[str], kind: str, *, message: Message) -> None:
    """Make the component at a place one of another type, in place.

    What cannot be reached is left to the override, whose error says so.
    """
    holder: Any = table
    for key in place[:-1]:
        holder = _inside(holder, key)
    old = _inside(holder, place[-1])
    if isinstance(old, str):
        old = {"type": old}
    if not isinstance(old, Mapping) or _type_of(old) in (None, kind):
        return
    new = _switched(place, dict(old), kind)
    if isinstance(holder, list):
        holder[int(place[-1])] = new
    else:
        holder[place[-1]] = new
    lost = [key for key in old if key != "type" and old[key] != new.get(key)]
    kept = f"; its base is {_words(new['base'])}" if "base" in new else ""
    left = f"settings of {old['type']} are left out ({', '.join(lost)})" if lost else "nothing is left out"
    message(f"{'.'.join(place)}.type={kind}: {left}{kept}")


def _inside(holder: Any, key: str) -> Any:
    if isinstance(holder, Mapping):
        return holder.get(key)
    if isinstance(holder, list) and key.isdigit() and int(key) < len(holder):
        return holder[int(key)]
    return None


def _switched(place: Sequence[str], old: Table, kind: str) -> Table:
    if place[0] == "objective":
        return _objective(old, kind) if len(place) == 1 else {"type": kind}
    if place[0] == "rewards":
        return {"type": kind, **{key: old[key] for key in ("weight",) if key in old}}
    if place[-1] == "data":
        return {**old, "type": kind} if "world" not in (kind, old["type"]) else {"type": kind}
    return {"type": kind}


def _objective(old: Table, kind: str) -> Table:
    """The table of another method that is to be compared with the old one: on the same base.

    A method that adds to a base takes over the old one's; a base by itself is the old method's base where it
    has that type.
    """
    new, held = _class(kind), list(_bases(old))
    same = next((table for table in held if table["type"] == kind), None)
    if same is not None:
        return same
    if new is None or not issubclass(new, Extension):
        return {"type": kind}
    names = {name: old[name] for name in VIEW_FIELDS if name in old and name in new.model_fields}
    return {"type": kind, **names, "base": held[-1]}


def _bases(table: Table) -> Iterator[Table]:
    """The tables that an objective holds, from the outside in; its own first where it holds none."""
    kind = _class(table["type"])
    if kind is None or not issubclass(kind, Extension):
        yield table
        return
    base = with_preset(table, method=table["type"]).get("base", {})
    if isinstance(base, Component):
        yield {"type": base.type, **base.model_dump(mode="json", exclude_none=True)}
        return
    inner = {"type": base} if isinstance(base, str) else {"type": "grpo", **(base if _is_table(base) else {})}
    holds = _class(inner["type"])
    if holds is not None and issubclass(holds, Extension):
        yield inner
    yield from _bases(inner)


def _is_table(value: object) -> bool:
    return isinstance(value, Mapping) and isinstance(value.get("type", ""), str)


def _class(kind: str) -> type[Component] | None:
    try:
        return load_class(objectives.REGISTRY.get(kind, kind), kind="objective", base=Objective)
    except ConfigError:
        return None  # reported when the objective is built


def _type_of(value: object) -> str | None:
    if isinstance(value, Component | Mapping):
        found = value.type if isinstance(value, Component) else value.get("type")
        return found if isinstance(found, str) else None
    return value if isinstance(value, str) else None


def _words(base: object) -> str:
    if not isinstance(base, Mapping):
        return str(base)
    rest = ", ".join(f"{key} {value}" for key, value in base.items() if key != "type")
    return f"{base['type']} ({rest})" if rest else str(base["type"])


def fill_in(table: Table, *, message: Message) -> None:
    """Add the views and rewards that the objective needs and the table lacks, in place, telling of each.

    Raises: ConfigError for a reward that can grade nothing on this data.
    """
    try:
        found = build_component(table["objective"], objectives.REGISTRY, kind="objective", base=Objective)
    except FovealError:
        return  # reported when the config is checked
    if not isinstance(found, Objective):
        return
    steps = table.get("steps", 200)
    views = perturbed_views(found, steps=steps if isinstance(steps, int) and 0 < steps < 100_000 else 200)
    tables = table.setdefault("perturbations", {})
    for view in views:
        usual = METHOD_VIEWS.get(found.type, {}).get(view, USUAL_VIEWS.get(view))
        if isinstance(tables, dict) and view not in tables and usual is not None:
            tables[view] = dict(usual)
            message(f"{found.type} needs the view {view!r}: added [perturbations.{view}] {_words(usual)}")
    _add_rewards(table, found, message=message)


def _add_rewards(table: Table, objective: Objective, *, message: Message) -> None:
    graded = table.get("rewards")
    if not isinstance(graded, list | tuple):
        return
    names = {_type_of(reward) for reward in graded} | {getattr(reward, "name", None) for reward in graded}
    for name in objective.uses_rewards:
        if name in names or name not in rewards.REGISTRY:
            continue
        if name in SCENE_REWARDS and _type_of(table.get("data")) != "world":
            raise ConfigError(
                f"{objective.type} compares the reward {name!r}, which reads the known scene of a procedural "
                f"world and can grade nothing on this data; expected a reward of yours for what a completion "
                f"says of the picture: add it to [[rewards]] with weight = 0 and name it in objective.reward"
            )
        table["rewards"] = [*graded, {"type": name, "weight": 0.0}]
        message(f"{objective.type} reads the reward {name!r}: added to [[rewards]] with weight 0")


def settle_validation(
    table: Table, overrides: Sequence[str], *, other_data: str | None, message: Message
) -> None:
    """Take out a validation that is switched off (`validation=false`, `validation.every=0`), and one on the
    data set that the config was published with when the run has other data.

    Raises: ConfigError, when overrides ask for a validation without naming its data, or by another value
    than a table.
    """
    found = table.get("validation")
    if found is False or (isinstance(found, Mapping) and _is_zero(found.get("every"))):
        del table["validation"]
        return
    if isinstance(found, bool | int | float | str | list):
        raise ConfigError(
            f"validation = {found!r}: expected held-out data, as in validation.data.path=FILE (a table "
            f"[validation] with data and every), or false for none"
        )
    if other_data is None or not isinstance(found, Mapping):
        return
    words = [word.partition("=")[0].strip() for word in overrides]
    if any(f"{word}.".startswith("validation.data.") or word == "validation" for word in words):
        return
    name = _name_of(found.get("data"))
    if name == other_data or (name != "world" and os.path.exists(os.path.expanduser(name))):
        return
    if any(word.startswith("validation.") for word in words):
        raise ConfigError(
            f"validation is on {name}, which the config was published with, but the data is {other_data}; "
            f"name held-out problems with validation.data.path=FILE, or switch it off with validation=false"
        )
    del table["validation"]
    message(
        f"validation on {name} is left out, since it belongs to the config's own data; name held-out "
        f"problems with validation.data.path=FILE"
    )


def _name_of(data: object) -> str:
    if isinstance(data, Mapping) and _type_of(data) != "world":
        return str(data.get("path"))
    return _type_of(data) or str(data)


def _is_zero(value: object) -> bool:
    return value == 0 and not isinstance(value, bool)


__all__ = ["apply_overrides", "fill_in", "settle_validation", "switch_type"]
