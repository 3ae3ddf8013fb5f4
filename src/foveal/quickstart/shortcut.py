"""The shortcut study: a word of the question gives most answers away in training, and lies in evaluation."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from foveal.evaluation.compare import COLD_START
from foveal.evaluation.records import Evaluation, ProblemRecord
from foveal.jobs.folder import write
from foveal.quickstart.folder import SHORTCUT_COLUMNS
from foveal.quickstart.job import StudyJob
from foveal.quickstart.results import curves, gallery_item, notes, show
from foveal.types import Problem

GALLERY_ITEMS = 6
FOLLOWS = "follows the word"
"""What the gallery calls a wrong answer that is the word's."""

HEADINGS = (
    "word\nwrong",
    "word\nrandom",
    "word\nright",
    "follows\nthe word",
    "describes\npicture",
    "other\npicture",
    "perception\nerrors",
)
"""Of the table, for `SHORTCUT_COLUMNS`."""


def finish(out: Path, plan: Sequence[StudyJob]) -> None:
    """summary.json, curves.json, gallery.json, report_notes.json and the table."""
    from foveal.report import shortcut

    rows = [_row(job, json.loads(job.done_file.read_text())) for job in plan]
    write(out / "summary.json", {"schema_version": 2, "rows": rows})
    write(out / "curves.json", curves(plan))
    write(out / "gallery.json", _gallery(out, plan))
    write(out / "report_notes.json", notes(out, plan))
    _print_table(rows)
    for sentence in shortcut.sentences(rows):
        print(sentence)


def _row(job: StudyJob, done: Mapping[str, Any]) -> dict[str, Any]:
    """A row of summary.json."""
    return {
        "method": job.method,
        "seed": job.seed,
        **{name: done[name] for name in SHORTCUT_COLUMNS},
        "cpu_seconds": done["cpu_seconds"],
        "steps": job.steps,
        "problems": job.problems,
    }


def _print_table(rows: Sequence[Mapping[str, Any]]) -> None:
    table = Table(title=f"held-out problems: {rows[0]['problems']}, greedy, %")
    for column in ("method", "seed", *HEADINGS, "CPU s"):
        table.add_column(
            column, justify="left" if column == "method" else "right", no_wrap=column == "method"
        )
    for row in rows:
        shares = ["-" if row[name] is None else f"{100 * row[name]:.1f}" for name in SHORTCUT_COLUMNS]
        seed = "" if row["seed"] is None else str(row["seed"])
        table.add_row(row["method"], seed, *shares, f"{row['cpu_seconds']:.0f}")
    show(table)


def _gallery(out: Path, plan: Sequence[StudyJob]) -> list[dict[str, Any]]:
    """Problems with a wrong word, of the seed that shows most: first those that GRPO answers by the word and
    PAPO from the picture.
    """
    from foveal.config import load
    from foveal.jobs.worker import on_heldout
    from foveal.quickstart.words import word_problems
    from foveal.quickstart.worker import LOOKED_AT
    from foveal.tables import shipped

    config = on_heldout(load(shipped(plan[0].config)))
    problems = word_problems(config, "wrong", count=min(LOOKED_AT, plan[0].problems))
    said = {job.name: Evaluation.load(out / "words" / f"{job.name}-wrong").records for job in plan}
    best: tuple[list[int], list[StudyJob]] = ([], [])
    for seed in dict.fromkeys(job.seed for job in plan if job.seed is not None):
        own = [job for job in plan if job.seed in (None, seed)]
        telling = _telling(problems, {job.method: said[job.name] for job in own})
        if not best[1] or len(telling) > len(best[0]):
            best = (telling, own)
    telling, shown = best
    others = [i for i in range(len(problems)) if i not in telling]
    items = []
    for i in [*_mixed(problems, telling), *others][:GALLERY_ITEMS]:
        parts = [(job, said[job.name][i], _kind(problems[i], said[job.name][i])) for job in shown]
        items.append(gallery_item(out, problems[i], parts))
    return items


def _telling(problems: Sequence[Problem], said: Mapping[str, Sequence[ProblemRecord]]) -> list[int]:
    """Where GRPO's answer is the wrong word's, and PAPO describes the picture and is right."""
    from foveal.quickstart.words import follows_word
    from foveal.worlds.judge import describes

    if not {"grpo", "papo", COLD_START} <= set(said):
        return []
    return [
        i
        for i, problem in enumerate(problems)
        if follows_word(problem, said["grpo"][i].texts[0])
        and said["papo"][i].correct[0]
        and describes(problem, said["papo"][i].texts[0])
    ]


def _mixed(problems: Sequence[Problem], chosen: Sequence[int]) -> list[int]:
    """The chosen problems, one of each template before the second of any."""
    seen: dict[str, int] = {}
    ranked = []
    for i in chosen:
        template = str(problems[i].meta.get("template"))
        seen[template] = seen.get(template, 0) + 1
        ranked.append((seen[template], i))
    return [i for _, i in sorted(ranked)]


def _kind(problem: Problem, record: ProblemRecord) -> str:
    from foveal.quickstart.words import follows_word

    if record.correct[0]:
        return "correct"
    if follows_word(problem, record.texts[0]):
        return FOLLOWS
    return record.kinds[0] if record.kinds else "wrong"
