"""The results folder of a study: whether it can be used, which study it holds, and what in it is whole."""

import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from foveal.evaluation.records import Evaluation
from foveal.quickstart.jobs import Job
from foveal.spec import FovealError

DEFAULT_OUT: Mapping[str, Path] = {"plain": Path("runs/quickstart"), "shortcut": Path("runs/shortcut")}
"""Where each study goes when nothing is said."""

STUDY = "study.json"
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
SHORTCUT_COLUMNS = ("accuracy_random", "accuracy_wrong", "accuracy_right", "follow")
"""Of a job of the shortcut study: accuracy by what the style word says, and how many follow a wrong one."""


def check_numbers(*, seeds: int, steps: int | None, problems: int, jobs: int | None) -> None:
    """Raises: FovealError for a number that is too small."""
    lowest = {"seeds": (seeds, 1), "steps": (steps, 1), "problems": (problems, 2), "jobs": (jobs, 1)}
    for name, (value, least) in lowest.items():
        if value is not None and value < least:
            raise FovealError(f"--{name} {value}: expected at least {least}")


def check_model(model: str) -> None:
    """A mistyped path is told here, before anything is written.

    Raises: FovealError, when it is neither a model folder, a shipped model nor the form of a hub id.
    """
    folder = Path(model)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise FovealError(
                f"--model {model}: no config.json in it; expected a Hugging Face model folder, such as "
                f"RUN/checkpoints/step-000020/model of a run"
            )
        return
    if HUB_ID.fullmatch(model) and not folder.exists() and not folder.parent.is_dir():
        return
    from foveal.config import SHIPPED_MODELS

    if model not in SHIPPED_MODELS:
        raise FovealError(
            f"--model {model}: no such folder; expected a model folder, a hub id (owner/name), or one of "
            f"{', '.join(SHIPPED_MODELS)}"
        )


def claim(out: Path, settings: Mapping[str, Any]) -> None:
    """Make the folder and note the study; a folder in which something was made belongs to one study.

    Raises: FovealError, when it cannot be written, or holds another study.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        before = _study(out)
        if before == settings:
            return
        if before is not None and _in_use(out):
            raise FovealError(
                f"{out} holds a study with {_words(before)}, not {_words(settings)}; choose another --out, "
                f"or delete it"
            )
        write(out / STUDY, dict(settings))
    except OSError as error:
        reason = error.strerror or error
        raise FovealError(f"--out {out} cannot be used as a folder: {reason}; choose another") from error


def _study(out: Path) -> dict[str, Any] | None:
    """What the folder was begun with; None for a new one."""
    file = out / STUDY
    if not file.exists():
        return None
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        found = error
    if not isinstance(found, dict):
        raise FovealError(
            f"{file} is broken, so what {out} holds is not known; choose another --out, or delete {out}"
        )
    return found


def _in_use(out: Path) -> bool:
    """Whether a run was begun or a job finished: a study that failed before that holds nothing."""
    return any((out / "runs").glob("*")) or any((out / "jobs").glob("*.done.json"))


def _words(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in settings.items())


def forget_broken(plan: Sequence[Job]) -> list[str]:
    """Finished jobs whose results are missing or cannot be read are to be done again; returns their names."""
    broken = [job for job in plan if job.done_file.exists() and not _whole(job)]
    for job in broken:
        job.done_file.unlink()
    return [job.name for job in broken]


def _whole(job: Job) -> bool:
    try:
        done = json.loads(job.done_file.read_text(encoding="utf-8"))
        needed = SHORTCUT_COLUMNS if job.shortcut else ("kl_prcp_median", "cpu_seconds")
        if any(name not in done for name in needed):
            return False
        if not job.shortcut:
            json.loads((Path(job.folder) / "looks" / f"{job.name}.json").read_text(encoding="utf-8"))
            found = Evaluation.load(Path(job.folder) / "evaluations" / f"{job.name}.json")
            return len(found.records) == job.problems
    except (OSError, ValueError, TypeError, FovealError):
        return False
    return True


def write(file: Path, value: object) -> None:
    """JSON, whole or not at all."""
    hidden = file.with_name(f".{file.name}.partial")
    hidden.write_text(json.dumps(value, indent=1, ensure_ascii=False), encoding="utf-8")
    shutil.move(hidden, file)


def default_jobs() -> int:
    """One run a core."""
    return max(1, os.cpu_count() or 1)
