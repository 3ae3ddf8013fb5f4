"""What the commands do, as seen on a terminal: progress, tables, one closing line that says how to go on."""

import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column, Table

from foveal.config import WORLD, RunConfig, dump, load
from foveal.spec import FovealError, explain
from foveal.tables import add_plugin_folder

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
    *,
    source: Path | None,
    overrides: Sequence[str],
    model: str | None,
    data: str | None,
    out: Path | None,
    resume: Path | None,
    profile: int | None,
) -> int:
    """`foveal train`."""
    from foveal.train import loop
    from foveal.train.record import CONFIG, import_paths, require_run

    _check_words(model=model, data=data)
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
            summary = loop.resume(folder, config=load(folder / CONFIG), watcher=screen, profile=profile)
        else:
            config = load(source, overrides=overrides, model=model, data=data)
            folder = out or _free_folder(Path("runs"), source.stem if source else config.objective.type)
            summary = loop.start(config, folder, watcher=screen, profile=profile)
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
    *,
    source: Path | None,
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
    from foveal.train.measure import measure

    _check_words(model=model, data=data)
    if samples < 0:
        raise FovealError(f"--samples is {samples}; expected 0 (one greedy completion) or more")
    if problems < 1:
        raise FovealError(f"--problems is {problems}; expected at least 1")
    earlier = Evaluation.load(against) if against is not None else None
    if out is not None:
        _make_folder(out, option="--out")
    console = Console(stderr=True)
    config = assess.evaluation_config(
        source,
        overrides=overrides,
        model=model,
        data=data,
        message=lambda text: console.print(text, highlight=False, markup=False, soft_wrap=True),
    )
    torch.set_num_threads(int(measure(threads=config.threads)["threads"]))
    with _bar(console, "evaluating") as tick:
        found = assess.assess(config, samples=samples, limit=problems, progress=tick, name=model)
    if out is not None:
        stem = free_stem(out, assess.evaluation_name(model))
        try:
            print(f"written: {found.save(stem)}")
        except OSError as error:
            raise FovealError(
                f"{stem}.json cannot be written: {error.strerror or error}; choose another --out"
            ) from error
    _print_evaluation(found.summary)
    if earlier is not None:
        Console(file=sys.stdout).print_json(data=compare(earlier, found).to_json())
    return 0


def show_config(*, source: Path | None, overrides: Sequence[str]) -> int:
    """`foveal config`."""
    print(dump(load(source, overrides=overrides, data=None if source else WORLD)), end="")
    return 0


def report(*, folder: Path) -> int:
    """`foveal report`."""
    try:
        from foveal.report.page import write_report
        from foveal.report.run_page import write_run_report
        from foveal.report.sweep_page import write_sweep_report
    except ModuleNotFoundError as error:
        raise FovealError(
            f"a report needs the extra report, {error.name} is missing: pip install 'foveal[report]'"
        ) from error
    from foveal.sweep.plan import PLAN
    from foveal.sweep.results import collect

    if (folder / "metrics.jsonl").is_file():
        page = write_run_report(folder)
    elif (folder / PLAN).is_file():
        collect(folder)
        page = write_sweep_report(folder)
    elif (folder / "summary.json").is_file():
        page = write_report(folder)
    else:
        raise FovealError(
            f"{folder} is neither a run (metrics.jsonl) nor a quickstart (summary.json) nor a sweep "
            f"({PLAN}); check the path"
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

    wanted = {
        "noise": noise,
        "haze": haze,
        "grade": grade,
        "shortcut": shortcut,
        "shortcut_word": "biased" if shortcut else "none",
    }
    try:
        settings = WorldSettings.model_validate(wanted)
    except ValidationError as error:
        raise FovealError(explain(error, WorldSettings, where="worlds show")) from error
    names = tuple(families or FAMILIES)
    for name in names:
        if name not in FAMILIES:
            raise FovealError(f"no such family: {name!r}; known: {', '.join(FAMILIES)}")
    if out.is_dir():
        raise FovealError(
            f"--out {out} is a folder; expected the name of a picture in it, such as {out}/sheet.png"
        )
    _make_folder(out.parent, option="--out")
    try:
        write_contact_sheet(out, families=names, n=n, seed=seed, split=split, settings=settings)  # type: ignore[arg-type]
    except OSError as error:
        raise FovealError(
            f"--out {out} cannot be written: {error.strerror or error}; choose another --out"
        ) from error
    print(f"written: {out}")
    return 0


def worlds_coldstart(*, out: Path, seed: int, text_prior: bool, size: Literal["tiny", "small"]) -> int:
    """`foveal worlds coldstart`."""
    from foveal.worlds.coldstart import coldstart
    from foveal.worlds.coldstart_recipe import recipe_of

    if text_prior and size != "tiny":
        raise FovealError("--text-prior goes on from the shipped tiny model; leave --size out")
    # Everything that can be wrong with the folder is found before the minutes of training.
    _make_folder(out, option="--out")
    if any(out.iterdir()) and not (out / "config.json").is_file():
        raise FovealError(
            f"--out {out} holds other files and no model (config.json); choose a new or an empty folder"
        )
    console = Console(stderr=True)
    recipe = recipe_of(size, text_prior=text_prior)
    found = coldstart(out, seed=seed, settings=recipe, progress=console.print)
    print(f"written: {out} ({found['cpu_seconds']:.0f} CPU seconds)")
    return 0


def free_stem(folder: Path, name: str) -> Path:
    """folder/NAME, or folder/NAME-2, ...: an evaluation never writes over another."""
    stem, number = folder / name, 1
    while any(stem.with_name(stem.name + ending).exists() for ending in (".json", ".jsonl")):
        number += 1
        stem = folder / f"{name}-{number}"
    return stem


def _check_words(*, model: str | None, data: str | None) -> None:
    """Raises: FovealError for an empty name, such as an unset variable of a shell leaves."""
    for option, value in (("--model", model), ("--data", data)):
        if value is not None and not value.strip():
            raise FovealError(f"{option} is empty; expected a path or hub id, or leave {option} out")


def _make_folder(folder: Path, *, option: str) -> None:
    """Raises: FovealError, when there is a file in its place or it cannot be written."""
    if folder.exists() and not folder.is_dir():
        raise FovealError(f"{option} {folder} is a file; expected a folder; choose another {option}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise FovealError(
            f"{option}: nothing can be written to the folder {folder}: {error.strerror or error}; "
            f"choose another {option}"
        ) from error


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
