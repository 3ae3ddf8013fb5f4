"""Stopping a run on request: the signal is noted, the step is finished, the state is saved."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

from foveal.spec import FovealError


class Interrupted(FovealError):
    """The run was asked to stop; it saved its state first."""


@dataclass
class Stop:
    """Whether the run was asked to stop."""

    asked: bool = False


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
