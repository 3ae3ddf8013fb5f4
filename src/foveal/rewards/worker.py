"""The grading worker: a process that runs one task at a time under limits of CPU time, wall time and memory.

The kernel ends the process when a limit is passed, so neither a loop in C nor an `except` that swallows
everything can outlive it. CPU time, not wall time, decides: a busy machine does not change a verdict. Never
imports torch by itself.
"""

import contextlib
import importlib
import os
import resource
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from foveal.rewards.tasks import Outcome, Task

MEMORY_LIMIT = 4 << 30
"""Bytes that a task may take beyond what the worker holds: a power tower is quick to fill memory."""

_FIRST_CALLS = {
    "foveal.rewards.equality:equal": ("\\lfloor x \\rfloor", "\\lceil x \\rceil"),
    "foveal.compat.mathruler:grade_answer": ("x+1", "x+\\sqrt{2}"),
    "foveal.compat.mathruler:grade_answer_strictly": ("x+1", "x+\\sqrt{2}"),
}
"""Calls that load what a function needs (sympy, grammars) before the clock starts."""


def main(descriptor: int, *, cpu_limit_s: float, wall_limit_s: float) -> None:
    """Serve tasks from the connection until the parent closes it or dies."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for limit in (signal.SIGPROF, signal.SIGALRM):
        signal.signal(limit, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    connection = Connection(descriptor)
    loaded: dict[str, Callable[..., Any]] = {}
    try:
        _load_first(connection.recv_bytes(), loaded)
        connection.send("ready")
        while True:
            connection.send(_serve(connection, loaded, cpu_limit_s=cpu_limit_s, wall_limit_s=wall_limit_s))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return


def _load_first(message: bytes, loaded: dict[str, Callable[..., Any]]) -> None:
    """Load what the first tasks will need; what cannot be loaded is told when it is asked for."""
    import pickle

    for task in pickle.loads(message):
        with contextlib.suppress(Exception):
            _loaded(task, loaded)


def _loaded(task: Task, loaded: dict[str, Callable[..., Any]]) -> Callable[..., Any]:
    key = f"{task.target} {task.fields!r}"
    if key not in loaded:
        loaded[key] = load(task)
    return loaded[key]


def _serve(
    connection: Connection, loaded: dict[str, Callable[..., Any]], *, cpu_limit_s: float, wall_limit_s: float
) -> Outcome | Exception:
    """One task; an exception is returned when it cannot even be loaded: a mistake of the set-up."""
    message = connection.recv_bytes()
    try:
        task = _unpickle(message)
        function = _loaded(task, loaded)
    except Exception as error:
        return RuntimeError(f"{type(error).__name__}: {error}")
    _limit_memory()
    signal.setitimer(signal.ITIMER_PROF, cpu_limit_s)
    signal.setitimer(signal.ITIMER_REAL, wall_limit_s)
    try:
        return Outcome(kind="value", value=_scalar(function(*task.arguments)))
    except Exception as error:
        return Outcome(kind="failure", message=f"{type(error).__name__}: {error}"[:500])
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)


def _unpickle(message: bytes) -> Task:
    import pickle

    task = pickle.loads(message)
    if not isinstance(task, Task):
        raise TypeError(f"expected a Task, got {type(task).__name__}")
    return task


def load(task: Task) -> Callable[..., Any]:
    """The function of a task, or the reward built from its fields."""
    if task.fields is None:
        module, _, name = task.target.partition(":")
        function: Callable[..., Any] = getattr(importlib.import_module(module), name)
        if task.target in _FIRST_CALLS:
            function(*_FIRST_CALLS[task.target])
        return function
    from foveal.spec import load_class

    reward: Callable[..., Any] = load_class(task.target, kind="reward").model_validate(task.fields)  # type: ignore[assignment]
    return reward


def _scalar(value: object) -> object:
    """A value that travels: numbers of other libraries as plain floats."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if hasattr(value, "__float__"):
        return float(value)
    raise TypeError(f"a reward is a number or None, got {type(value).__name__}")


def _limit_memory() -> None:
    with contextlib.suppress(OSError, ValueError):
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        soft = pages * os.sysconf("SC_PAGE_SIZE") + MEMORY_LIMIT
        resource.setrlimit(
            resource.RLIMIT_AS, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard)
        )
