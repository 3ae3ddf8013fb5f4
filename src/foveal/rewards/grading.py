"""Grades completions: plain cases at once, the rest in worker processes with a limit of CPU time."""

import math
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Protocol, runtime_checkable

from foveal.ranges import GRADING, spanned
from foveal.rewards.containment import needs_of
from foveal.rewards.pool import GradingError, Pool
from foveal.rewards.tasks import UNSETTLED, Outcome, Task
from foveal.spec import ConfigError, load_class
from foveal.types import Completion, Group, Problem, Reward


@runtime_checkable
class Settles(Protocol):
    """A reward with a fast path, run in this process without a limit.

    Functions that its tasks name may be listed in a class variable `worker_calls`, as "module:name": workers
    load them before the first task.
    """

    def settle(self, problem: Problem, text: str) -> float | None | Task:
        """The value, a `Task` to be run in a worker, or `UNSETTLED` to have the reward called in a worker."""
        ...


@dataclass(frozen=True, kw_only=True)
class _Slot:
    """Where the value of a reward belongs: item, reward, completion."""

    item: int
    reward: int
    completion: int


class Grader:
    """Grades groups with rewards: total = sum over rewards of weight * value.

    A value of None (cannot be graded, over the limit, or failed) counts 0 in the sum and stays None in the
    breakdown. A completion is correct when the first accuracy reward gives at least 0.5. Rewards of this
    library decide plain cases here; what is slow, and every user's reward without a `settle` method, runs
    in a worker, so that an endless loop costs `cpu_limit_s` and not the run. Verdicts do not depend on the
    machine's load, nor on the number of workers.

    """

    def __init__(
        self,
        rewards: Sequence[Reward],
        *,
        workers: int = 1,
        cpu_limit_s: float = 5.0,
        wall_limit_s: float | None = None,
    ) -> None:
        """`workers` processes at most, started when first needed; `cpu_limit_s` CPU seconds for one value.

        Raises: ConfigError, without an accuracy reward, or for a reward that workers cannot import.
        """
        if workers < 1:
            raise ConfigError(f"a grader needs at least one worker, got {workers}; set workers = 1 or more")
        if not cpu_limit_s > 0.0:
            raise ConfigError(
                f"cpu_limit_s = {cpu_limit_s} is no limit; set a number of CPU seconds above 0, such as 5"
            )
        self.rewards = tuple(rewards)
        self.names = reward_names(self.rewards)
        self._accuracy = next((n for n, reward in enumerate(self.rewards) if reward.is_accuracy), None)
        if self._accuracy is None:
            raise ConfigError(
                f"none of the rewards ({', '.join(self.names) or 'none given'}) says whether an answer is "
                "right; set is_accuracy: ClassVar[bool] = True in yours, or add a reward that only measures: "
                '{type = "boxed", weight = 0}'
            )
        self._targets = [
            None if isinstance(reward, Settles) else _import_path(reward) for reward in self.rewards
        ]
        # Generous: it only catches what sleeps or waits, and a loaded machine must not reach it first.
        wall = 60.0 + 20.0 * cpu_limit_s if wall_limit_s is None else wall_limit_s
        self._first = tuple(self._first_tasks())
        self._pool = Pool(
            workers=workers,
            cpu_limit_s=cpu_limit_s,
            wall_limit_s=wall,
            first=self._first,
            needs=needs_of(self.rewards),
        )
        self._warned: set[str] = set()
        self.timeouts = 0
        """Values given up at a limit so far."""
        self.failures = 0
        """Values lost to an exception, a crash or a wrong type so far."""

    def grade(self, problem: Problem, completions: Sequence[Completion]) -> Group:
        """The graded group of one problem."""
        return self.grade_many([(problem, completions)])[0]

    @spanned(GRADING)
    def grade_many(self, items: Sequence[tuple[Problem, Sequence[Completion]]]) -> list[Group]:
        """The graded groups, in order; workers share the load of all.

        Raises: GradingError, when a reward cannot be loaded in a worker.
        """
        values: list[list[list[float | None]]] = [
            [[None] * len(completions) for _ in self.rewards] for _, completions in items
        ]
        tasks: list[Task] = []
        slots: list[list[_Slot]] = []
        known: dict[Task, int] = {}
        for n, (problem, completions) in enumerate(items):
            bare = replace(problem, images=())
            for r, reward in enumerate(self.rewards):
                for c, completion in enumerate(completions):
                    slot = _Slot(item=n, reward=r, completion=c)
                    found = self._settle(r, reward, problem, bare, completion.text)
                    if not isinstance(found, Task):
                        values[n][r][c] = self._number(Outcome(kind="value", value=found), slot, problem)
                        continue
                    # Completions of a group often agree: the same comparison is made once.
                    plain = found.fields is None and all(isinstance(part, str) for part in found.arguments)
                    place = known.setdefault(found, len(tasks)) if plain else len(tasks)
                    if place == len(tasks):
                        tasks.append(found)
                        slots.append([])
                    slots[place].append(slot)
        for outcome, places in zip(self._pool.run(tasks), slots, strict=True):
            for slot in places:
                values[slot.item][slot.reward][slot.completion] = self._number(
                    outcome, slot, items[slot.item][0]
                )
        return [
            self._group(problem, completions, values[n]) for n, (problem, completions) in enumerate(items)
        ]

    def start(self) -> None:
        """Start the workers in the background, where a reward may need one, so that no step waits for it."""
        if self._first:
            self._pool.start()

    def wait(self) -> None:
        """Until the workers that were started take tasks.

        Raises: GradingError, when one does not start.
        """
        self._pool.wait()

    def close(self) -> None:
        """End the workers; a later call starts new ones."""
        self._pool.close()

    def __enter__(self) -> "Grader":
        """The grader itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the workers."""
        self.close()

    def _first_tasks(self) -> Iterator[Task]:
        """What workers load before their first task; nothing where no reward needs one."""
        for reward, target in zip(self.rewards, self._targets, strict=True):
            if target is not None:
                yield Task(target=target, fields=reward.model_dump())
            for name in getattr(reward, "worker_calls", ()):
                yield Task(target=name)

    def _settle(
        self, index: int, reward: Reward, problem: Problem, bare: Problem, text: str
    ) -> float | None | Task:
        found = reward.settle(problem, text) if isinstance(reward, Settles) else UNSETTLED
        if found is not UNSETTLED:
            return found
        target = self._targets[index] or _import_path(reward)
        return Task(target=target, arguments=(bare, text), fields=reward.model_dump())

    def _number(self, outcome: Outcome, slot: _Slot, problem: Problem) -> float | None:
        """The value as a float; counts what was lost, and tells of the first failure of each reward."""
        if outcome.kind == "timeout":
            self.timeouts += 1
            return None
        value = outcome.value
        if outcome.kind == "value" and value is None:
            return None
        if outcome.kind == "value" and isinstance(value, int | float) and math.isfinite(value):
            return float(value)
        self.failures += 1
        name = self.names[slot.reward]
        if name not in self._warned:
            self._warned.add(name)
            what = outcome.message or f"{value!r} is not a finite number"
            warnings.warn(
                f"reward {name!r} failed on problem {problem.id!r}, completion {slot.completion}: {what}; "
                "it counts as None there, and later failures are only counted",
                RuntimeWarning,
                stacklevel=3,
            )
        return None

    def _group(
        self, problem: Problem, completions: Sequence[Completion], values: Sequence[Sequence[float | None]]
    ) -> Group:
        weights = [reward.weight for reward in self.rewards]
        totals = tuple(
            sum((w * v for w, v in zip(weights, column, strict=True) if v is not None), 0.0)
            for column in zip(*values, strict=True)
        )
        verdicts = values[self._accuracy or 0]
        marked = {
            name: tuple(reward.segment(problem, completion.text) for completion in completions)
            for name, reward in zip(self.names, self.rewards, strict=True)
            if type(reward).segment is not Reward.segment
        }
        return Group(
            problem=problem,
            completions=tuple(completions),
            rewards=totals,
            correct=tuple(value is not None and value >= 0.5 for value in verdicts),
            breakdown={name: tuple(column) for name, column in zip(self.names, values, strict=True)},
            segments=marked,
        )


def reward_names(rewards: Sequence[Reward]) -> tuple[str, ...]:
    """Names for the breakdown: the short name, or the class in snake case; repeated ones are numbered."""
    names: list[str] = []
    for reward in rewards:
        short = reward.type
        if not short or ":" in short:
            short = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", type(reward).__name__).lower()
        count = sum(
            name == short or name.startswith(short + "_") and name[len(short) + 1 :].isdigit()
            for name in names
        )
        names.append(short if count == 0 else f"{short}_{count + 1}")
    return tuple(names)


def _import_path(reward: Reward) -> str:
    """The path by which a worker finds the class of a reward."""
    cls = type(reward)
    path = reward.type if ":" in reward.type else f"{cls.__module__}:{cls.__qualname__}"
    if ":" in reward.type or (cls.__module__ != "__main__" and "." not in cls.__qualname__):
        if load_class(path, kind="reward") is cls:
            return path
    raise ConfigError(
        f"reward {path!r} cannot be imported by a grading worker, as it is defined in a main script, a "
        "notebook or a function; put it in a file and write type = 'my_file:MyReward', or give it a method "
        "settle(problem, text), which runs in this process without a limit"
    )


__all__ = ["UNSETTLED", "Grader", "GradingError", "Settles", "Task"]
