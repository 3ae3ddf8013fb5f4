"""The command: plan, run what is missing, and make the table and the page of what was found."""

import json
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from foveal.console import Console
from foveal.jobs.folder import check_numbers, default_jobs, forget_broken
from foveal.jobs.job import Job
from foveal.jobs.pool import run_jobs
from foveal.jobs.screen import last_step
from foveal.spec import ConfigError
from foveal.sweep.plan import Plan, SweepJob, check_data, claim, read_plan, whole
from foveal.sweep.results import collect
from foveal.train.stop import Interrupted

FAILED = 1
"""Exit status when some runs failed and the others are finished."""

TABLE_WIDTH = 110
COLUMNS: Mapping[str, str] = {
    "accuracy": "right",
    "accuracy_other_picture": "other\npicture",
    "perception_error_fraction": "perception\nerrors",
    "format": "format",
}
WITH_INTERVAL = ("accuracy", "perception_error_fraction")
"""Columns with an interval; those of the others are on the page."""


def run(
    *,
    source: Path | None,
    overrides: Sequence[str],
    sets: Sequence[str],
    seeds: int | None,
    steps: int | None,
    problems: int | None,
    jobs: int | None,
    out: Path | None,
    dry_run: bool,
) -> int:
    """`foveal sweep`: run what is not yet there into `out` (None: runs/sweep-NAME), one run a core.

    Returns 0, or 1 when runs failed.
    Raises: FovealError for what a user can mend, before the first run; Interrupted after a stop.
    """
    check_numbers({"seeds": (seeds, 1), "steps": (steps, 1), "problems": (problems, 2), "jobs": (jobs, 1)})
    if source is None:
        raise ConfigError("no config; name a TOML file or a shipped one, such as sweep_gamma")
    plan = read_plan(source, overrides=overrides, sets=sets, seeds=seeds, steps=steps, problems=problems)
    check_data(plan)
    out = out or Path("runs") / f"sweep-{plan.name.removeprefix('sweep_')}"
    at_once = jobs or default_jobs()
    if dry_run:
        _show_plan(plan, plan.jobs(out), at_once=at_once, out=out)
        return 0
    claim(out, plan)
    return _run_all(plan, plan.jobs(out), at_once=at_once, out=out)


def _run_all(plan: Plan, runs: Sequence[SweepJob], *, at_once: int, out: Path) -> int:
    console = Console(stderr=True)
    began = time.monotonic()
    again = forget_broken(runs, whole=whole)
    if again:
        console.print(f"results of {', '.join(again)} are not whole and are made again")
    left = [job for job in runs if not job.done_file.is_file()]
    console.print(
        f"{len(plan.arms)} arms, {plan.seeds} seeds: {len(left)} of {len(runs)} runs to do, {at_once} at a "
        f"time, into {out}; Ctrl-C saves, the same command goes on",
        highlight=False,
        soft_wrap=True,
    )
    failures = run_jobs(
        runs, at_once=at_once, console=console, keep_going=True, finished=_estimate(runs, at_once)
    )
    try:
        results = collect(out, failures={one.job.name: one.reason for one in failures})
        page = write_page(out)
    except KeyboardInterrupt:
        raise Interrupted("stopped; all runs are finished and saved; the same command goes on") from None
    show(results)
    print(f"{time.monotonic() - began:.0f} s; open {page}")
    if failures:
        names = ", ".join(one.job.name for one in failures)
        print(
            f"foveal: {len(failures)} of {len(runs)} runs failed: {names}; mend the cause that their logs in "
            f"{out / 'jobs'} tell; the same command does only these again",
            file=sys.stderr,
        )
        return FAILED
    return 0


def write_page(out: Path) -> Path:
    """`report.html` of the folder."""
    from foveal.report.sweep_page import write_sweep_report

    return write_sweep_report(out)


def _estimate(runs: Sequence[Job], at_once: int) -> Callable[[Job], str | None]:
    """After the first run of training: how long the rest may take."""
    told: list[str] = []

    def finished(job: Job) -> str | None:
        if told or not job.steps:
            return None
        told.append(job.name)
        return _duration(runs, at_once)

    return finished


