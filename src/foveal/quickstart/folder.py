"""The results folder of a study: what it was begun with, and what in it is whole."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from foveal.evaluation.records import Evaluation
from foveal.jobs import folder
from foveal.quickstart.job import StudyJob
from foveal.spec import FovealError

DEFAULT_OUT: Mapping[str, Path] = {"plain": Path("runs/quickstart"), "shortcut": Path("runs/shortcut")}
"""Where each study goes when nothing is said."""

STUDY = "study.json"
SHORTCUT_COLUMNS = ("accuracy_random", "accuracy_wrong", "accuracy_right", "follow")
"""Of a job of the shortcut study: accuracy by what the style word says, and how many follow a wrong one."""


def claim(out: Path, settings: Mapping[str, Any]) -> None:
    """Make the folder and note the study; a folder in which something was made belongs to one study.

    Raises: FovealError, when it cannot be written, or holds another study.
    """
    folder.claim(
        out,
        STUDY,
        settings,
        conflict=lambda before: (
            f"{out} holds a study with {_words(before)}, not {_words(settings)}; choose another --out, "
            f"or delete it"
        ),
    )


def _words(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in settings.items())


def whole(job: StudyJob) -> bool:
    """Whether all results of a finished job are there and can be read."""
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
