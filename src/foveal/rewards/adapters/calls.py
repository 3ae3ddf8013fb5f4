"""A reward function as a grading worker calls it. Imports nothing heavy."""

from typing import Any

from pydantic import PrivateAttr

from foveal.rewards.adapters.signatures import Function, Row, Signature, grade
from foveal.spec import Component, ConfigError, load_object


class FunctionCall(Component):
    """Calls the function at `path` on rows."""

    type: str = "function"
    path: str
    """Where the function is: "/folder/their_file.py:func" or "package.module:func"."""
    signature: Signature
    conversational: bool | None = None
    """Whether TRL's completions are messages; by default as the rows are."""
    _function: Function = PrivateAttr()

    def model_post_init(self, context: Any) -> None:  # noqa: ANN401
        """Import it."""
        self._function = load_function(self.path)

    def __call__(self, rows: list[Row]) -> Any:  # noqa: ANN401
        """A list of values, or the value of one row."""
        return grade(self._function, self.signature, rows, conversational=self.conversational)


def load_function(path: str) -> Function:
    """The function at an import path; a class stands for what it makes without arguments.

    Raises: ConfigError.
    """
    return callable_of(load_object(path, kind="reward"), what=repr(path))


def callable_of(found: object, *, what: str) -> Function:
    """What can be called of an object that stands for a reward.

    Raises: ConfigError.
    """
    if isinstance(found, type):
        try:
            found = found()
        except Exception as error:
            raise ConfigError(
                f"reward {what} is a class that cannot be made without arguments: "
                f"{type(error).__name__}: {error}; expected a function, a class without them, or one derived "
                f"from foveal.types.Reward"
            ) from error
    if not callable(found):
        raise ConfigError(
            f"reward {what} is {type(found).__name__}, which cannot be called; expected a function or a class"
        )
    return found