def _duration(runs: Sequence[Job], at_once: int) -> str:
    """What is left, from the mean time of the finished runs."""
    trained = [job for job in runs if job.steps]
    seconds = [value for job in trained if (value := _seconds(job)) is not None]
    left = len(trained) - len(seconds)
    if not seconds:
        return f"{left} runs; how long is not known until the first one is finished"
    one = sum(seconds) / len(seconds)
    return (
        f"one run took {_clock(one)}: about {_clock(math.ceil(left / at_once) * one)} for the other {left}, "
        f"{at_once} at a time"
    )


def _seconds(job: Job) -> float | None:
    if not job.done_file.is_file():
        return None
    try:
        return float(json.loads(job.done_file.read_text(encoding="utf-8"))["seconds"])
    except (ValueError, KeyError, TypeError):
        return None


def _clock(seconds: float) -> str:
    """Seconds, minutes or hours, as a person says it."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _show_plan(plan: Plan, runs: Sequence[SweepJob], *, at_once: int, out: Path) -> None:
    table = Table(title=f"{len(runs)} runs into {out}")
    for column in ("run", "steps", "state", "sets"):
        table.add_column(column, overflow="fold")
    overrides = {arm.name: arm.overrides for arm in plan.arms}
    for job in runs:
        line = last_step(job.run_folder / "metrics.jsonl")
        begun = f"step {line['step']}" if line else "to do"
        state = "done" if job.done_file.is_file() else begun
        sets = (*overrides[job.method], *job.overrides) if job.steps else ("before training",)
        table.add_row(job.name, str(job.steps), state, " ".join(sets))
    _print(table)
    print(f"{plan.problems} held-out problems a run; {_duration(runs, at_once)}")


def show(results: Mapping[str, Any]) -> None:
    """The table of a sweep: means over seeds with t-intervals, and differences to the first arm."""
    arms, first = results["arms"], results["arms"][0]
    table = Table(title=f"{results['problems']} held-out problems, greedy, %, {results['seeds']} seeds")
    for column in ("arm", "seeds", *COLUMNS.values(), "kl_prcp", "difference"):
        table.add_column(column, justify="left" if column == "arm" else "right", no_wrap=True)
    if results["start"]:
        shares = [_share(results["start"][name]) for name in COLUMNS]
        table.add_row("before training", "", *shares, "", "")
    methods = {one["method"]: one for one in results["comparisons"]["methods"]}
    pairs = {p["b"]: p for p in results["comparisons"]["pairs"] if p["a"] == first["name"]}
    for arm in arms:
        own = [run for run in results["runs"] if run["arm"] == arm["name"] and run["finished"]]
        found = methods.get(arm["name"], {})
        cells = [_cell(found.get(name), interval=name in WITH_INTERVAL) for name in COLUMNS]
        kl = [run["last"]["kl_prcp/mean"] for run in own if "kl_prcp/mean" in run["last"]]
        kl_text = f"{sum(kl) / len(kl):.3g}" if kl else "-"
        difference = _cell(pairs.get(arm["name"], {}).get("accuracy"), signed=True)
        table.add_row(arm["label"], str(len(own)), *cells, kl_text, difference)
    _print(table)
    print(f"difference: points of accuracy to {first['label']}, same seeds and problems")
    if results["seeds"] > 1:
        print("\N{PLUS-MINUS SIGN}: 95 % t-interval over seeds")
    else:
        print("one seed: no interval over seeds; what another seed would give is not known")
    alarms = sum(len(run["guard"]) for run in results["runs"])
    if alarms:
        print(f"the collapse guard spoke {alarms} times; see report.html")


def _cell(quantity: Mapping[str, Any] | None, *, signed: bool = False, interval: bool = True) -> str:
    """Mean over seeds, plus or minus half its t-interval where there are seeds for one."""
    if not quantity:
        return "-"
    over, sign = quantity["over_seeds"], "+" if signed else ""
    text = f"{100 * over['value']:{sign}.1f}"
    if over["low"] is None or not interval:
        return text
    return f"{text} \N{PLUS-MINUS SIGN} {50 * (over['high'] - over['low']):.1f}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _print(table: Table) -> None:
    """On a terminal in its width; into a file or a pipe in a width that cuts nothing."""
    console = Console()
    (console if console.is_terminal else Console(width=TABLE_WIDTH)).print(table)
