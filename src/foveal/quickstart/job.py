"""A job of a study."""

from dataclasses import dataclass
from typing import ClassVar

from foveal.jobs.job import Job


@dataclass(frozen=True, kw_only=True)
class StudyJob(Job):
    """One model of a study."""

    worker: ClassVar[str] = "foveal.quickstart.worker"

    shortcut: bool = False
    """Evaluate with the style word random, wrong and right."""
    modes: tuple[str, ...] = ("wrong", "random", "right")
    """Which words a shortcut job is evaluated with."""
    looks: bool = True
    """Measure token by token what a shortcut job's completions owe to the picture, for the gallery."""
