"""Grades completions: plain cases at once, rules in worker processes with a limit of CPU time, judges in
threads."""

import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, runtime_checkable

from foveal.ranges import GRADING, spanned
from foveal.rewards.base import Declared, Handed, Threaded
from foveal.rewards.containment import needs_of
from foveal.rewards.counts import Counter
from foveal.rewards.pool import GradingError, Pool
from foveal.rewards.session import Call, Grading, settle, settled
from foveal.rewards.settings import GradingConfig
from foveal.rewards.tasks import UNSETTLED, Outcome, Task, TryLater
from foveal.rewards.threads import Threads
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


class Grader:
    """Grades groups with rewards: total = sum over rewards of weight * value.

    A value that fails (an exception, a crash, no number, a limit of time) is asked for again, and in the end
    counted; its completion is marked as `settings.on_failure` says and has no total. None means that a reward
    cannot be applied: it adds nothing to the sum, and a completion that lacks a value others of its group
    have is marked too, since its sum cannot be compared with theirs. A completion is correct when the
    accuracy reward gives at least 0.5: the first that says it is one.

    Rewards of this library decide plain cases here; what is slow, and every user's reward without a `settle`
    method, runs in a worker, so that an endless loop costs `cpu_limit_s` and not the run; judges wait for
    their servers in threads. Verdicts do not depend on the machine's load short of the wall limits, nor on
    the number of workers or threads, nor on the order in which they come.
    """

    def __init__(
        self,
        rewards: Sequence[Reward],
        settings: GradingConfig | None = None,
        *,
        used: Sequence[str] = (),
        workers: int | None = None,
        cpu_limit_s: float | None = None,
        wall_limit_s: float | None = None,
    ) -> None:
        """`used`: names of rewards that the objective reads, whatever their weight; the others change
        `settings`. Workers and threads are started when first needed.

        Raises: ConfigError, without an accuracy reward, or for a reward that can run nowhere.
        """
        given = {"workers": workers, "cpu_limit_s": cpu_limit_s, "wall_limit_s": wall_limit_s}
        self.settings = changed(settings or GradingConfig(), given)
        self.rewards = tuple(rewards)
        self.names = reward_names(self.rewards)
        self.accuracy = accuracy_of(self.rewards, self.names)
        self.counting = tuple(
            n
            for n, (reward, name) in enumerate(zip(self.rewards, self.names, strict=True))
            if reward.weight != 0 or n == self.accuracy or name in used
        )
        self._targets = [_target(reward) for reward in self.rewards]
        self._first = tuple(self._first_tasks())
        self._pool = Pool(
            workers=self.settings.workers,
            cpu_limit_s=self.settings.cpu_limit_s,
            wall_limit_s=self.settings.wall_limit_s,
            first=self._first,
            needs=needs_of(self.rewards),
        )
        self._threads = {
            index: Threads(
                reward.concurrency,
                limit_s=float("inf") if reward.has_timeout else self.settings.wall_limit_s,
            )
            for index, reward in enumerate(self.rewards)
            if isinstance(reward, Threaded)
        }
        self._warned: set[str] = set()
        self.counts = Counter(size=len(self.rewards))

    @property
    def timeouts(self) -> int:
        """Values given up at a limit so far."""
        return sum(self.counts.timeouts)

    @property
    def failures(self) -> int:
        """Values lost to an exception, a crash, a wrong type or a server so far."""
        return sum(self.counts.failures)

    def grade(self, problem: Problem, completions: Sequence[Completion]) -> Group:
        """The graded group of one problem."""
        return self.grade_many([(problem, completions)])[0]

    @spanned(GRADING)
    def grade_many(self, items: Sequence[tuple[Problem, Sequence[Completion]]]) -> list[Group]:
        """The graded groups, in order; workers and threads share the load of all.

        Raises: GradingError, when a reward cannot be loaded in a worker.
        """
        grading = self.begin()
        for place, (problem, completions) in enumerate(items):
            grading.submit(place, problem, completions)
        return grading.finish()

    def begin(self, *, only: Sequence[int] | None = None, quiet: bool = False) -> Grading:
        """A grading to which groups are given one after the other, while others are still drawn. One at a
        time: it is to be finished or cancelled before the next. `only`: places of the rewards to ask;
        `quiet`: without a warning of failures."""
        return Grading(self, only=only, quiet=quiet)

    def start(self) -> None:
        """Start the workers in the background, where a reward may need one, so that no step waits for it.

        Raises: ConfigError, when a judge cannot be asked.
        """
        for reward in self.rewards:
            if isinstance(reward, Threaded):
                reward.check_ready()
        if self._first:
            self._pool.start()

    def wait(self) -> None:
        """Until the workers that were started take tasks.

        Raises: GradingError, when one does not start.
        """
        self._pool.wait()

    def keep_in(self, folder: Path) -> None:
        """Let rewards that remember what they were told write it into a run's folder, and read it there."""
        for name, reward in zip(self.names, self.rewards, strict=True):
            keep = getattr(reward, "keep_in", None)
            if keep is not None:
                keep(folder, name)

    def give_up(self) -> None:
        """Drop everything that is asked for."""
        self._pool.give_up()
        for threads in self._threads.values():
            threads.give_up()

    def close(self) -> None:
        """End the workers; a later call starts new ones."""
        self._pool.close()
        for threads in self._threads.values():
            threads.give_up()

    def __enter__(self) -> "Grader":
        """The grader itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the workers."""
        self.close()

    def sweep(self) -> float:
        """Give up calls in threads that passed their limit; when the next one will (`time.monotonic`)."""
        return min((threads.sweep() for threads in self._threads.values()), default=float("inf"))

    def runs_here(self, index: int) -> bool:
        """Whether a reward is called in the main thread."""
        reward = self.rewards[index]
        return isinstance(reward, Threaded) and reward.runs_here()

    def send(
        self,
        index: int,
        what: Task | Callable[[], Any],
        done: Callable[..., None],
        *,
        delay: float = 0.0,
    ) -> None:
        """Have a call of a reward made."""
        if isinstance(what, Task):
            self._pool.submit(what, done, delay=delay)
        else:
            self._threads[index].submit(what, done, delay=delay)

    def calls_of(
        self,
        index: int,
        problem: Problem,
        completions: Sequence[Completion],
        place: int,
        *,
        known: dict[object, Call],
    ) -> Iterator[Call]:
        """The calls that grade completions of a problem by a reward, those made before left out: they get
        the place of the value too."""
        reward, retries = self.rewards[index], self.settings.retries
        if isinstance(reward, Threaded) and reward.retries is not None:
            retries = reward.retries
        everything = tuple((place, n) for n in range(len(completions)))
        usual = None if isinstance(reward, Settles) else self._maker(index, problem)
        if usual is not None and isinstance(reward, Declared) and reward.in_batches() and completions:
            yield Call(
                reward=index, retries=retries, make=usual, completions=tuple(completions), slots=[everything]
            )
            return
        for completion, slot in zip(completions, everything, strict=True):
            key: object = None
            found: object = UNSETTLED
            if usual is not None:
                make = usual
                if isinstance(reward, Threaded) and reward.has_timeout:
                    key = (index, place, completion.text)
            else:
                found = settled(lambda text=completion.text: reward.settle(problem, text))  # type: ignore[misc,attr-defined]
                make, key = self._settled_maker(index, problem, found)
            if key in known:
                known[key].slots.append((slot,))
                continue
            call = Call(reward=index, retries=retries, make=make, completions=(completion,), slots=[(slot,)])
            if not isinstance(found, Task):
                settle(call, found)
            if key is not None:
                known[key] = call
            yield call

    def _maker(self, index: int, problem: Problem) -> Callable[[Sequence[Completion]], Any]:
        """What makes a call of a reward for completions of a problem."""
        reward = self.rewards[index]
        if isinstance(reward, Threaded):
            return lambda some: lambda: reward.ask(problem, some)
        seen = reward.needs_images or (isinstance(reward, Declared) and reward.send_images)
        bare = problem if seen else replace(problem, images=())
        if isinstance(reward, Handed):
            return lambda some: reward.task(bare, some)
        target, fields = self._targets[index] or _import_path(reward), reward.model_dump()
        return lambda some: Task(target=target, arguments=(bare, some[0].text), fields=fields)

    def _settled_maker(
        self, index: int, problem: Problem, found: object
    ) -> tuple[Callable[[Sequence[Completion]], Any], object]:
        """What makes the call that a fast path asks for, and what it is known by: completions of a group
        often agree, and the same comparison is made once."""
        if found is UNSETTLED:
            return self._maker(index, problem), None
        if not isinstance(found, Task):
            return lambda some: UNSETTLED, None
        plain = found.fields is None and all(isinstance(part, str) for part in found.arguments)
        return lambda some: found, (index, found) if plain else None

    def warn(self, problem: Problem, failures: Mapping[tuple[int, int], Outcome]) -> None:
        """Tell of the first failure of each reward; limits of time are only counted."""
        for (index, place), outcome in sorted(failures.items(), key=lambda item: item[0]):
            name = self.names[index]
            if outcome.kind == "timeout" or name in self._warned:
                continue
            self._warned.add(name)
            warnings.warn(
                f"reward {name!r} failed on problem {problem.id!r}, completion {place}: {outcome.message}; "
                f"[grading] on_failure = {self.settings.on_failure!r} says what becomes of the completion, "
                f"and later failures are only counted",
                RuntimeWarning,
                stacklevel=4,
            )

    def _first_tasks(self) -> Iterator[Task]:
        """What workers load before their first task; nothing where no reward needs one."""
        for reward, target in zip(self.rewards, self._targets, strict=True):
            if isinstance(reward, Handed):
                yield reward.first_task()
            elif target is not None:
                yield Task(target=target, fields=reward.model_dump())
            for name in getattr(reward, "worker_calls", ()):
                yield Task(target=name)


