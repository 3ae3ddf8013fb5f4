"""Procedural worlds as a data source: `[data] type = "world"`."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from pydantic import Field

from foveal.data.problems import DataSource
from foveal.problem import Problem, Problems
from foveal.worlds import WorldData, WorldSettings
from foveal.worlds.base import Split
from foveal.worlds.own import named


class WorldDataConfig(WorldSettings, DataSource):
    """Problems of `foveal.worlds`; `noise`, `grade`, `shortcut`, ... are those of `WorldSettings`."""

    type: str = "world"
    families: tuple[str, ...] | Mapping[str, float] = ("counting", "relations")
    """Families in equal parts, or a table of weights; one of yours by its import path,
    "my_file:MyFamily"."""
    split: Split = "train"
    """"train" or "heldout"; no scene is in both."""
    seed: int = Field(default=0, ge=0)
    """Which problems of the split."""
    size: int = Field(default=10_000, ge=1, le=10_000_000)
    """Number of problems."""

    def load(self) -> Sequence[Problem]:
        """The problems, drawn on each access.

        Raises: WorldError for an unknown family or unusable weights.
        """
        settings = WorldSettings.model_validate(
            {name: getattr(self, name) for name in WorldSettings.model_fields}
        )
        families: Mapping[str, float] | Sequence[str] = [named(family) for family in self.families]
        if isinstance(self.families, Mapping):
            families = {named(family): share for family, share in self.families.items()}
        data = WorldData(families, split=self.split, seed=self.seed, size=self.size, settings=settings)
        return Suffixed(data, self.prompt_suffix) if self.prompt_suffix else data


class Suffixed(Problems):
    """Problems with an instruction behind each question."""

    def __init__(self, problems: Sequence[Problem], suffix: str) -> None:
        """`suffix` follows after a blank line."""
        self._problems, self._suffix = problems, suffix

    def __len__(self) -> int:
        return len(self._problems)

    def problem(self, place: int) -> Problem:
        """With the instruction behind its question."""
        problem = self._problems[place]
        return replace(problem, question=f"{problem.question}\n\n{self._suffix}")


class Kept(Problems):
    """Problems of which the first, once made, are kept: those whose pictures are lent to other problems."""

    def __init__(self, problems: Sequence[Problem], count: int) -> None:
        """At most `count` problems are held in memory."""
        self._problems, self._count = problems, count
        self._made: dict[int, Problem] = {}

    def __len__(self) -> int:
        return len(self._problems)

    def problem(self, place: int) -> Problem:
        """As kept, or as made."""
        if place >= self._count:
            return self._problems[place]
        if place not in self._made:
            self._made[place] = self._problems[place]
        return self._made[place]
