"""The results folder of many runs: whether it can be used, what it holds, and what in it is whole."""

import json
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from foveal.jobs.job import Job
from foveal.spec import FovealError
from foveal.train.record import RunFolder

AnyJob = TypeVar("AnyJob", bound=Job)

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def check_numbers(lowest: Mapping[str, tuple[int | None, int]]) -> None:
    """`lowest`: option -> (value or None, least value).

    Raises: FovealError for a number that is too small.
    """
    for name, (value, least) in lowest.items():
        if value is not None and value < least:
            raise FovealError(f"--{name} {value}: expected at least {least}")


def check_model(model: str, *, where: str) -> None:
    """A mistyped path is told here, before anything is written; `where` names the place of the value.

    Raises: FovealError, when it is neither a model folder, a shipped model nor the form of a hub id.
    """
    folder = Path(model)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise FovealError(
                f"{where} {model}: no config.json in it; expected a Hugging Face model folder, such as "
                f"RUN/checkpoints/step-000020/model of a run"
            )
        return
    if HUB_ID.fullmatch(model) and not folder.exists() and not folder.parent.is_dir():
        return
    from foveal.config import SHIPPED_MODELS

    if model not in SHIPPED_MODELS:
        raise FovealError(
            f"{where} {model}: no such folder; expected a model folder, a hub id (owner/name), or one of "
            f"{', '.join(SHIPPED_MODELS)}"
        )


def claim(
    out: Path,
    name: str,
    settings: Mapping[str, Any],
    *,
    conflict: Callable[[Mapping[str, Any]], str | None],
) -> None:
    """Make the folder and note in its file `name` what it is for.

    Once something was made in it, `conflict` says of the settings found what forbids going on, if anything.
    Raises: FovealError, when it cannot be written, or belongs to something else, such as a single run.
    """
    RunFolder.require_free(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
        before = read_settings(out, name)
        if before == settings:
            return
        reason = conflict(before) if before is not None and _in_use(out) else None
        if reason is not None:
            raise FovealError(reason)
        write(out / name, dict(settings))
    except OSError as error:
        reason = str(error.strerror or error)
        raise FovealError(f"--out {out} cannot be used as a folder: {reason}; choose another") from error


def read_settings(out: Path, name: str) -> dict[str, Any] | None:
    """What the folder was begun with; None for a new one.

    Raises: FovealError, when it cannot be read.
    """
    file = out / name
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
    """Whether a run was begun or a job finished: what failed before that holds nothing."""
    return any((out / "runs").glob("*")) or any((out / "jobs").glob("*.done.json"))


def forget_broken(plan: Sequence[AnyJob], *, whole: Callable[[AnyJob], bool]) -> list[str]:
    """Finished jobs whose results are not `whole` are to be done again; returns their names."""
    broken = [job for job in plan if job.done_file.exists() and not whole(job)]
    for job in broken:
        job.done_file.unlink()
    return [job.name for job in broken]


def write(file: Path, value: object) -> None:
    """JSON, whole or not at all."""
    hidden = file.with_name(f".{file.name}.partial")
    hidden.write_text(json.dumps(value, indent=1, ensure_ascii=False), encoding="utf-8")
    shutil.move(hidden, file)


def default_jobs() -> int:
    """One run a core."""
    return max(1, os.cpu_count() or 1)
