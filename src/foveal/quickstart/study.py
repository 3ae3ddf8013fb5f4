"""The studies: which jobs, how long, and what is made of their results."""

import json
import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from foveal.console import Console
from foveal.evaluation.compare import COLD_START, compare_runs
from foveal.evaluation.records import Evaluation
from foveal.jobs.folder import check_model, check_numbers, default_jobs, forget_broken, write
from foveal.jobs.pool import run_jobs
from foveal.quickstart.folder import DEFAULT_OUT, SHORTCUT_COLUMNS, STUDY, claim, whole
from foveal.quickstart.job import StudyJob
from foveal.train.stop import Interrupted

METHODS = ("grpo", "papo", "cppo")
"""Of the plain study; each has a config quickstart_METHOD."""

STEPS = 20
SHORTCUT_STEPS = 60
GALLERY_ITEMS = 8
TABLE_WIDTH = 110

SHORTCUT_ARMS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "grpo": ("shortcut_grpo", ()),
    "papo": ("shortcut_papo", ()),
    "papo_strong": ("shortcut_papo", ("objective.kl_prcp_coef=0.2",)),
    "cppo": ("shortcut_cppo", ()),
    "kl_to_start": ("shortcut_grpo", ("objective.kl_coef=0.2",)),
    "no_shortcut": ("shortcut_grpo", ("data.shortcut=0.0", "data.shortcut_word=random")),
}
"""Of the shortcut study: config and overrides; the last two are the controls."""


def run(
    *,
    out: Path | None,
    study: str,
    model: str | None,
    seeds: int,
    steps: int | None,
    problems: int,
    jobs: int | None,
) -> int:
    """Run a study into `out` (None: its own folder below runs/); a second call goes on where a stopped one
    was, and shows a finished one again.

    Raises: FovealError for what a user can mend, before anything is written; Interrupted after a stop.
    """
    check_numbers({"seeds": (seeds, 1), "steps": (steps, 1), "problems": (problems, 2), "jobs": (jobs, 1)})
    if model is not None:
        check_model(model, where="--model")
    out = out or DEFAULT_OUT[study]
    console = Console(stderr=True)
    began = time.monotonic()
    length = steps or (STEPS if study == "plain" else SHORTCUT_STEPS)
    plan = _plan(out, study, model=model, seeds=seeds, steps=length, problems=problems)
    settings = {"study": study, "seeds": seeds, "steps": length, "problems": problems}
    claim(out, settings | ({"model": model} if model else {}))
    again = forget_broken(plan, whole=whole)
    if again:
        console.print(f"results of {', '.join(again)} are not whole and are made again")
    console.print(f"{len(plan)} jobs into {out}; Ctrl-C saves, the same command goes on")
    run_jobs(plan, at_once=jobs or default_jobs(), console=console)
    try:
        page = _finish(out, study, plan)
    except KeyboardInterrupt:
        raise Interrupted("stopped; all runs are finished and saved; the same command goes on") from None
    print(f"{time.monotonic() - began:.0f} s; open {page}")
    return 0


def _finish(out: Path, study: str, plan: Sequence[StudyJob]) -> Path:
    """The files of the results, the table, and the page; returns the page."""
    from foveal.report.page import write_report

    (_finish_plain if study == "plain" else _finish_shortcut)(out, plan)
    return write_report(out)


def _plan(
    out: Path, study: str, *, model: str | None, seeds: int, steps: int, problems: int
) -> list[StudyJob]:
    """The cold start first, then seed by seed, so that a stopped study has whole seeds."""
    shortcut = study == "shortcut"
    arms = SHORTCUT_ARMS if shortcut else {m: (f"quickstart_{m}", ()) for m in METHODS}

    def job(method: str, seed: int | None, config: str, overrides: tuple[str, ...], steps: int) -> StudyJob:
        return StudyJob(
            name=method if seed is None else f"{method}-{seed}",
            method=method,
            seed=seed,
            config=config,
            overrides=overrides if model is None else (*overrides, f"model.path={model}"),
            steps=steps,
            problems=problems,
            folder=str(out),
            shortcut=shortcut,
        )

    first = job(COLD_START, None, next(iter(arms.values()))[0], (), 0)
    rest = [
        job(arm, seed, config, overrides, steps)
        for seed in range(seeds)
        for arm, (config, overrides) in arms.items()
    ]
    return [first, *rest]


