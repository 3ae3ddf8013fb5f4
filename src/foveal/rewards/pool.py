"""A few grading workers, replaced when a limit ends them. Results come back in order."""

import contextlib
import json
import os
import pickle
import signal
import site
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection, Pipe, wait

from foveal.rewards.containment import Needs, environment_for
from foveal.rewards.messages import MAX_REPLY, BadReply, decode
from foveal.rewards.tasks import Outcome, Task
from foveal.spec import FovealError

_START = (
    "import json, sys; given = json.loads(sys.argv[1]); sys.path[:] = given.pop('path'); "
    "from foveal.rewards.worker import main; main(**given)"
)
START_LIMIT_S = 300
"""Seconds for a worker to import what it needs, on a busy machine too."""

_UNSENDABLE = (pickle.PicklingError, TypeError, AttributeError)
_LIMIT_SIGNALS = (-signal.SIGPROF, -signal.SIGALRM)


def _user_packages() -> dict[str, str]:
    """Where packages of the account lie, which an interpreter otherwise looks for in the home folder."""
    return {"PYTHONUSERBASE": site.getuserbase()} if site.ENABLE_USER_SITE else {}


class GradingError(FovealError):
    """A reward that cannot be graded in workers at all."""


@dataclass(kw_only=True)
class _Job:
    index: int
    deadline: float
    attempts: int


