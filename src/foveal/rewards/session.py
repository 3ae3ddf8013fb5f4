"""A grading that is under way: groups go in as they are drawn, verdicts come in as they are found.

What comes out depends on the values alone: not on when they came, nor in which order.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from foveal.rewards.pool import GradingError
from foveal.rewards.tasks import CPU_LIMIT, Outcome, Task, TryLater, failure_of, values_of
from foveal.rewards.threads import made
from foveal.rewards.verdicts import graded_group
from foveal.types import Completion, Group, Problem

if TYPE_CHECKING:
    from foveal.rewards.grading import Grader

LATE = "not there in time"
"""How the message of a value ends that the budget of a step left no time for."""

MAX_BACKOFF_S = 60.0
"""The longest pause before another attempt, whatever a server asks for."""


@dataclass(kw_only=True, eq=False)
class Call:
    """A value, or the values of several completions, that somebody was asked for."""

    reward: int
    retries: int
    make: Callable[[Sequence[Completion]], Task | Callable[[], Any]]
    """A task for a worker, or a function for a thread, of these completions."""
    completions: tuple[Completion, ...]
    slots: list[tuple[tuple[int, int], ...]] = field(default_factory=list)
    """Where the values belong, place and completion: several times the same where the call answers them."""
    attempts: int = 0
    values: tuple[float | None, ...] | None = None
    failure: Outcome | None = None
    parts: "list[Call]" = field(default_factory=list)
    """The calls of single completions that it was taken apart into."""

    @property
    def settled(self) -> bool:
        """Whether nothing more comes."""
        return self.values is not None or self.failure is not None or bool(self.parts)


class Grading:
    """Groups that are being graded. `submit` them in any order; `finish` gives them by place."""

    def __init__(self, grader: "Grader", *, only: Sequence[int] | None = None, quiet: bool = False) -> None:
        """`only`: places of the rewards that are asked, by default all; `quiet`: no warning of failures."""
        self._grader, self._quiet = grader, quiet
        self._asked = range(len(grader.rewards)) if only is None else only
        self._items: dict[int, tuple[Problem, Sequence[Completion]]] = {}
        self._calls: list[Call] = []
        self._known: dict[object, Call] = {}
        self._pending = 0
        self._error: GradingError | None = None
        self._changed = threading.Condition()
        self._here: deque[tuple[Call, float]] = deque()
        """Calls that are made in the main thread, and the pause before each."""
        self._cancelled = False
        self._began: float | None = None
        self._ended: float | None = None
        self.seconds = 0.0
        """From the first group to the last verdict, wall clock."""
        self.waited = 0.0
        """The part of it in which `finish` waited."""

    @property
    def places(self) -> frozenset[int]:
        """Of the groups that were submitted."""
        return frozenset(self._items)

    def submit(self, place: int, problem: Problem, completions: Sequence[Completion]) -> None:
        """Start to grade a group. Plain cases are decided at once."""
        self._began = self._began or time.monotonic()
        self._items[place] = (problem, completions)
        for index in self._asked:
            for call in self._grader.calls_of(index, problem, completions, place, known=self._known):
                self._calls.append(call)
                if not call.settled:
                    with self._changed:
                        self._pending += 1
                    self._send(call)

    def finish(self, *, budget_s: float | None = None) -> list[Group]:
        """The graded groups by place, once all values are there, or `budget_s` seconds from now at the
        latest; what is missing then has failed.

        Raises: GradingError, when a reward cannot be loaded in a worker.
        """
        began = time.monotonic()
        try:
            self._wait(began + (self._grader.settings.step_budget_s if budget_s is None else budget_s))
        except BaseException:
            self.cancel()
            raise
        now = time.monotonic()
        self.waited = now - began
        self.seconds = (self._ended or now) - (self._began or now)
        return self._groups()

    def cancel(self) -> None:
        """Ask nobody any more."""
        with self._changed:
            self._cancelled = True
        self._grader.give_up()

    def _call_here(self, end: float) -> None:
        """Make the calls of the main thread in the order of the groups, those that begin before `end`."""
        self._here = deque(sorted(self._here, key=lambda item: item[0].slots[0]))
        while self._here and time.monotonic() < end:
            call, pause = self._here.popleft()
            time.sleep(max(0.0, min(pause, end - time.monotonic())))
            what = call.make(call.completions)
            if not isinstance(what, Task):
                self._take(call, *made(what))

    def _wait(self, end: float) -> None:
        self._call_here(end)
        while True:
            with self._changed:
                if self._error is not None:
                    raise self._error
                if self._pending == 0:
                    return
            following = self._grader.sweep()
            with self._changed:
                left = end - time.monotonic()
                if left <= 0:
                    break
                if self._pending and self._error is None:
                    self._changed.wait(min(left, max(0.01, following - time.monotonic()), 1.0))
        self.cancel()
        budget = self._grader.settings.step_budget_s
        late = Outcome(kind="timeout", message=f"grading.step_budget_s = {budget:g} s: {LATE}")
        for call in self._calls:
            for part in call.parts or [call]:
                if not part.settled:
                    part.failure = late

    def _send(self, call: Call, *, delay: float = 0.0) -> None:
        call.attempts += 1
        if self._grader.runs_here(call.reward):
            self._here.append((call, delay))
            return
        what = call.make(call.completions)

        def done(outcome: Outcome | GradingError, asked: TryLater | None = None) -> None:
            self._take(call, outcome, asked)

        self._grader.send(call.reward, what, done, delay=delay)

    def _take(self, call: Call, outcome: Outcome | GradingError, asked: TryLater | None) -> None:
        """An outcome, in the thread that found it: kept, asked for again, or taken apart."""
        with self._changed:
            if self._cancelled:
                return
            if isinstance(outcome, GradingError):
                self._error = self._error or outcome
                self._changed.notify_all()
                return
            again = self._judge(call, outcome, asked)
            if again is None:
                self._pending += sum(not part.settled for part in call.parts) - 1
                self._ended = time.monotonic()
                if self._pending == 0:
                    self._changed.notify_all()
        if again is not None:
            self._send(call, delay=again)
        for part in call.parts:
            if not part.settled:
                self._send(part)

    def _judge(self, call: Call, outcome: Outcome, asked: TryLater | None) -> float | None:
        """Settle a call; or the seconds after which it is to be made again."""
        count = len(call.completions)
        found = values_of(outcome, count) if outcome.kind == "value" else outcome.message
        if not isinstance(found, str):
            call.values = found
            return None
        failure = Outcome(kind="timeout" if outcome.kind == "timeout" else "failure", message=found)
        final = found.startswith(CPU_LIMIT) or (asked is not None and asked.final)
        if call.attempts <= call.retries and not final:
            pause = self._grader.settings.backoff_s * 2.0 ** (call.attempts - 1)
            return min(max(pause, asked.after_s if asked else 0.0), MAX_BACKOFF_S)
        whole = outcome.kind == "value" and isinstance(outcome.value, list) and len(outcome.value) == count
        if count > 1 and (whole or outcome.kind == "failure"):
            # One bad completion is not to cost the others of its group their values.
            call.parts = [
                Call(reward=call.reward, retries=0, make=call.make, completions=(completion,))
                for completion in call.completions
            ]
            for part, value in zip(call.parts, outcome.value if whole else (), strict=False):
                settle(part, value)
        else:
            call.failure = failure
        return None

    def _groups(self) -> list[Group]:
        grader = self._grader
        values: dict[int, list[list[float | None]]] = {
            place: [[None] * len(completions) for _ in grader.rewards]
            for place, (_, completions) in self._items.items()
        }
        failures: dict[int, dict[tuple[int, int], Outcome]] = {place: {} for place in self._items}
        for call in self._calls:
            parts = call.parts or [call]
            grader.counts.retries[call.reward] += max(0, call.attempts - 1)
            for slot in call.slots:
                for n, (place, completion) in enumerate(slot):
                    part, inner = (parts[n], 0) if call.parts else (call, n)
                    if part.values is not None:
                        values[place][call.reward][completion] = part.values[inner]
                    elif part.failure is not None:
                        failures[place][call.reward, completion] = part.failure
                        grader.counts.fail(call.reward, part.failure)
        groups = []
        for place in sorted(self._items):
            problem, completions = self._items[place]
            grader.counts.add(len(completions), self._asked)
            if not self._quiet:
                grader.warn(problem, failures[place])
            groups.append(
                graded_group(
                    problem,
                    completions,
                    values[place],
                    {slot: outcome.message for slot, outcome in failures[place].items()},
                    rewards=grader.rewards,
                    names=grader.names,
                    accuracy=grader.accuracy,
                    counting=grader.counting,
                    on_failure=grader.settings.on_failure,
                )
            )
        return groups


def settle(call: Call, found: object) -> None:
    """Put the value of a completion, or what went wrong with it, into its call."""
    outcome = found if isinstance(found, Outcome) else Outcome(kind="value", value=found)
    values = values_of(outcome, 1) if outcome.kind == "value" else outcome.message
    if isinstance(values, str):
        call.failure = Outcome(kind="failure", message=values)
    else:
        call.values = values


def settled(function: Callable[[], Any]) -> Any:  # noqa: ANN401
    """What a fast path gives; the outcome of a failure where it raises."""
    try:
        return function()
    except (Exception, SystemExit) as error:
        return failure_of(error)