def _finish_plain(out: Path, plan: Sequence[StudyJob]) -> None:
    """summary.json, comparisons.json, curves.json, gallery.json and the table."""
    evaluations = [Evaluation.load(out / "evaluations" / f"{job.name}.json") for job in plan]
    done = [json.loads(job.done_file.read_text()) for job in plan]
    rows = [_row(job, one, extra) for job, one, extra in zip(plan, evaluations, done, strict=True)]
    write(out / "summary.json", {"schema_version": 1, "rows": rows})
    comparisons = compare_runs(evaluations)
    write(out / "comparisons.json", comparisons)
    write(out / "curves.json", _curves(plan))
    write(out / "gallery.json", _gallery(out, plan, evaluations))
    write(out / "report_notes.json", _notes(out, plan))
    _print_table(rows, comparisons)


def _finish_shortcut(out: Path, plan: Sequence[StudyJob]) -> None:
    """shortcut.json, and a table of its rows."""
    done = [json.loads(job.done_file.read_text()) for job in plan]
    strength = {job.name: 0.0 if job.method == "no_shortcut" else None for job in plan}
    rows = [
        {**one, "train_accuracy": _last_accuracy(job), "strength": strength[job.name]}
        for job, one in zip(plan, done, strict=True)
    ]
    write(out / "shortcut.json", {"schema_version": 1, "rows": rows})
    write(
        out / "summary.json",
        {
            "schema_version": 1,
            "rows": [
                {
                    "method": row["method"],
                    "seed": row["seed"],
                    "accuracy": row["accuracy_random"],
                    "cpu_seconds": row["cpu_seconds"],
                    "steps": job.steps,
                    "problems": job.problems,
                }
                for row, job in zip(rows, plan, strict=True)
            ],
        },
    )
    write(out / "curves.json", _curves(plan))
    write(out / "report_notes.json", _notes(out, plan))
    table = Table(title="the style word random, wrong and right")
    for column in ("method", "seed", "training", *SHORTCUT_COLUMNS):
        table.add_column(column)
    for row in rows:
        trained = "" if row["train_accuracy"] is None else f"{row['train_accuracy']:.3f}"
        seed = "" if row["seed"] is None else str(row["seed"])
        table.add_row(str(row["method"]), seed, trained, *(f"{row[c]:.3f}" for c in SHORTCUT_COLUMNS))
    _show(table)


def _row(job: StudyJob, one: Evaluation, extra: Mapping[str, Any]) -> dict[str, Any]:
    """A row of summary.json."""
    summary = one.summary

    def value(name: str) -> float | None:
        found = summary.get(name)
        return found["value"] if isinstance(found, Mapping) else None

    return {
        "method": job.method,
        "seed": job.seed,
        "accuracy": value("accuracy"),
        "accuracy_other_picture": value("accuracy_other_picture"),
        "perception_error_fraction": value("perception_error_fraction"),
        "format": value("format"),
        "kl_prcp_median": extra["kl_prcp_median"],
        "cpu_seconds": extra["cpu_seconds"],
        "steps": job.steps,
        "problems": len(one.records),
    }


def _steps(job: StudyJob) -> list[dict[str, Any]]:
    file = job.run_folder / "metrics.jsonl"
    if not file.is_file():
        return []
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    return [line for line in lines if line["kind"] == "step"]


def _curves(plan: Sequence[StudyJob]) -> dict[str, dict[str, list[dict[str, Any]]]]:
    found: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for job in plan:
        if job.steps:
            found.setdefault(job.method, {})[str(job.seed)] = [
                {k: v for k, v in line.items() if isinstance(v, int | float)} for line in _steps(job)
            ]
    return found


def _last_accuracy(job: StudyJob, steps: int = 30) -> float | None:
    """Training accuracy over the last steps."""
    last = [line["reward/accuracy"] for line in _steps(job)[-steps:]]
    return sum(last) / len(last) if last else None


