"""A few grading workers, replaced when a limit ends them, fed by a thread while others go on."""

import contextlib
import json
import os
import pickle
import signal
import site
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection, Pipe, wait

from foveal.rewards.containment import Needs, environment_for
from foveal.rewards.messages import MAX_REPLY, BadReply, decode
from foveal.rewards.tasks import CPU_LIMIT, Outcome, Task
from foveal.spec import FovealError

_START = (
    "import json, sys; given = json.loads(sys.argv[1]); sys.path[:] = given.pop('path'); "
    "from foveal.rewards.worker import main; main(**given)"
)
START_LIMIT_S = 300
"""Seconds for a worker to import what it needs, on a busy machine too."""

_UNSENDABLE = (pickle.PicklingError, TypeError, AttributeError)
_GRACE_S = 5.0
"""Seconds after which the parent ends a worker whose own wall limit did not."""


def _user_packages() -> dict[str, str]:
    """Where packages of the account lie, which an interpreter otherwise looks for in the home folder."""
    return {"PYTHONUSERBASE": site.getuserbase()} if site.ENABLE_USER_SITE else {}


class GradingError(FovealError):
    """A reward that cannot be graded in workers at all."""


Done = Callable[[Outcome | GradingError], None]
"""Told of a task's outcome, in the thread that feeds the workers."""


