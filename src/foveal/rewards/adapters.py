"""Plain functions as rewards: of a file, by their import path, or of a notebook, by their name."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

from pydantic import PrivateAttr, model_validator

from foveal.spec import ConfigError
from foveal.types import Problem, Reward

_PROVIDED: dict[str, Callable[..., Any]] = {}
"""Functions that a config may name."""


class Python(Reward):
    """A function of the script or notebook that runs; it is called in the trainer's process."""

    is_accuracy: ClassVar[bool] = True
    type: str = "python"
    name: str
    """The function's name; a resumed run asks for it again."""
    _function: Callable[..., Any] | None = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _find(self) -> "Python":
        self._function = _PROVIDED.get(self.name)
        if self._function is None:
            raise ConfigError(
                f"reward {self.name!r} was a function of the script or notebook that started the run; pass "
                f"it again: foveal.resume(path, rewards=[{self.name}])"
            )
        return self

    def settle(self, problem: Problem, text: str) -> float | None:
        """The function's value."""
        return self(problem, text)

    def __call__(self, problem: Problem, text: str) -> float | None:
        """The function's value."""
        function = self._function
        if function is None:
            return None
        if "completions" in inspect.signature(function).parameters:
            columns = {key: [value] for key, value in problem.meta.items()}
            values: list[float | None] = function(
                completions=[text], prompts=[problem.question], **{"answer": [problem.answer], **columns}
            )
            return values[0]
        value: float | None = function(problem, text)
        return value


def reward_from(
    function: Callable[..., Any],
    *,
    name: str | None = None,
    signature: str | None = None,
    weight: float = 1.0,
    accuracy: bool | None = None,
    path: str | None = None,
) -> Reward:
    """A reward of a function."""
    if isinstance(function, Reward):
        return function
    known = name or str(getattr(function, "__name__", type(function).__name__))
    with provided({known: function}):
        return Python(name=known, weight=weight)


@contextmanager
def provided(functions: Mapping[str, Callable[..., Any]] | Sequence[Callable[..., Any]]) -> Iterator[None]:
    """Functions that configs read meanwhile may name."""
    if not isinstance(functions, Mapping):
        functions = {str(getattr(f, "name", None) or getattr(f, "__name__", "")): f for f in functions}
    before = dict(_PROVIDED)
    _PROVIDED.update(functions)
    try:
        yield
    finally:
        _PROVIDED.clear()
        _PROVIDED.update(before)
