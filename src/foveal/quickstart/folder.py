"""The results folder of a study: what it was begun with, and what in it is whole."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from foveal.evaluation.records import Evaluation
from foveal.jobs import folder
from foveal.quickstart.job import StudyJob
from foveal.spec import FovealError

DEFAULT_OUT: Mapping[str, Path] = {
    "shortcut": Path("runs/quickstart"),
    "plain": Path("runs/quickstart_plain"),
}
"""Where each study goes when nothing is said."""

STUDY = "study.json"
SHORTCUT_COLUMNS = (
    "accuracy_wrong",
    "accuracy_random",
    "accuracy_right",
    "follow",
    "describes",
    "accuracy_other_picture",
    "perception_error_fraction",
)
"""What is measured in each job of the shortcut study; see `foveal.quickstart.words`."""


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
    folder, name = Path(job.folder), job.name
    try:
        done = json.loads(job.done_file.read_text(encoding="utf-8"))
        needed = SHORTCUT_COLUMNS if job.shortcut else ("kl_prcp_median",)
        if any(name not in done for name in (*needed, "cpu_seconds")):
            return False
        json.loads((folder / "looks" / f"{name}.json").read_text(encoding="utf-8"))
        parts = [f"words/{name}-{mode}" for mode in job.modes] if job.shortcut else [f"evaluations/{name}"]
        return all(len(Evaluation.load(folder / f"{part}.json").records) == job.problems for part in parts)
    except (OSError, ValueError, TypeError, FovealError):
        return False
