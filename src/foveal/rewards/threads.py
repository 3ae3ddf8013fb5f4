"""Calls that wait for something else, such as a judge's server, in threads of this process."""

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from foveal.rewards.tasks import Outcome, TryLater, failure_of

Done = Callable[[Outcome, TryLater | None], None]
"""Told of a call's outcome, in its thread, with what the call asked for where it failed by `TryLater`."""


@dataclass(kw_only=True, eq=False)
class _Call:
    function: Callable[[], Any]
    done: Done
    delay: float
    deadline: float = float("inf")
    over: bool = False
    """The callback was called, or must not be any more."""


class Threads:
    """Runs calls in up to `most` threads, in order. A thread cannot be ended: a call that passes `limit_s` is
    given up, and another thread takes its place."""

    def __init__(self, most: int, *, limit_s: float = float("inf")) -> None:
        """Threads are started as they are needed, and do not hold up the end of the process."""
        self.most, self.limit_s = most, limit_s
        self._waiting: deque[_Call] = deque()
        self._running: list[_Call] = []
        self._idle = 0
        self._alive = 0
        self._changed = threading.Condition()
        self._stop = threading.Event()

    def submit(self, function: Callable[[], Any], done: Done, *, delay: float = 0.0) -> None:
        """Have a call made, `delay` seconds after its turn has come, by which whoever is overloaded gets
        fewer calls."""
        with self._changed:
            self._waiting.append(_Call(function=function, done=done, delay=delay))
            self._grow()
            self._changed.notify()

    def sweep(self) -> float:
        """Give up calls that have passed the limit; when the next one passes it (`time.monotonic`)."""
        now = time.monotonic()
        with self._changed:
            late = [call for call in self._running if now >= call.deadline and not call.over]
            for call in late:
                call.over = True
                self._running.remove(call)
                self._alive -= 1
                self._grow()
            following = min((call.deadline for call in self._running), default=float("inf"))
        for call in late:
            call.done(Outcome(kind="timeout", message=f"passed the wall limit of {self.limit_s:g} s"), None)
        return following

    def give_up(self) -> None:
        """Drop what waits and what runs: their callbacks are not called. Later calls get new threads."""
        with self._changed:
            for call in (*self._waiting, *self._running):
                call.over = True
            self._waiting.clear()
            self._running.clear()
            self._stop.set()
            self._stop, self._alive, self._idle = threading.Event(), 0, 0
            self._changed.notify_all()

    def _grow(self) -> None:
        """Start a thread where more calls wait than threads do."""
        if len(self._waiting) > self._idle and self._alive < self.most:
            self._alive += 1
            threading.Thread(target=self._serve, args=(self._stop,), name="judging", daemon=True).start()

    def _serve(self, stop: threading.Event) -> None:
        while True:
            with self._changed:
                if stop.is_set():
                    return
                self._idle += 1
                self._changed.wait_for(lambda: stop.is_set() or bool(self._waiting))
                if stop.is_set():
                    return  # the counts have been set back
                self._idle -= 1
                call = self._waiting.popleft()
                self._grow()
            if call.delay:
                stop.wait(call.delay)
            with self._changed:
                if stop.is_set():
                    return
                call.deadline = time.monotonic() + self.limit_s
                self._running.append(call)
            outcome, asked = made(call.function)
            with self._changed:
                if call.over:
                    return  # another thread has taken this one's place
                call.over = True
                self._running.remove(call)
            call.done(outcome, asked)


def made(function: Callable[[], Any]) -> tuple[Outcome, TryLater | None]:
    """The outcome of a call, and what it asked for where it failed by `TryLater`."""
    try:
        return Outcome(kind="value", value=function()), None
    except TryLater as error:
        return Outcome(kind="failure", message=str(error)), error
    except KeyboardInterrupt:
        if threading.current_thread() is threading.main_thread():
            raise
        return Outcome(kind="failure", message="KeyboardInterrupt"), None
    except BaseException as error:  # a thread that ended without a word would be waited for
        return failure_of(error), None
