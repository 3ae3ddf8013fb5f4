"""The plain study: GRPO, PAPO and CPPO where the picture is the only source of an answer."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from foveal.evaluation.compare import compare_runs
from foveal.evaluation.records import Evaluation
from foveal.jobs.folder import write
from foveal.quickstart.job import StudyJob
from foveal.quickstart.results import curves, gallery_item, notes, show

GALLERY_ITEMS = 8


def finish(out: Path, plan: Sequence[StudyJob]) -> None:
    """summary.json, comparisons.json, curves.json, gallery.json and the table."""
    evaluations = [Evaluation.load(out / "evaluations" / f"{job.name}.json") for job in plan]
    done = [json.loads(job.done_file.read_text()) for job in plan]
    rows = [_row(job, one, extra) for job, one, extra in zip(plan, evaluations, done, strict=True)]
    write(out / "summary.json", {"schema_version": 1, "rows": rows})
    comparisons = compare_runs(evaluations)
    write(out / "comparisons.json", comparisons)
    write(out / "curves.json", curves(plan))
    write(out / "gallery.json", _gallery(out, plan, evaluations))
    write(out / "report_notes.json", notes(out, plan))
    _print_table(rows, comparisons)


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


def _gallery(out: Path, plan: Sequence[StudyJob], evaluations: Sequence[Evaluation]) -> list[dict[str, Any]]:
    """Problems that the cold start got wrong, those that most methods then got right first; the first seed of
    each.
    """
    from foveal.config import load
    from foveal.quickstart.worker import LOOKED_AT
    from foveal.tables import shipped
    from foveal.train.setup import open_problems

    shown = [(j, e) for j, e in zip(plan, evaluations, strict=True) if j.seed in (None, 0)]
    data = load(shipped(plan[0].config)).data.model_copy(update={"split": "heldout"})
    problems = open_problems(data)
    count = min(LOOKED_AT, plan[0].problems)
    wrong = [i for i in range(count) if not shown[0][1].records[i].correct[0]]
    wrong.sort(key=lambda i: -sum(e.records[i].correct[0] for _, e in shown[1:]))
    items = []
    for i in wrong[: GALLERY_ITEMS - 1] + wrong[-1:]:
        records = [(job, one.records[i]) for job, one in shown]
        said = [(job, record, record.kinds[0] if record.kinds else "") for job, record in records]
        items.append(gallery_item(out, problems[i], said))
    return items


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
    show(table)
    for sentence in (*claims.headline(comparisons), *claims.looks(comparisons)):
        print(sentence)
