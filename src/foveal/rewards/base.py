"""What rewards share that are more than a rule: functions of somebody's own, and judges."""

from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field

from foveal.rewards.tasks import Task
from foveal.types import Completion, Problem, Reward

Value = float | None

NAME = r"^[\w.-]*$"
"""What a name in metrics and of files may be."""


class Declared(Reward):
    """A reward whose configuration says whether it judges answers."""

    accuracy: bool | None = None
    """Whether a value of at least 0.5 means that the answer is right; by default it does where no other
    reward of the run says so."""
    send_images: bool = False
    """Whether it gets the pictures."""
    gold: str = "<think>The answer is {answer}.</think>\\boxed{{answer}}"
    """How a completion that is right reads, with {answer} for the true answer: by this the true answers are
    graded at a run's start."""

    @property
    def short_name(self) -> str:
        """Its name in metrics; empty where that of its type serves."""
        return getattr(self, "name", "")

    def in_batches(self) -> bool:
        """Whether it grades the completions of a group in one call."""
        return False


class Handed(Declared):
    """A reward that names a call of plain data for a grading worker."""

    def first_task(self) -> Task:
        """What a worker loads before its first task."""
        raise NotImplementedError

    def task(self, problem: Problem, completions: Sequence[Completion]) -> Task:
        """The call that grades these completions: one, or a group where it grades in batches."""
        raise NotImplementedError


class Threaded(Declared):
    """A reward that waits for something else, such as a server: it is called in threads of the trainer's
    process while the engine goes on, without a limit of CPU time, and gets the pictures."""

    concurrency: int = Field(default=16, ge=1, le=1024)
    """Calls at a time."""
    retries: int | None = Field(default=None, ge=0, le=100)
    """Further attempts after a failure; by default those of [grading]."""
    has_timeout: ClassVar[bool] = False
    """Whether its calls end by a limit of their own; others are given up at `grading.wall_limit_s`."""
    costs: ClassVar[bool] = False
    """Whether calls cost money: such a reward is not asked about the true answers at a run's start."""

    def runs_here(self) -> bool:
        """Whether it is called in the main thread, one call after the other, once sampling is over."""
        return False

    def ask(self, problem: Problem, completions: Sequence[Completion]) -> Value | list[Value]:
        """The value of a completion, or those of a group where it grades in batches; may be called by several
        threads at a time. Raises what went wrong; `TryLater` where another attempt is to wait."""
        raise NotImplementedError

    def check_ready(self) -> None:
        """Raises: ConfigError, when it cannot be asked at all, before a run writes anything."""