@dataclass(kw_only=True, eq=False)
class _Job:
    task: Task
    done: Done
    not_before: float
    deadline: float = 0.0


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

    A thread hands tasks out and takes outcomes in, so that the caller can go on. A task that passes
    `cpu_limit_s` (CPU seconds, user and system) or `wall_limit_s` is given up and its worker replaced.
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
        self._busy: dict[Connection, tuple[_Worker, _Job]] = {}
        self._waiting: list[_Job] = []
        self._lock = threading.RLock()
        self._thread: threading.Thread | None = None
        self._bell, self._listen = Pipe(duplex=False)[::-1]
        self._closing = False

    def start(self) -> None:
        """Start all workers in the background: nothing waits for them before the first task."""
        with self._lock:
            while len(self._idle) + len(self._busy) < self.workers:
                self._idle.append(self._new())

    def wait(self) -> None:
        """Until the workers that were started take tasks.

        Raises: GradingError, when one does not start.
        """
        for worker in list(self._idle):
            worker.ready()

    def submit(self, task: Task, done: Done, *, delay: float = 0.0) -> None:
        """Have a task run, `delay` seconds from now at the earliest; `done` is called once."""
        with self._lock:
            self._waiting.append(_Job(task=task, done=done, not_before=time.monotonic() + delay))
            if self._thread is None:
                self._closing = False
                self._thread = threading.Thread(target=self._serve, name="grading", daemon=True)
                self._thread.start()
        self._ring()

    def run(self, tasks: Sequence[Task]) -> list[Outcome]:
        """The outcome of each task, in order.

        Raises: GradingError, when a task cannot be sent or loaded.
        """
        found: dict[int, Outcome | GradingError] = {}
        ready = threading.Condition()

        def put(index: int, outcome: Outcome | GradingError) -> None:
            with ready:
                found[index] = outcome
                ready.notify()

        for index, task in enumerate(tasks):
            self.submit(task, lambda outcome, index=index: put(index, outcome))  # type: ignore[misc]
        with ready:
            ready.wait_for(lambda: len(found) == len(tasks))
        outcomes = []
        for index in range(len(tasks)):
            outcome = found[index]
            if isinstance(outcome, GradingError):
                raise outcome
            outcomes.append(outcome)
        return outcomes

    def give_up(self) -> None:
        """Drop what waits and end the workers that run something; their callbacks are not called."""
        with self._lock:
            self._waiting.clear()
            for worker, job in self._busy.values():
                job.done = _nobody
                worker.process.kill()
        self._ring()

    def close(self) -> None:
        """End all workers; a later task starts new ones."""
        with self._lock:
            self._closing = True
            thread, self._thread = self._thread, None
        self.give_up()
        if thread is not None and thread is not threading.current_thread():
            thread.join()
        while self._idle:
            self._idle.pop().stop()

    def _ring(self) -> None:
        """Have the feeding thread look again."""
        with contextlib.suppress(OSError):
            self._bell.send_bytes(b"!")

    def _serve(self) -> None:
        """Hand out and take in until the pool is closed."""
        while not self._closing:
            try:
                self._hand_out()
                self._take_in()
            except GradingError as error:
                self._fail(error)
            except Exception as error:  # whoever waits must not wait for a thread that is gone
                self._fail(GradingError(f"grading workers cannot be served: {error!r}"))
        for worker, _ in self._busy.values():
            worker.stop()
        self._busy.clear()

    def _hand_out(self) -> None:
        """Give waiting tasks to workers, in the order in which they came."""
        while not self._closing:
            with self._lock:
                now = time.monotonic()
                due = (job for job in self._waiting if job.not_before <= now)
                job = next(due, None) if len(self._busy) < self.workers else None
                if job is None:
                    return
                worker = self._take()
                self._waiting.remove(job)
                self._busy[worker.connection] = (worker, job)
            try:
                worker.ready()
            except GradingError:
                if job.done is not _nobody:
                    raise
                del self._busy[worker.connection]  # given up while it started
                continue
            job.deadline = time.monotonic() + self.wall_limit_s * job.task.count + _GRACE_S
            try:
                _send(worker, job.task)
            except GradingError as error:
                del self._busy[worker.connection]
                self._idle.append(worker)
                job.done(error)

    def _take_in(self) -> None:
        """Wait for an outcome, a deadline, a task that comes due, or a new one; tell of outcomes."""
        with self._lock:
            busy = dict(self._busy)
            times = [job.deadline for _, job in busy.values()]
            if len(busy) < self.workers:
                times += [job.not_before for job in self._waiting]
        patience = max(0.0, min(times) - time.monotonic()) if times else None
        ready = wait([*busy, self._listen], timeout=patience)
        while self._listen.poll():
            self._listen.recv_bytes()
        now = time.monotonic()
        for connection, (worker, job) in busy.items():
            if connection in ready or now > job.deadline:
                outcome = self._receive(worker, late=connection not in ready)
                with self._lock:
                    del self._busy[connection]
                job.done(outcome)

    def _fail(self, error: GradingError) -> None:
        """No task can be run: end what runs, and tell all."""
        with self._lock:
            jobs = [job for _, job in self._busy.values()] + self._waiting
            for worker, _ in self._busy.values():
                worker.stop()
            self._busy.clear()
            self._waiting.clear()
        for job in jobs:
            job.done(error)

    def _take(self) -> _Worker:
        while self._idle:
            worker = self._idle.pop()
            if worker.process.poll() is None:
                return worker
            worker.stop()
        return self._new()

    def _new(self) -> _Worker:
        try:
            first = pickle.dumps(self._first)
        except _UNSENDABLE:
            first = pickle.dumps(())  # reported when a task is sent
        return _Worker(first, cpu_limit_s=self.cpu_limit_s, wall_limit_s=self.wall_limit_s, needs=self._needs)

    def _receive(self, worker: _Worker, *, late: bool) -> Outcome:
        """The outcome of a worker's task; the worker is idle again, or has ended."""
        if late:
            worker.stop()
            return self._passed(signal.SIGALRM)
        try:
            reply = decode(worker.connection.recv_bytes(MAX_REPLY))
        except BadReply as error:
            worker.stop()
            return Outcome(kind="failure", message=f"the grading worker sent {error} and was ended")
        except (EOFError, OSError):
            status = worker.ended()
            if status in (-signal.SIGPROF, -signal.SIGALRM):
                return self._passed(signal.Signals(-status))
            how = signal.Signals(-status).name if status < 0 else f"exit status {status}"
            return Outcome(kind="failure", message=f"the grading worker died ({how})")
        if not isinstance(reply, Outcome):
            raise GradingError(f"a reward cannot be loaded in a grading worker: {reply}")
        self._idle.append(worker)
        return reply

    def _passed(self, limit: signal.Signals) -> Outcome:
        """The outcome of a task that passed a limit."""
        if limit == signal.SIGPROF:
            return Outcome(kind="timeout", message=f"{CPU_LIMIT} of {self.cpu_limit_s:g} s")
        return Outcome(kind="timeout", message=f"passed the wall limit of {self.wall_limit_s:g} s")


def _nobody(outcome: Outcome | GradingError) -> None:
    """The callback of a task that was given up."""


def _send(worker: _Worker, task: Task) -> None:
    try:
        message = pickle.dumps(task)
    except _UNSENDABLE as error:
        raise GradingError(
            f"{task.target}: a problem cannot be sent to a grading worker: {error}; "
            "keep only plain data in `Problem.meta`"
        ) from error
    worker.send(message)
