"""Training: a step, the loop around it, and the run folder. `foveal.train(...)` starts a run from Python."""

import importlib
import inspect
import sys
from types import ModuleType
from typing import Any


class _Callable(ModuleType):
    """A module that can be called: this package and the function of the same name are one attribute."""

    def __call__(self, *arguments: Any, **settings: Any) -> Any:  # noqa: ANN401
        """`foveal.api.train`, whose arguments and documentation these are."""
        return _function()(*arguments, **settings)

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(_function())

    @property
    def __doc__(self) -> str | None:  # type: ignore[override]
        return str(_function().__doc__)


def _function() -> Any:  # noqa: ANN401
    # By name: this package lies below the one that calls it.
    return importlib.import_module("foveal.api").train


sys.modules[__name__].__class__ = _Callable
