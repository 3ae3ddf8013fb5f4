"""What the parent asks of a grading worker. Imports nothing heavy: workers load this file first."""

import math
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True)
class Task:
    """A call to be made in a worker: of a function `module:name`, or of a component built from `fields`."""

    target: str
    arguments: tuple[Any, ...] = ()
    fields: dict[str, Any] | None = field(default=None, compare=False)
    """None for a function; for a class, its configuration."""
    count: int = 1
    """Completions that the call grades; limits of time are multiplied by it. Above 1 it gives a list."""


UNSETTLED = Task(target="")
"""What `settle` returns to have the reward itself called in a worker."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a task: its value, or why there is none."""

    kind: Literal["value", "timeout", "failure"]
    value: Any = None
    """A number or None; a list of these where the task grades several completions."""
    message: str = ""


CPU_LIMIT = "passed the CPU limit"
"""How the message of a timeout begins that another attempt would only repeat."""


class TryLater(Exception):
    """A grader that waits for something else asks for a pause, or says that another attempt is in vain."""

    def __init__(self, message: str, *, after_s: float = 0.0, final: bool = False) -> None:
        """`after_s`: seconds before the next attempt, at least; `final`: there is to be none."""
        super().__init__(message)
        self.after_s, self.final = after_s, final


def failure_of(error: BaseException) -> Outcome:
    """The outcome of a call that raised."""
    try:
        return Outcome(kind="failure", message=f"{type(error).__name__}: {error}"[:500])
    except Exception:  # an error of somebody's own may fail to say what it is
        return Outcome(kind="failure", message=type(error).__name__)


def values_of(outcome: Outcome, count: int) -> tuple[float | None, ...] | str:
    """The values of a call that graded `count` completions, or what is wrong with what it gave."""
    found = outcome.value
    if count > 1:
        if not isinstance(found, list | tuple) or len(found) != count:
            size = f" of {len(found)}" if isinstance(found, list | tuple) else ""
            return f"expected a list of {count} values, got {type(found).__name__}{size}"
        values = list(found)
    else:
        values = [found]
    numbers = [number_of(value) for value in values]
    bad = next((place for place, value in enumerate(numbers) if isinstance(value, str)), None)
    return str(numbers[bad]) if bad is not None else tuple(n for n in numbers if not isinstance(n, str))


def number_of(value: object) -> float | None | str:
    """The value as a float; None stays; a word on anything that is no finite number.

    >>> number_of(10**400)
    'a number of 401 digits is not finite as a float'
    """
    if value is None:
        return None
    if not isinstance(value, int | float):
        return f"{_shown(value)} is not a finite number"
    try:
        number = float(value)
    except OverflowError:
        return f"a number of {int(math.log10(abs(value))) + 1} digits is not finite as a float"
    return number if math.isfinite(number) else f"{value!r} is not a finite number"


def _shown(value: object) -> str:
    try:
        text = repr(value)
    except Exception:
        text = f"a {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:60]}..."
