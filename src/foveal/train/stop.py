"""Stopping a run: on request, after the step is finished and the state saved; or because nothing moves."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any, ClassVar, Literal

from foveal.boundary import STATUS_STOPPED
from foveal.spec import FovealError

IDLE_STEPS = 20
"""A run whose last so many steps made no update learns nothing any more."""


STOP: Literal["stop"] = "stop"
"""What a watcher answers to end the run after this step."""


class Interrupted(FovealError):
    """The run was asked to stop; it saved its state first."""

    status: ClassVar[int] = STATUS_STOPPED


@dataclass
class Stop:
    """Whether the run was asked to stop."""

    asked: bool = False

    def hear(self, answer: object) -> None:
        """What a watcher says to a line of metrics: "stop" asks to stop, anything else is none of its own."""
        self.asked = self.asked or (isinstance(answer, str) and answer == STOP)


@contextmanager
def stop_signals(message: Callable[[str], None]) -> Iterator[Stop]:
    """SIGINT and SIGTERM ask the loop to stop after the step; a second one ends the process at once."""
    stop = Stop()
    before: dict[int, Callable[[int, FrameType | None], Any] | int | None] = {}

    def ask(number: int, frame: FrameType | None) -> None:
        if stop.asked:
            raise KeyboardInterrupt
        stop.asked = True
        message(
            "stopping after this step; once more to stop at once (finished steps since the last save repeat)"
        )

    try:
        for wanted in (signal.SIGINT, signal.SIGTERM):
            before[wanted] = signal.signal(wanted, ask)
    except ValueError:
        # Only the main thread may set handlers; elsewhere the caller stops the run its own way.
        before.clear()
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def require_progress(idle: int, *, step: int, steps: int) -> None:
    """Raises: FovealError, when each update of the last IDLE_STEPS steps was skipped, or of all in a shorter
    run."""
    if idle >= min(IDLE_STEPS, steps):
        raise FovealError(
            f"stopped after step {step}: each update of the last {idle} steps was skipped, since its "
            f"gradient was not finite; the weights are those from before; start a new run with a lower "
            f"optimizer.lr or coefficient of the objective, or with model.dtype = 'float32', and look at "
            f"loss/ and policy/grad_norm in metrics.jsonl"
        )
