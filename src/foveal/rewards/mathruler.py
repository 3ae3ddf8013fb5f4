"""The accuracy reward of the papers' runs: the verdict of mathruler 0.1.0."""

from collections.abc import Callable
from typing import ClassVar, Self

from pydantic import model_validator

from foveal.compat.mathruler import (
    NO_BOX,
    find_box,
    grade_answer,
    grade_answer_strictly,
    grade_quickly,
)
from foveal.compat.mathruler_forms import latex_converter, math_form
from foveal.rewards.layout import without_tag_spaces
from foveal.rewards.tasks import Task
from foveal.types import Problem, Reward

_GRADE = {True: grade_answer, False: grade_answer_strictly}
"""By `as_published`."""


def _path(function: Callable[..., float]) -> str:
    """The path by which a worker finds it."""
    return f"{function.__module__}:{function.__name__}"


class Mathruler(Reward):
    r"""1 when mathruler takes the last `\boxed{}` for the truth, else 0; None for a truth of nothing.

    For runs that shall be compared with the papers'; `boxed` judges by value and is right more often. The
    truth is read as it stands: unlike `boxed`, a box or words around it are not taken away.

    Raises: ConfigError, when pylatexenc is not installed.
    Source: arXiv:2507.06448 and arXiv:2601.00501, released reward functions (accuracy part).
    Differs from their code: a missing box is never right, also when the truth is the word "None"; a truth
    that is empty, or of which only units are left out, matches nothing but itself. `as_published = true`
    takes both back.
    """

    type: str = "mathruler"
    is_accuracy: ClassVar[bool] = True
    worker_calls: ClassVar[tuple[str, ...]] = tuple(_path(grade) for grade in _GRADE.values())

    allow_spaces: bool = True
    """Whether white space around `<`, `>` and `/` is taken away first (PAPO's code; CPPO's does not)."""
    as_published: bool = False
    """Whether to give the official code's value also where it is a mistake (no box, a truth of nothing)."""

    @model_validator(mode="after")
    def _has_what_it_needs(self) -> Self:
        latex_converter()
        return self

    def settle(self, problem: Problem, text: str) -> float | None | Task:
        """The verdict where text decides it; else the comparison that a worker shall make."""
        truth = problem.answer
        if not self.as_published and not math_form(truth):
            return None
        answer = find_box(without_tag_spaces(text) if self.allow_spaces else text)
        if answer is None and not self.as_published:
            return 0.0
        answer = NO_BOX if answer is None else answer
        quick = grade_quickly(answer, truth, match_nothing=self.as_published)
        if quick is not None:
            return float(quick)
        return Task(target=_path(_GRADE[self.as_published]), arguments=(answer, truth))

    def __call__(self, problem: Problem, text: str) -> float | None:
        """1.0, 0.0 or None; may take long on hostile input."""
        found = self.settle(problem, text)
        return float(_GRADE[self.as_published](*found.arguments)) if isinstance(found, Task) else found
