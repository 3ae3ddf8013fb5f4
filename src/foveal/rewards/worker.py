"""The grading worker: a process that runs one task at a time under limits of CPU time, wall time and memory.

The kernel ends the process when a limit is passed, so neither a loop in C nor an `except` that swallows
everything can outlive it. CPU time, not wall time, decides: a busy machine does not change a verdict. What
the process may touch is in `foveal.rewards.containment`. Never imports torch by itself.
"""

import contextlib
import importlib
import os
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from foveal.rewards.containment import Needs, contain, limit_memory, lock
from foveal.rewards.messages import encode_outcome, encode_ready, encode_unloadable
from foveal.rewards.tasks import Outcome, Task

_FIRST_CALLS = {
    "foveal.rewards.equality:equal": ("\\lfloor x \\rfloor", "\\lceil x \\rceil"),
    "foveal.compat.mathruler:grade_answer": ("x+1", "x+\\sqrt{2}"),
    "foveal.compat.mathruler:grade_answer_strictly": ("x+1", "x+\\sqrt{2}"),
}
"""Calls that load what a function needs (sympy, grammars) before the clock starts."""
_OWN = frozenset(("foveal.rewards.adapters.calls:FunctionCall",))
"""Ours that call a function of somebody's own, which is found and works in the run's folder."""


def main(
    descriptor: int, *, cpu_limit_s: float, wall_limit_s: float, scratch: str, needs: dict[str, Any]
) -> None:
    """Serve tasks from the connection until the parent closes it or dies; rules work in `scratch`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for limit in (signal.SIGPROF, signal.SIGALRM):
        signal.signal(limit, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    connection = Connection(descriptor)
    wanted = Needs(**{**needs, "environment": tuple(needs["environment"])})
    status = contain(wanted)
    loaded: dict[str, Callable[..., Any]] = {}
    folders = (os.getcwd(), scratch)
    try:
        _load_first(connection.recv_bytes(), loaded)
        status = lock(status, wanted)
        connection.send_bytes(encode_ready(status.as_dict()))
        while True:
            reply = _serve(
                connection, loaded, cpu_limit_s=cpu_limit_s, wall_limit_s=wall_limit_s, folders=folders
            )
            connection.send_bytes(reply)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        _leave(scratch)


def _leave(scratch: str) -> None:
    """Take the scratch folder away, also when the parent was killed and cannot."""
    import shutil

    os.chdir("/")
    shutil.rmtree(scratch, ignore_errors=True)


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
    connection: Connection,
    loaded: dict[str, Callable[..., Any]],
    *,
    cpu_limit_s: float,
    wall_limit_s: float,
    folders: tuple[str, str],
) -> bytes:
    """The reply to one task: its outcome, or that it cannot even be loaded, a mistake of the set-up.

    `folders`: where a reward of somebody's own is found and works, and the scratch folder of the rules.
    """
    message = connection.recv_bytes()
    try:
        os.chdir(folders[0])
        task = _unpickle(message)
        function = _loaded(task, loaded)
    except Exception as error:
        return encode_unloadable(f"{type(error).__name__}: {error}")
    if task.fields is None and task.target.startswith("foveal.") and task.target not in _OWN:
        os.chdir(folders[1])
    limit_memory()
    signal.setitimer(signal.ITIMER_PROF, cpu_limit_s * task.count)
    signal.setitimer(signal.ITIMER_REAL, wall_limit_s * task.count)
    try:
        outcome = Outcome(kind="value", value=_plain(function(*task.arguments), task.count))
    except Exception as error:
        outcome = Outcome(kind="failure", message=f"{type(error).__name__}: {error}"[:500])
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
    return encode_outcome(outcome)


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


def _plain(value: object, count: int) -> object:
    """What a call gave, as it travels: a list where it grades several completions."""
    if count == 1:
        return _scalar(value)
    found = value.tolist() if hasattr(value, "tolist") else value
    if not isinstance(found, list | tuple):
        raise TypeError(f"expected a list of {count} rewards, got {type(value).__name__}")
    return [_scalar(one) for one in found]


def _scalar(value: object) -> object:
    """A value that travels: numbers of other libraries as plain floats."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if hasattr(value, "__float__"):
        return float(value)
    raise TypeError(f"a reward is a number or None, got {type(value).__name__}")
