"""How far the jobs are: a bar a job on a terminal, plain lines elsewhere."""

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from foveal.console import Console
from foveal.jobs.job import Job

PLAIN_EVERY_S = 30.0
"""Seconds between lines where the output is not a terminal."""
MANY = 12
"""With more jobs than this only those at work have a bar, beside one for all."""
TAIL_BYTES = 8192
"""Of a metrics file, read to find its last line."""


class Screen:
    """A bar a job from its metrics file; plain lines where there is no terminal."""

    def __init__(self, jobs: Sequence[Job], console: Console) -> None:
        self.jobs, self.console = jobs, console
        width = max((len(job.name) for job in jobs), default=0)
        self.progress = Progress(
            TextColumn(f"{{task.fields[label]:>{width}}}", markup=False),
            BarColumn(bar_width=30),
            TextColumn("{task.description}", markup=False),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self.many = len(jobs) > MANY
        self.all = self.progress.add_task("", label="all", total=len(jobs), visible=self.many)
        self.tasks: dict[str, TaskID] = {
            job.name: self.progress.add_task(
                "waiting", label=job.name, total=max(1, job.steps), start=False, visible=not self.many
            )
            for job in jobs
        }
        self.last = time.monotonic()

    def update(self, working: Sequence[Job]) -> None:
        """Read how far each job is; `working` are those that run now."""
        states = {job.name: _state(job) for job in self.jobs}
        now = {job.name for job in working}
        for job in self.jobs:
            self._show(job, *states[job.name], visible=not self.many or job.name in now)
        done = sum(text == "done" for _, text in states.values())
        self.progress.update(self.all, completed=done, description=f"{done} of {len(self.jobs)} done")
        if not self.console.is_terminal and time.monotonic() - self.last > PLAIN_EVERY_S:
            self.last = time.monotonic()
            parts = [f"{job.name} {states[job.name][1]}" for job in self.jobs if job.name in now]
            self.say("  ".join([f"{done} of {len(self.jobs)} done", *parts]))

    def say(self, text: str) -> None:
        """A line beside the bars."""
        self.console.say(text)

    def _show(self, job: Job, step: int, text: str, *, visible: bool) -> None:
        task = self.tasks[job.name]
        if text != "waiting" and self.progress.tasks[task].start_time is None:
            self.progress.start_task(task)
        if text == "done" and not self.progress.tasks[task].finished:
            self.progress.stop_task(task)
        completed = max(1, job.steps) if text == "done" else step
        self.progress.update(task, completed=completed, description=text, visible=visible)


def _state(job: Job) -> tuple[int, str]:
    """Finished steps and a word."""
    if job.done_file.is_file():
        return job.steps, "done"
    line = last_step(job.run_folder / "metrics.jsonl")
    if line is None:
        return 0, ("evaluating" if job.steps == 0 else "starting") if job.log.is_file() else "waiting"
    if line["step"] >= job.steps:
        return job.steps, "evaluating"
    return line["step"], f"step {line['step']}/{job.steps}, reward {line['reward/mean']:.3f}"


def last_step(metrics: Path) -> dict[str, Any] | None:
    """The last whole line of a step; None where there is none yet."""
    if not metrics.is_file():
        return None
    with metrics.open("rb") as file:
        file.seek(0, os.SEEK_END)
        file.seek(max(0, file.tell() - TAIL_BYTES))
        lines = file.read().decode(errors="replace").splitlines()
    for line in reversed(lines):
        try:
            found = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(found, dict) and found.get("kind") == "step":
            return found
    return None
