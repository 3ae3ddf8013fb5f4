"""What the parent asks of a grading worker. Imports nothing heavy: workers load this file first."""

from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True)
class Task:
    """A call to be made in a worker: of a function `module:name`, or of a reward built from `fields`."""

    target: str
    arguments: tuple[Any, ...] = ()
    fields: dict[str, Any] | None = field(default=None, compare=False)
    """None for a function; for a reward class, its configuration."""


UNSETTLED = Task(target="")
"""What `settle` returns to have the reward itself called in a worker."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a task: its value, or why there is none."""

    kind: Literal["value", "timeout", "failure"]
    value: Any = None
    message: str = ""