def changed(settings: GradingConfig, given: Mapping[str, float | None]) -> GradingConfig:
    """The settings with those that are given, checked.

    Raises: ConfigError.
    """
    wanted = {name: value for name, value in given.items() if value is not None}
    for name, value in wanted.items():
        if not value > 0:
            raise ConfigError(f"grading.{name} is {value}; expected a number above 0")
    return settings.model_copy(update=wanted)


def accuracy_of(rewards: Sequence[Reward], names: Sequence[str]) -> int:
    """The place of the reward that says what is correct.

    Raises: ConfigError, when none does.
    """
    for n, reward in enumerate(rewards):
        if reward.is_accuracy or (isinstance(reward, Declared) and reward.accuracy):
            return n
    for n, reward in enumerate(rewards):
        if isinstance(reward, Declared) and reward.accuracy is None:
            return n
    raise ConfigError(
        f"none of the rewards ({', '.join(names) or 'none given'}) says whether an answer is right; set "
        "is_accuracy: ClassVar[bool] = True in yours, or accuracy = true in the table of a function or "
        'judge, or add a reward that only measures: {type = "boxed", weight = 0}'
    )


TAKEN = frozenset(("mean", "std", "accuracy", "failure_count", "timeout_count", "excluded_count"))
"""Names that metrics of other kinds have: reward/accuracy."""


def reward_names(rewards: Sequence[Reward]) -> tuple[str, ...]:
    """Names for the breakdown: the name given, the short name, or that of the class or function in snake
    case; repeated ones are numbered."""
    names: list[str] = []
    for reward in rewards:
        short = (isinstance(reward, Declared) and reward.short_name) or reward.type
        if not short or ":" in short:
            short = type(reward).__name__
        short = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", short).lower()
        if short in TAKEN:
            short = f"{short}_reward"
        count = sum(
            name == short or name.startswith(short + "_") and name[len(short) + 1 :].isdigit()
            for name in names
        )
        names.append(short if count == 0 else f"{short}_{count + 1}")
    return tuple(names)


def _target(reward: Reward) -> str | None:
    """The import path of a reward that workers build themselves."""
    return None if isinstance(reward, Settles | Declared) else _import_path(reward)


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
        "settle(problem, text), which runs in this process without a limit, or pass a plain function "
        "(foveal.rewards.adapters.reward_from)"
    )


__all__ = ["UNSETTLED", "Grader", "GradingError", "Settles", "Task", "TryLater"]
