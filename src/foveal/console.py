"""What the commands do, as seen on a terminal: progress, tables, one closing line that says how to go on."""

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column, Table

from foveal.config import RunConfig, add_plugin_folder, load
from foveal.spec import FovealError

BAR_WIDTH = 10
"""The whole line fits into 80 columns; where it does not, the bar gives way."""

PLAIN_EVERY_S = 15.0
"""Seconds between lines where the output is not a terminal."""

DEFAULT_REWARDS: tuple[Mapping[str, Any], ...] = (
    {"type": "boxed", "weight": 0.9},
    {"type": "format", "weight": 0.1},
)


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
                TextColumn("{task.description}"),
                TextColumn("left"),
                TimeRemainingColumn(table_column=Column(no_wrap=True)),
                console=self.console,
            )
            self.progress.start()
            self.task = self.progress.add_task("", total=config.steps, completed=step)

    def message(self, text: str) -> None:
        """A line of text."""
        console = self.progress.console if self.progress else self.console
        console.print(text, highlight=False, markup=False, soft_wrap=True)

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


def train(
    source: Path | None,
    *,
    overrides: Sequence[str],
    model: str | None,
    data: str | None,
    out: Path | None,
    resume: Path | None,
) -> int:
    """`foveal train`."""
    from foveal.train import loop
    from foveal.train.record import CONFIG, import_paths, require_run

    screen = Screen()
    try:
        if resume is not None:
            if source is not None or overrides or model or data or out:
                raise FovealError(
                    f"--resume takes the configuration of {resume}; leave the config, --model, --data, "
                    f"--out and overrides out, or start a new run"
                )
            folder = resume
            require_run(folder)
            for place in import_paths(folder):
                add_plugin_folder(Path(place))
            summary = loop.resume(folder, config=load(folder / CONFIG), watcher=screen)
        else:
            config = load(source, overrides=overrides, model=model, data=data)
            folder = out or _free_folder(Path("runs"), source.stem if source else config.objective.type)
            summary = loop.start(config, folder, watcher=screen)
    finally:
        screen.close()
    best = summary["best"]
    print(f"finished: {summary['steps']} steps; the model is in {folder / summary['model']}")
    if best:
        print(
            f"best validation: {best['accuracy']:.3f} "
            f"after step {best['step']}, in {folder / 'checkpoints' / 'best'}"
        )
    print(f"look at it: foveal report {folder}")
    return 0


def evaluate(
    source: Path | None,
    *,
    overrides: Sequence[str],
    model: str,
    data: str | None,
    samples: int,
    problems: int,
    out: Path | None,
    against: Path | None,
) -> int:
    """`foveal evaluate`."""
    import torch

    from foveal.evaluation.compare import compare
    from foveal.evaluation.records import Evaluation
    from foveal.train import assess

    config = load(
        source if source else {"objective": {"type": "grpo"}, "rewards": list(DEFAULT_REWARDS)},
        overrides=overrides,
        model=model_folder(model),
        data=data,
    )
    torch.set_num_threads(max(1, config.threads))
    console = Console(stderr=True)
    with _bar(console, "evaluating") as tick:
        found = assess.assess(config, samples=samples, limit=problems, progress=tick, name=model)
    if out is not None:
        print(f"written: {found.save(out)}")
    _print_evaluation(found.summary)
    if against is not None:
        Console(file=sys.stdout).print_json(data=compare(Evaluation.load(against), found).to_json())
    return 0


def report(folder: Path) -> int:
    """`foveal report`."""
    from foveal.report.page import write_report
    from foveal.report.run_page import write_run_report

    if (folder / "metrics.jsonl").is_file():
        page = write_run_report(folder)
    elif (folder / "summary.json").is_file():
        page = write_report(folder)
    else:
        raise FovealError(
            f"{folder} is neither a run (metrics.jsonl) nor a quickstart (summary.json); check the path"
        )
    print(f"written: {page}")
    return 0


def worlds_show(
    *,
    out: Path,
    families: Sequence[str] | None,
    n: int,
    seed: int,
    split: str,
    noise: float,
    haze: float,
    grade: str,
    shortcut: float,
) -> int:
    """`foveal worlds show`."""
    from foveal.worlds.base import WorldSettings
    from foveal.worlds.problems import FAMILIES
    from foveal.worlds.sheet import write_contact_sheet

    settings = WorldSettings.model_validate(
        {
            "noise": noise,
            "haze": haze,
            "grade": grade,
            "shortcut": shortcut,
            "shortcut_word": "biased" if shortcut else "none",
        }
    )
    names = tuple(families or FAMILIES)
    for name in names:
        if name not in FAMILIES:
            raise FovealError(f"no such family: {name!r}; known: {', '.join(FAMILIES)}")
    write_contact_sheet(out, families=names, n=n, seed=seed, split=split, settings=settings)  # type: ignore[arg-type]
    print(f"written: {out}")
    return 0


def worlds_coldstart(*, out: Path, seed: int, text_prior: bool) -> int:
    """`foveal worlds coldstart`."""
    from foveal.worlds.coldstart import ColdStartSettings, coldstart

    console = Console(stderr=True)
    found = coldstart(
        out, seed=seed, settings=ColdStartSettings(text_prior=text_prior), progress=console.print
    )
    print(f"written: {out} ({found['cpu_seconds']:.0f} CPU seconds)")
    return 0


def model_folder(path: str) -> str:
    """A run folder stands for its newest checkpoint's model; anything else stands for itself."""
    from foveal.policy.checkpoint import MODEL_FOLDER, latest_checkpoint

    folder = Path(path)
    if (folder / MODEL_FOLDER / "config.json").is_file():
        return str(folder / MODEL_FOLDER)
    if (folder / "checkpoints").is_dir():
        newest = latest_checkpoint(folder / "checkpoints")
        if newest is None:
            raise FovealError(
                f"the run {folder} has no checkpoint yet; go on with foveal train --resume {folder}"
            )
        return str(newest / MODEL_FOLDER)
    return path


def _free_folder(root: Path, name: str) -> Path:
    """runs/NAME, or runs/NAME-2, ...: a run never writes into another."""
    folder, number = root / name, 1
    while folder.exists():
        number += 1
        folder = root / f"{name}-{number}"
    return folder


class _bar:
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


def _print_evaluation(summary: Mapping[str, Any]) -> None:
    table = Table(title=f"{summary['problems']} problems, {summary['completions']} completions")
    for column in ("quantity", "value", "95 % interval"):
        table.add_column(column, justify="left" if column == "quantity" else "right")
    for name, value in summary.items():
        if isinstance(value, Mapping) and {"value", "low", "high"} <= value.keys():
            table.add_row(name, f"{value['value']:.3f}", f"{value['low']:.3f} to {value['high']:.3f}")
    for group in ("by_family", "by_grade"):
        for label, values in summary[group].items():
            found = values["accuracy"]
            table.add_row(
                f"  accuracy, {label}", f"{found['value']:.3f}", f"{found['low']:.3f} to {found['high']:.3f}"
            )
    for kind, share in summary["kinds"].items():
        table.add_row(f"  {kind}", f"{share:.3f}", "")
    Console(file=sys.stdout).print(table)
