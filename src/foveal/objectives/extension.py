"""What methods that hold a base objective share: PAPO and CPPO append terms, and leave everything else to the
base."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import torch
from jaxtyping import Bool, Float
from pydantic import AfterValidator, Field, SerializeAsAny, model_validator
from torch import Tensor

from foveal.foreign import Held
from foveal.objectives import REGISTRY
from foveal.objectives.grpo import GRPO
from foveal.objectives.presets import with_preset
from foveal.spec import Chain, ConfigError, build_component, load_class
from foveal.types import CLEAN, Batch, Group, Inputs, Objective, Term, TokenStats, ViewName


def _not_clean(view: ViewName) -> ViewName:
    if view == CLEAN:
        raise ValueError(
            f'"{CLEAN}" is the pictures as they are, which other views are compared with; name another view, '
            'such as "removed" or "noised", and say in [perturbations] what it is'
        )
    return view


OtherView = Annotated[ViewName, AfterValidator(_not_clean)]
"""Name of a view that is not the clean one."""


def require_two_views(first: ViewName, second: ViewName, *, fields: str) -> None:
    """Raises: ValueError, when two views that are held against each other are one."""
    if first == second:
        raise ValueError(f"{fields} are both {first!r}; expected two views: one is held against the other")


def build_objective(value: object, *, place: str = "objective") -> Objective:
    """An objective from a table with a `type`, a name, or an instance, that stands at `place` in a config.

    Raises: ConfigError for an unknown name, a bad field, or a class that is not an objective.
    """
    found = build_component(value, REGISTRY, kind="objective", base=Objective, place=place)
    if not isinstance(found, Objective):
        raise ConfigError(
            f"{type(found).__name__} is not an objective; derive it from foveal.types.Objective"
        )
    return found


def objective_chain(value: object) -> Chain:
    """The classes of an objective and its bases, as a table, a name or an instance has them; () for none.

    Raises: ConfigError for a class that is not there.
    """
    if isinstance(value, Objective):
        return type(value).chain(value)
    name = value.get("type") if isinstance(value, Mapping) else value
    if not isinstance(name, str) or ":" not in name and name not in REGISTRY:
        return ()
    return load_class(REGISTRY.get(name, name), kind="objective", base=Objective).chain(value)


def held_objective(value: object) -> Held | None:
    """Where fields of the objective of a config stand; None where there is none that could be made."""
    try:
        chain = objective_chain(value)
    except ConfigError:
        return None
    return Held("objective", [frozenset(part.model_fields) for part in chain]) if chain else None


class Extension(Objective):
    """An objective that holds another: the base's terms first, then its own, averaged in the base's way.

    Subclasses override what they add to, starting from `super()`. A method that is switched off adds no term
    and no view, so it is its base bit for bit.
    """

    base: SerializeAsAny[Objective] = Field(default_factory=GRPO)
    """The objective held, as a table; GRPO where that has no `type`."""
    preset: str | None = None
    """Name of published settings that fill in what is not given (`foveal.objectives.presets`); None once they
    have."""

    @classmethod
    def chain(cls, table: object) -> Chain:
        """This class, and those of its bases."""
        if isinstance(table, Extension):
            return (cls, *type(table.base).chain(table.base))
        base: object = None
        if isinstance(table, Mapping):
            base = with_preset(table, method=cls.model_fields["type"].default).get("base")
        return (
            cls,
            *objective_chain({"type": "grpo", **base} if isinstance(base, Mapping) else base or "grpo"),
        )

    @model_validator(mode="before")
    @classmethod
    def _follow_base(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        data = with_preset(data, method=cls.model_fields["type"].default)
        base = data.get("base", {})
        base = {"type": "grpo", **base} if isinstance(base, Mapping) else base
        base = build_objective(base, place="objective.base")
        followed = {key: getattr(base, key) for key in ("aggregation", "horizon")}
        for key, value in followed.items():
            if data.get(key, value) != value:
                raise ValueError(
                    f"{key} {data[key]!r} differs from the base's {value!r}; both are averaged alike, "
                    f"so set objective.base.{key} alone"
                )
        return {**data, "base": base, **followed}

    nests: ClassVar[bool] = True
    """Whether it may hold another of its type, because what they keep in a batch is combined."""

    @model_validator(mode="after")
    def _is_not_nested_in_itself(self) -> "Extension":
        inner: Objective = self.base
        while not self.nests:
            if type(inner) is type(self):
                raise ValueError(
                    f"{self.type} holds another {self.type}: their weights and chosen tokens have one name, "
                    f"so both would use the outer one's; expected another type in objective.base.type"
                )
            if not isinstance(inner, Extension):
                break
            inner = inner.base
        return self

    def at(self, step: int, *, steps: int) -> Objective:
        """With the base as scheduled."""
        return self.model_copy(update={"base": self.base.at(step, steps=steps)})

    def within(self, limit: int) -> Objective:
        """With the base's horizon, which is its own."""
        base = self.base.within(limit)
        return self.model_copy(update={"base": base, "horizon": base.horizon})

    def scaled(self, factor: float) -> Objective:
        """With the base's perception terms scaled."""
        return self.model_copy(update={"base": self.base.scaled(factor)})

    def sample_views(self, step: int, *, steps: int) -> Mapping[ViewName, float]:
        """Those of the base."""
        return self.base.sample_views(step, steps=steps)

    @property
    def own_score_views(self) -> tuple[ViewName, ...]:
        """Views under which this method's own terms want all completions scored; none by default."""
        return ()

    @property
    def own_update_views(self) -> tuple[ViewName, ...]:
        """Views under which this method's own terms want all completions run in the update; none by
        default."""
        return ()

    @property
    def score_views(self) -> tuple[ViewName, ...]:
        """Those of the base, and its own."""
        return join_views(*self.base.score_views, *self.own_score_views)

    @property
    def update_views(self) -> tuple[ViewName, ...]:
        """Those of the base, and its own."""
        return join_views(*self.base.update_views, *self.own_update_views)

    @property
    def uses_reference(self) -> bool:
        """As the base."""
        return self.base.uses_reference

    @property
    def uses_distributions(self) -> bool:
        """As the base."""
        return self.base.uses_distributions

    @property
    def chooses_in_update(self) -> bool:
        """As the base."""
        return self.base.chooses_in_update

    @property
    def uses_rewards(self) -> tuple[str, ...]:
        """As the base."""
        return self.base.uses_rewards

    def keeps(self, group: Group) -> bool:
        """As the base."""
        return self.base.keeps(group)

    def advantages(self, inputs: Inputs) -> Float[Tensor, "B T"]:
        """Those of the base."""
        return self.base.advantages(inputs)

    def prepare(self, batch: Batch) -> Batch:
        """What the base chooses."""
        return self.base.prepare(batch)

    def score_rows(self, view: ViewName, inputs: Inputs) -> Bool[Tensor, "B"]:
        """All in the method's own views; in others those for which the base scores `view`, none when it does
        not use it."""
        if view in self.own_score_views:
            return inputs.completion_mask.any(-1)
        if view in self.base.score_views:
            return self.base.score_rows(view, inputs)
        return torch.zeros_like(inputs.correct)

    def rows(self, view: ViewName, batch: Batch) -> Bool[Tensor, "B"]:
        """All in the method's own views; in others those for which the base runs `view`, none when it does
        not use it."""
        if view in self.own_update_views:
            return batch.inputs.completion_mask.any(-1)
        if view in self.base.update_views:
            return self.base.rows(view, batch)
        return torch.zeros_like(batch.inputs.completion_mask[:, :1]).any(-1)

    def masks(self, batch: Batch) -> Mapping[str, Bool[Tensor, "B T"]]:
        """Those of the base."""
        return self.base.masks(batch)

    def needed(self, batch: Batch) -> Bool[Tensor, "B"]:
        """Those that the base needs, and those in a mask of this method's own."""
        rows, masks = self.base.needed(batch), self.masks(batch)
        for name in masks.keys() - self.base.masks(batch).keys():
            rows = rows | masks[name].any(-1)
        return rows

    def terms(self, batch: Batch, now: Mapping[ViewName, TokenStats]) -> list[Term]:
        """Those of the base."""
        return self.base.terms(batch, now)

    def measures(self, batch: Batch, now: Mapping[ViewName, TokenStats]) -> list[Term]:
        """Those of the base."""
        return self.base.measures(batch, now)


def join_views(*names: ViewName) -> tuple[ViewName, ...]:
    """Views without repetition, "clean" first where it occurs."""
    unique = tuple(dict.fromkeys(names))
    return tuple(sorted(unique, key=lambda name: name != CLEAN))
