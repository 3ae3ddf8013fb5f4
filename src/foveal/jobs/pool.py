"""Runs several training jobs at a time, each in a process of its own with one CPU thread."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from foveal.console import Console
from foveal.jobs.job import Job
from foveal.jobs.screen import Screen
from foveal.spec import FovealError
from foveal.train.stop import Interrupted, Stop, stop_signals

POLL_S = 0.5
LAST_LINES = 12
"""Lines of a failed job's log that are shown."""


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A job that ended without a result, and what it said."""

    job: Job
    reason: str


@dataclass(frozen=True)
class _Running:
    job: Job
    process: "subprocess.Popen[bytes]"


def run_jobs(
    jobs: Sequence[Job],
    *,
    at_once: int,
    console: Console,
    keep_going: bool = False,
    finished: Callable[[Job], str | None] = lambda job: None,
) -> list[Failure]:
    """Run all jobs that are not done, in order, `at_once` at a time.

    SIGINT and SIGTERM ask all workers to stop; a second one ends them at once. With `keep_going` a failed job
    is told and the others go on; all failures are returned. `finished` may give a line to show after a job.
    Raises: FovealError with the end of its log, when a job fails without `keep_going`; the others are
    stopped, and save. Interrupted, when all that ran has stopped on request.
    """
    running: list[_Running] = []
    with stop_signals(console.say) as stop:
        try:
            failures = _work_off(
                jobs,
                running,
                at_once=at_once,
                console=console,
                stop=stop,
                keep_going=keep_going,
                finished=finished,
            )
            _end(running)
        except KeyboardInterrupt:
            _kill(running)
            raise Interrupted(
                "stopped at once; the same command goes on from what was saved before"
            ) from None
    if failures and not keep_going:
        raise FovealError(failures[0].reason)
    if stop.asked:
        raise Interrupted("stopped; everything is saved; the same command goes on")
    return failures


def _work_off(
    jobs: Sequence[Job],
    running: list[_Running],
    *,
    at_once: int,
    console: Console,
    stop: Stop,
    keep_going: bool,
    finished: Callable[[Job], str | None],
) -> list[Failure]:
    """Until all is done, a stop is asked for, or a job fails that ends the rest. `running` tells who still
    works.
    """
    waiting = [job for job in jobs if not job.done_file.is_file()]
    failures: list[Failure] = []
    screen = Screen(jobs, console)
    with screen.progress:
        while (waiting or running) and not stop.asked:
            while waiting and len(running) < at_once:
                running.append(_start(waiting.pop(0)))
            for one in [one for one in running if one.process.poll() is not None]:
                running.remove(one)
                if one.process.returncode == 0:
                    said = finished(one.job)
                else:
                    failures.append(_failure(one.job, one.process.returncode))
                    if not keep_going:
                        return failures
                    said = f"{failures[-1].reason}\nthe other runs go on"
                if said:
                    screen.say(said)
            screen.update([one.job for one in running])
            time.sleep(POLL_S)
        screen.update([])
    return failures


def _start(job: Job) -> _Running:
    """Start a worker in a session of its own, where the terminal's Ctrl-C does not reach it.

    It stops when its standard input ends: when this process closes it, or is gone.
    """
    job.log.parent.mkdir(parents=True, exist_ok=True)
    threads = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    with job.log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", job.worker, job.to_json()],
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.PIPE,
            start_new_session=True,
            env={**os.environ, **threads, "TOKENIZERS_PARALLELISM": "false"},
        )
    return _Running(job, process)


def _end(running: Sequence[_Running]) -> None:
    """Ask the workers to stop (in training they finish their step and save), and wait for them."""
    for one in running:
        if one.process.stdin is not None:
            one.process.stdin.close()
    for one in running:
        one.process.wait()


def _kill(running: Sequence[_Running]) -> None:
    for one in running:
        one.process.kill()
    for one in running:
        one.process.wait()


def _failure(job: Job, code: int) -> Failure:
    lines = job.log.read_text(errors="replace").strip().splitlines()[-LAST_LINES:]
    said = [line.removeprefix("foveal: ") for line in lines if line.startswith("foveal: ")]
    reason = said[-1] if said else "\n".join(lines)
    return Failure(job=job, reason=f"{job.name} ended with status {code} (log: {job.log}):\n{reason}")
