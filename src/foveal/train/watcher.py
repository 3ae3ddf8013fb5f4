"""Callbacks: what follows a run, and may stop it."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from foveal.config import RunConfig
from foveal.train.stop import STOP

Answer = Literal["stop"] | None
"""What a callback says: "stop" ends the run after this step, with everything saved; None goes on."""


class Watcher(Protocol):
    """Told what a run does; the command line draws it."""

    def start(self, config: RunConfig, step: int, folder: Path) -> None:
        """The run starts after `step` finished steps."""
        ...

    def message(self, text: str) -> None:
        """Something a person wants to know."""
        ...

    def step(self, metrics: Mapping[str, Any]) -> Answer:
        """A line of metrics, of a step or a validation."""
        ...


class Silent:
    """A watcher that says nothing."""

    def start(self, config: RunConfig, step: int, folder: Path) -> None:
        """Nothing."""

    def message(self, text: str) -> None:
        """Nothing."""

    def step(self, metrics: Mapping[str, Any]) -> Answer:
        """Nothing."""
        return None


class Callback:
    """What you want to happen in a run: derive from this and write the methods that you need.

    `on_step` and `on_validation` may return "stop": the run then ends after this step as if it had been
    interrupted, with everything saved. An error that a callback raises ends the run at once; it goes on from
    its last checkpoint.
    """

    def on_start(self, config: RunConfig, step: int, folder: Path) -> None:
        """The run starts, after `step` finished steps, into `folder`."""

    def on_step(self, metrics: Mapping[str, Any]) -> Answer:
        """A step is finished; `metrics` is its line in metrics.jsonl (docs/metrics.md)."""
        return None

    def on_validation(self, metrics: Mapping[str, Any]) -> Answer:
        """A validation is finished; `metrics` is its line in metrics.jsonl."""
        return None

    def on_message(self, text: str) -> None:
        """A line for a person to read."""

    def on_end(self, folder: Path) -> None:
        """The run has ended, at its last step or before; not called after an error."""


AnyCallback = Callback | Callable[[Mapping[str, Any]], Any]
"""A `Callback`, or a function that is called with the metrics of each step."""


class Callbacks:
    """A watcher, and callbacks beside it."""

    def __init__(self, watcher: Watcher, callbacks: Sequence[AnyCallback]) -> None:
        self._watcher = watcher
        self._callbacks = [part if isinstance(part, Callback) else _OnStep(part) for part in callbacks]
        self.stopped = False
        """Whether a callback asked the run to stop."""

    def start(self, config: RunConfig, step: int, folder: Path) -> None:
        """Tell all."""
        self._watcher.start(config, step, folder)
        for callback in self._callbacks:
            callback.on_start(config, step, folder)

    def message(self, text: str) -> None:
        """Tell all."""
        self._watcher.message(text)
        for callback in self._callbacks:
            callback.on_message(text)

    def step(self, metrics: Mapping[str, Any]) -> Answer:
        """Tell all; "stop" where one says so."""
        answers: list[Any] = [self._watcher.step(metrics)]
        for callback in self._callbacks:
            told = callback.on_validation if metrics["kind"] == "validation" else callback.on_step
            answers.append(told(metrics))
        if not any(isinstance(answer, str) and answer == STOP for answer in answers):
            return None
        self.stopped = True
        return STOP

    def end(self, folder: Path) -> None:
        """Tell the callbacks that the run has ended."""
        for callback in self._callbacks:
            callback.on_end(folder)


class _OnStep(Callback):
    def __init__(self, function: Callable[[Mapping[str, Any]], Any]) -> None:
        self._function = function

    def on_step(self, metrics: Mapping[str, Any]) -> Answer:
        found: Answer = self._function(metrics)
        return found
