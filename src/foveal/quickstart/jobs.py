"""Runs several training jobs at a time, each in a process of its own with one CPU thread, and shows how far
they are.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from foveal.spec import FovealError
from foveal.train.stop import Interrupted, Stop, stop_signals

POLL_S = 0.5
PLAIN_EVERY_S = 30.0
"""Seconds between lines where the output is not a terminal."""
LAST_LINES = 12
"""Lines of a failed job's log that are shown."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One model to train (or only to evaluate, with `steps` 0) and everything that is measured on it."""

    name: str
    method: str
    seed: int | None
    config: str
    """Shipped config or TOML file."""
    overrides: tuple[str, ...]
    steps: int
    problems: int
    folder: str
    """Results folder: run folders, evaluations and looks go below it."""
    shortcut: bool = False
    """Evaluate with the style word random, wrong and right."""

    @property
    def run_folder(self) -> Path:
        """Where its training run lives."""
        return Path(self.folder) / "runs" / self.name

    @property
    def done_file(self) -> Path:
        """Exists once everything of this job is measured."""
        return Path(self.folder) / "jobs" / f"{self.name}.done.json"

    def to_json(self) -> str:
        """For the worker's command line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Job":
        """Back from `to_json`."""
        found = json.loads(text)
        return cls(**{**found, "overrides": tuple(found["overrides"])})


@dataclass(frozen=True)
class _Running:
    job: Job
    process: "subprocess.Popen[bytes]"
    log: Path


def run_jobs(jobs: Sequence[Job], *, at_once: int, console: Console) -> None:
    """Run all jobs that are not done, in order, `at_once` at a time.

    SIGINT and SIGTERM ask all workers to stop; a second one ends them at once.
    Raises: FovealError with the end of its log, when a job fails; the others are stopped, and save.
    Interrupted, when all that ran has stopped on request.
    """
    running: list[_Running] = []
    with stop_signals(lambda text: console.print(text, highlight=False, soft_wrap=True)) as stop:
        try:
            failure = _work_off(jobs, running, at_once=at_once, console=console, stop=stop)
            _end(running)
        except KeyboardInterrupt:
            _kill(running)
            raise Interrupted(
                "stopped at once; the same command goes on from what was saved before"
            ) from None
    if failure is not None:
        raise FovealError(failure)
    if stop.asked:
        raise Interrupted("stopped; everything is saved; the same command goes on")


def _work_off(
    jobs: Sequence[Job], running: list[_Running], *, at_once: int, console: Console, stop: Stop
) -> str | None:
    """Until all is done, a stop is asked for, or a job fails: then how. `running` tells who still works."""
    waiting = [job for job in jobs if not job.done_file.is_file()]
    screen = _Screen(jobs, console)
    with screen.progress:
        while (waiting or running) and not stop.asked:
            while waiting and len(running) < at_once:
                running.append(_start(waiting.pop(0)))
            for one in list(running):
                code = one.process.poll()
                if code is None:
                    continue
                running.remove(one)
                if code != 0:
                    return _failure(one.job, one.log, code)
            screen.update()
            time.sleep(POLL_S)
        screen.update()
    return None


def _start(job: Job) -> _Running:
    """Start a worker in a session of its own, where the terminal's Ctrl-C does not reach it.

    It stops when its standard input ends: when this process closes it, or is gone.
    """
    log = Path(job.folder) / "jobs" / f"{job.name}.log"
    for name in ("jobs", "looks", "gallery"):
        (Path(job.folder) / name).mkdir(parents=True, exist_ok=True)
    threads = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "foveal.quickstart.worker", job.to_json()],
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.PIPE,
            start_new_session=True,
            env={**os.environ, **threads, "TOKENIZERS_PARALLELISM": "false"},
        )
    return _Running(job, process, log)


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


def _failure(job: Job, log: Path, code: int) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()[-LAST_LINES:]
    said = [line.removeprefix("foveal: ") for line in lines if line.startswith("foveal: ")]
    reason = said[-1] if said else "\n".join(lines)
    return f"{job.name} ended with status {code} (log: {log}):\n{reason}"


class _Screen:
    """A bar a job from its metrics file; plain lines where there is no terminal."""

    def __init__(self, jobs: Sequence[Job], console: Console) -> None:
        self.jobs, self.console = jobs, console
        self.progress = Progress(
            TextColumn("{task.fields[label]:>14}"),
            BarColumn(bar_width=30),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self.tasks: dict[str, TaskID] = {
            job.name: self.progress.add_task("waiting", label=job.name, total=max(1, job.steps), start=False)
            for job in jobs
        }
        self.last = time.monotonic()

    def update(self) -> None:
        """Read how far each job is."""
        states = {job.name: _state(job) for job in self.jobs}
        for job in self.jobs:
            step, text = states[job.name]
            task = self.tasks[job.name]
            if text != "waiting" and self.progress.tasks[task].start_time is None:
                self.progress.start_task(task)
            if text == "done" and not self.progress.tasks[task].finished:
                self.progress.stop_task(task)
            self.progress.update(
                task, completed=max(1, job.steps) if text == "done" else step, description=text
            )
        if not self.console.is_terminal and time.monotonic() - self.last > PLAIN_EVERY_S:
            self.last = time.monotonic()
            parts = [f"{name} {text}" for name, (_, text) in states.items() if text != "waiting"]
            self.console.print("  ".join(parts), highlight=False, soft_wrap=True)


def _state(job: Job) -> tuple[int, str]:
    if job.done_file.is_file():
        return job.steps, "done"
    metrics = job.run_folder / "metrics.jsonl"
    line = _last_step(metrics)
    if line is None:
        started = (Path(job.folder) / "jobs" / f"{job.name}.log").is_file()
        return 0, ("evaluating" if job.steps == 0 else "starting") if started else "waiting"
    if line["step"] >= job.steps:
        return job.steps, "evaluating"
    return line["step"], f"step {line['step']}/{job.steps}, reward {line['reward/mean']:.3f}"


def _last_step(metrics: Path) -> dict[str, Any] | None:
    """The last whole line of a step."""
    if not metrics.is_file():
        return None
    with metrics.open("rb") as file:
        file.seek(0, os.SEEK_END)
        file.seek(max(0, file.tell() - 8192))
        lines = file.read().decode(errors="replace").splitlines()
    for line in reversed(lines):
        try:
            found = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(found, dict) and found.get("kind") == "step":
            return found
    return None
