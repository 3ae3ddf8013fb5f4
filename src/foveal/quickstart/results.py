"""What the finishing of both studies shares: curves, how results were made, and the items of the gallery."""

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from foveal.console import Console
from foveal.evaluation.compare import COLD_START
from foveal.evaluation.records import ProblemRecord
from foveal.quickstart.folder import DEFAULT_OUT, STUDY
from foveal.quickstart.job import StudyJob
from foveal.types import Problem

TABLE_WIDTH = 110


def steps_of(job: StudyJob) -> list[dict[str, Any]]:
    """The metrics of each step of a job."""
    file = job.run_folder / "metrics.jsonl"
    if not file.is_file():
        return []
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    return [line for line in lines if line["kind"] == "step"]


def curves(plan: Sequence[StudyJob]) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Method -> seed -> one row of metrics per step."""
    found: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for job in plan:
        if job.steps:
            found.setdefault(job.method, {})[str(job.seed)] = [
                {k: v for k, v in line.items() if isinstance(v, int | float)} for line in steps_of(job)
            ]
    return found


def gallery_item(
    out: Path, problem: Problem, said: Sequence[tuple[StudyJob, ProblemRecord, str]]
) -> dict[str, Any]:
    """One problem with its pictures and what each job said; the third part is the kind of each."""
    from foveal.quickstart.worker import picture_name

    spoken = {}
    for job, record, kind in said:
        looks = json.loads((out / "looks" / f"{job.name}.json").read_text())
        spoken[job.method] = {"text": record.texts[0], "kind": kind, "tokens": looks.get(record.id, [])}
    return {
        "problem_id": problem.id,
        "question": problem.question,
        "answer": problem.answer,
        "word": problem.meta.get("shortcut", {}).get("answer"),
        "pictures": [
            {view: picture_name(problem.id, n, view) for view in ("clean", "removed")}
            for n in range(len(problem.images))
        ],
        "before": spoken.pop(COLD_START),
        "after": spoken,
    }


def notes(out: Path, plan: Sequence[StudyJob]) -> dict[str, Any]:
    """How the results were made, for the end of the page."""
    from foveal.train.record import manifest

    found = manifest()
    settings = json.loads((out / STUDY).read_text(encoding="utf-8"))
    machine = found["machine"]
    return {
        "config": ", ".join(sorted({job.config for job in plan})),
        "command": command(out, settings),
        "hardware": f"{machine['system']}, {machine['cores']} cores, one thread a run",
        "commit": (found["git"] or {}).get("commit", "unknown"),
        "packages": ", ".join(f"{name} {version}" for name, version in found["packages"].items()),
    }


def command(out: Path, settings: Mapping[str, Any]) -> str:
    """What makes these results again; names the folder only where it is not the study's own."""
    words = {name: str(value) for name, value in settings.items()}
    if out != DEFAULT_OUT[settings["study"]]:
        words["out"] = str(out)
    return shlex.join(["foveal", "quickstart", *(w for n, v in words.items() for w in (f"--{n}", v))])


def show(table: Table) -> None:
    """On a terminal in its width; into a file or a pipe in a width that cuts nothing."""
    console = Console()
    (console if console.is_terminal else Console(width=TABLE_WIDTH)).print(table)