def _gallery(out: Path, plan: Sequence[StudyJob], evaluations: Sequence[Evaluation]) -> list[dict[str, Any]]:
    """Problems that the cold start got wrong, those that most methods then got right first; the first seed of
    each.
    """
    from foveal.config import load
    from foveal.quickstart.worker import LOOKED_AT, picture_name
    from foveal.tables import shipped
    from foveal.train.setup import open_problems

    shown = [(j, e) for j, e in zip(plan, evaluations, strict=True) if j.seed in (None, 0)]
    looks = {j.name: json.loads((out / "looks" / f"{j.name}.json").read_text()) for j, _ in shown}
    data = load(shipped(plan[0].config)).data.model_copy(update={"split": "heldout"})
    problems = open_problems(data)
    count = min(LOOKED_AT, plan[0].problems)
    wrong = [i for i in range(count) if not shown[0][1].records[i].correct[0]]
    wrong.sort(key=lambda i: -sum(e.records[i].correct[0] for _, e in shown[1:]))
    items = []
    for i in wrong[: GALLERY_ITEMS - 1] + wrong[-1:]:
        problem = problems[i]
        said = {}
        for job, one in shown:
            record = one.records[i]
            kind = record.kinds[0] if record.kinds else ""
            said[job.method] = {
                "text": record.texts[0],
                "kind": kind,
                "tokens": looks[job.name].get(record.id, []),
            }
        items.append(
            {
                "problem_id": problem.id,
                "question": problem.question,
                "answer": problem.answer,
                "pictures": [
                    {
                        "clean": picture_name(problem.id, n, "clean"),
                        "removed": picture_name(problem.id, n, "removed"),
                    }
                    for n in range(len(problem.images))
                ],
                "before": said.pop(COLD_START),
                "after": said,
            }
        )
    return items


def _notes(out: Path, plan: Sequence[StudyJob]) -> dict[str, Any]:
    from foveal.train.record import manifest

    found = manifest()
    settings = json.loads((out / STUDY).read_text(encoding="utf-8"))
    machine = found["machine"]
    return {
        "config": ", ".join(sorted({job.config for job in plan})),
        "command": _command(out, settings),
        "hardware": f"{machine['system']}, {machine['cores']} cores, one thread a run",
        "commit": (found["git"] or {}).get("commit", "unknown"),
        "packages": ", ".join(f"{name} {version}" for name, version in found["packages"].items()),
    }


def _command(out: Path, settings: Mapping[str, Any]) -> str:
    """What makes these results again; names the folder only where it is not the study's own."""
    words = {name: str(value) for name, value in settings.items()}
    if out != DEFAULT_OUT[settings["study"]]:
        words["out"] = str(out)
    return shlex.join(["foveal", "quickstart", *(w for n, v in words.items() for w in (f"--{n}", v))])


def _print_table(rows: Sequence[Mapping[str, Any]], comparisons: Mapping[str, Any]) -> None:
    from foveal.report import claims

    table = Table(title=f"held-out problems: {rows[0]['problems']}, greedy")
    names = ("accuracy", "other picture", "perception errors", "format", "kl_prcp median", "CPU s", "steps")
    for column in ("method", "seed", *names):
        table.add_column(column, justify="left" if column == "method" else "right")
    for row in rows:
        seed = "" if row["seed"] is None else str(row["seed"])
        shares = [
            row[n] for n in ("accuracy", "accuracy_other_picture", "perception_error_fraction", "format")
        ]
        shown = ["-" if share is None else f"{100 * share:.1f} %" for share in shares]
        table.add_row(
            row["method"],
            seed,
            *shown,
            f"{row['kl_prcp_median']:.1g}",
            f"{row['cpu_seconds']:.0f}",
            str(row["steps"]),
        )
    _show(table)
    for sentence in (*claims.headline(comparisons), *claims.looks(comparisons)):
        print(sentence)


def _show(table: Table) -> None:
    """On a terminal in its width; into a file or a pipe in a width that cuts nothing."""
    console = Console()
    (console if console.is_terminal else Console(width=TABLE_WIDTH)).print(table)