class _Worker:
    """One process and the parent's end of its pipe. It starts in the background."""

    def __init__(self, first: bytes, *, cpu_limit_s: float, wall_limit_s: float, needs: Needs) -> None:
        """`first`: pickled tasks whose functions it loads before its first task."""
        self.connection, theirs = Pipe(duplex=True)
        self._ready = False
        self._scratch = tempfile.TemporaryDirectory(prefix="foveal-grading-", ignore_cleanup_errors=True)
        self.status: dict[str, str] = {}
        # A plain interpreter rather than multiprocessing's spawn, which would run the user's main script
        # again. A session of its own, so that Ctrl-C reaches the parent alone; the closed pipe ends the
        # worker.
        settings = json.dumps(
            {
                "descriptor": theirs.fileno(),
                "cpu_limit_s": cpu_limit_s,
                "wall_limit_s": wall_limit_s,
                "scratch": self._scratch.name,
                "needs": asdict(needs),
                "path": [path or os.getcwd() for path in sys.path],
            }
        )
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-c", _START, settings],
                stdin=subprocess.DEVNULL,
                stdout=2,  # a reward that prints does not mix with the program's own output
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
                env=environment_for(needs, self._scratch.name, {**os.environ, **_user_packages()}),
            )
            self.send(first)

    def send(self, message: bytes) -> None:
        """To a worker that has died in between nothing is sent: the closed pipe is seen when an answer is
        read."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.connection.send_bytes(message)

    def ready(self) -> "_Worker":
        """Wait until it takes tasks.

        Raises: GradingError, when it does not start.
        """
        if self._ready:
            return self
        try:
            if not self.connection.poll(START_LIMIT_S):
                raise GradingError(
                    f"a grading worker is not ready after {START_LIMIT_S} s; check what the files of your "
                    f"rewards do when they are imported"
                )
            found = decode(self.connection.recv_bytes(MAX_REPLY))
            self.status = found if isinstance(found, dict) else {}
        except (EOFError, OSError, BadReply):
            self.stop()
            raise GradingError(
                f"a grading worker could not start (exit status {self.process.returncode}; its message is "
                f"above); check that {sys.executable} can import foveal"
            ) from None
        except BaseException:
            self.stop()
            raise
        self._ready = True
        return self

    def ended(self) -> int:
        """The exit status of a process that has closed its pipe."""
        self.connection.close()
        try:
            self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:  # it closed the pipe and lives on
            self.process.kill()
        return self.stop()

    def stop(self) -> int:
        """End the process; its exit status."""
        self.connection.close()
        self.process.kill()
        status = self.process.wait()
        self._scratch.cleanup()
        return status


class Pool:
    """Runs tasks in up to `workers` processes, started by `start` or when they are first needed.

    A task that passes `cpu_limit_s` (CPU seconds, user and system) or `wall_limit_s` is given up and its
    worker replaced. A worker that dies otherwise gets its task one more try.
    """

    def __init__(
        self,
        *,
        workers: int,
        cpu_limit_s: float,
        wall_limit_s: float,
        first: Sequence[Task] = (),
        needs: Needs | None = None,
    ) -> None:
        """Nothing is started yet. What the tasks `first` need is loaded when a worker starts; `needs` says
        what they may touch, by default as little as the system allows."""
        self.workers, self.cpu_limit_s, self.wall_limit_s = workers, cpu_limit_s, wall_limit_s
        self._first = tuple(first)
        self._needs = needs or Needs()
        self._idle: list[_Worker] = []

    def start(self) -> None:
        """Start all workers in the background: nothing waits for them before the first task."""
        while len(self._idle) < self.workers:
            self._idle.append(self._new())

    def wait(self) -> None:
        """Until the workers that were started take tasks.

        Raises: GradingError, when one does not start.
        """
        for worker in self._idle:
            worker.ready()

    def run(self, tasks: Sequence[Task]) -> list[Outcome]:
        """The outcome of each task, in order.

        Raises: GradingError, when a task cannot be sent or loaded.
        """
        outcomes: list[Outcome | None] = [None] * len(tasks)
        waiting = deque((index, 1) for index in range(len(tasks)))
        busy: dict[Connection, tuple[_Worker, _Job]] = {}
        try:
            while waiting or busy:
                while waiting and len(busy) < self.workers:
                    index, attempts = waiting.popleft()
                    worker = self._take()
                    job = _Job(
                        index=index, deadline=time.monotonic() + self.wall_limit_s + 5.0, attempts=attempts
                    )
                    busy[worker.connection] = (worker, job)
                    _send(worker, tasks[index])
                patience = min(job.deadline for _, job in busy.values()) - time.monotonic()
                ready = wait(list(busy), timeout=max(0.0, patience))
                now = time.monotonic()
                for connection, (worker, job) in list(busy.items()):
                    late = now > job.deadline
                    if connection not in ready and not late:
                        continue
                    outcome = self._receive(worker, late=connection not in ready)
                    if outcome is None and job.attempts == 1:
                        waiting.appendleft((job.index, 2))
                    else:
                        outcomes[job.index] = outcome or Outcome(
                            kind="failure", message="the worker died, twice"
                        )
                    del busy[connection]
        except BaseException:
            for worker, _ in busy.values():
                worker.stop()
            raise
        return [outcome for outcome in outcomes if outcome is not None]

    def _take(self) -> _Worker:
        while self._idle:
            worker = self._idle.pop()
            if worker.process.poll() is None:
                return worker.ready()
            worker.stop()
        return self._new().ready()

    def _new(self) -> _Worker:
        try:
            first = pickle.dumps(self._first)
        except _UNSENDABLE:
            first = pickle.dumps(())  # told when a task is sent
        return _Worker(first, cpu_limit_s=self.cpu_limit_s, wall_limit_s=self.wall_limit_s, needs=self._needs)

    def _receive(self, worker: _Worker, *, late: bool) -> Outcome | None:
        """The outcome of a worker's task; None when the worker died for no reason of a limit."""
        timeout = Outcome(kind="timeout")
        if late:
            worker.stop()
            return timeout
        try:
            reply = decode(worker.connection.recv_bytes(MAX_REPLY))
        except BadReply:
            worker.stop()
            return None
        except (EOFError, OSError):
            return timeout if worker.ended() in _LIMIT_SIGNALS else None
        if not isinstance(reply, Outcome):
            raise GradingError(f"a reward cannot be loaded in a grading worker: {reply}")
        self._idle.append(worker)
        return reply

    def close(self) -> None:
        """End all workers."""
        while self._idle:
            self._idle.pop().stop()


def _send(worker: _Worker, task: Task) -> None:
    try:
        message = pickle.dumps(task)
    except _UNSENDABLE as error:
        raise GradingError(
            f"{task.target}: a problem cannot be sent to a grading worker: {error}; "
            "keep only plain data in `Problem.meta`"
        ) from error
    worker.send(message)
