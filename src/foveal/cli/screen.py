"""Progress on a terminal: a bar with the measures that matter, plain lines where there is no terminal."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column

from foveal.config import RunConfig
from foveal.console import Console

BAR_WIDTH = 10
"""The whole line fits into 80 columns; where it does not, the bar gives way."""

PLAIN_EVERY_S = 15.0
"""Seconds between lines where the output is not a terminal."""


class Screen:
    """A progress bar with reward, accuracy, kl_prcp and time left; plain lines where there is no terminal."""

    def __init__(self) -> None:
        self.console = Console(stderr=True)
        self.progress: Progress | None = None
        self.task: Any = None
        self.total = 0
        self.last = 0.0

    def start(self, config: RunConfig, step: int, folder: Path) -> None:
        """Show what runs."""
        self.total = config.steps
        going = "going on" if step else "training"
        self.message(
            f"{going}: {config.objective.type} on {config.model.path}, "
            f"{config.steps - step} steps, into {folder}"
        )
        if self.console.is_terminal:
            self.progress = Progress(
                TextColumn("[bold]step"),
                MofNCompleteColumn(table_column=Column(no_wrap=True)),
                BarColumn(bar_width=BAR_WIDTH),
                TextColumn("{task.description}", markup=False),
                TextColumn("left"),
                TimeRemainingColumn(table_column=Column(no_wrap=True)),
                console=self.console,
            )
            self.progress.start()
            self.task = self.progress.add_task("", total=config.steps, completed=step)

    def message(self, text: str) -> None:
        """A line of text."""
        self.console.say(text)

    def step(self, metrics: Mapping[str, Any]) -> None:
        """Show a line of metrics."""
        if metrics["kind"] == "validation":
            self.message(f"validation after step {metrics['step']}: {_brief(metrics, 'validation/')}")
            return
        text = _step_text(metrics)
        if self.progress is not None:
            self.progress.update(self.task, completed=metrics["step"], description=text)
        elif time.monotonic() - self.last > PLAIN_EVERY_S or metrics["step"] == self.total:
            self.last = time.monotonic()
            self.message(f"step {metrics['step']}/{self.total}  {text}")

    def close(self) -> None:
        """Give the terminal back."""
        if self.progress is not None:
            self.progress.stop()


class Bar:
    """A progress bar for work of known size; silent where there is no terminal."""

    def __init__(self, console: Console, title: str) -> None:
        self.progress = Progress(
            TextColumn(title),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self.task: Any = None

    def __enter__(self) -> Any:  # noqa: ANN401
        self.progress.start()
        self.task = self.progress.add_task("", total=None)
        return lambda done, total: self.progress.update(self.task, completed=done, total=total)

    def __exit__(self, *error: object) -> None:
        self.progress.stop()


def _step_text(metrics: Mapping[str, Any]) -> str:
    parts = [f"reward {metrics['reward/mean']:.3f}", f"accuracy {metrics['reward/accuracy']:.3f}"]
    if "kl_prcp/mean" in metrics:
        parts.append(f"kl_prcp {metrics['kl_prcp/mean']:.3f}")
    if metrics["policy/skipped_count"]:
        parts.append("update skipped: gradient not finite")
    return " ".join(parts)


def _brief(metrics: Mapping[str, Any], prefix: str) -> str:
    return ", ".join(
        f"{name.removeprefix(prefix)} {value:.3f}"
        for name, value in metrics.items()
        if name.startswith(prefix)
    )
