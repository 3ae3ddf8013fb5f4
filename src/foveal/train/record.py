"""The run folder: what a run was, what it did, and how to go on.

config.toml        the resolved configuration
manifest.json      schema_version, command, git of foveal's own checkout, packages, machine
measured.json      chosen by measurement at start; data.json: rows used, bad_rows.jsonl: left out; all reused
metrics.jsonl      one line a step, one a validation (kind = "validation"), one an alarm ("guard")
completions.jsonl  completions with policy version, rewards, per-token values of the terms, pictures
events.jsonl       start, resume, stop: what depends on when the process ran
pictures/          pictures that completions.jsonl refers to
checkpoints/       step-N: model (a Hugging Face folder), optimizer, state; best: model, state
validation/        answers of each validation
summary.json       the end of the run; with --profile also profile.json, profile.png
lock               held while a process writes to the folder
"""

import contextlib
import fcntl
import hashlib
import os
import platform
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, TextIO

from torch import Tensor

from foveal.boundary import require_name, require_one_process
from foveal.config import RunConfig, dump
from foveal.spec import FovealError
from foveal.train.files import (
    COMPLETIONS,
    CONFIG,
    EVENTS,
    LOCK,
    MANIFEST,
    MEASURED,
    METRICS,
    SUMMARY,
    import_paths,
    json_line,
    read_lines,
    read_table,
    require_run,
    require_sound,
    save_picture,
    write_json,
    write_text,
    writing,
)
from foveal.train.lines import completion_lines
from foveal.train.manifest import manifest, now
from foveal.types import Group

NAME_LENGTH = 80
"""Letters of a problem's id in the name of its pictures."""


class RunFolder:
    """Appends to a run folder; a line is whole or, after a kill, cut off at the next resume.

    One process writes to a folder at a time: `create` and `open` lock it until `close` or the end of the
    process.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.pictures = path / "pictures"
        self._lock: TextIO | None = None
        self._made: list[Path] = []
        """Folders that were not there before, the outermost first."""

    @staticmethod
    def require_free(path: Path) -> None:
        """Raises: FovealError, when the folder already holds a run, or several processes would start."""
        require_one_process()
        require_name(path, where="--out")
        if (path / CONFIG).exists():
            raise FovealError(
                f"{path} already holds a run; go on with `foveal train --resume {path}`, or choose "
                f"another --out"
            )

    @classmethod
    def create(cls, path: Path, config: RunConfig) -> "RunFolder":
        """Start a new run folder.

        Raises: FovealError, when the folder already holds a run.
        """
        cls.require_free(path)
        run = cls(path)
        try:
            for folder in (path, run.checkpoints, run.pictures):
                run._made += [place for place in (*reversed(folder.parents), folder) if not place.exists()]
                folder.mkdir(parents=True, exist_ok=True)
            require_sound(path)
            run.lock()
            cls.require_free(path)  # another process may have come and gone in between
            write_json(path / MANIFEST, manifest())
            write_text(path / CONFIG, dump(config))
        except (OSError, FovealError) as error:
            run.close()
            run.discard()
            if isinstance(error, FovealError):
                raise
            raise FovealError(
                f"the run folder {path} cannot be made: {error}; choose another --out"
            ) from error
        return run

    @classmethod
    @contextmanager
    def started(cls, path: Path, config: RunConfig) -> "Iterator[RunFolder]":
        """A new run folder, closed at the end; of a run that failed before it recorded anything, nothing
        stays."""
        folder = cls.create(path, config)
        with closing(folder):
            try:
                yield folder
            except BaseException:  # a plug-in's sys.exit and a second Ctrl-C too
                if not folder.recorded:
                    folder.discard()
                raise

    @property
    def recorded(self) -> bool:
        """Whether there is a line of metrics or a checkpoint."""
        metrics = self.path / METRICS
        return (metrics.is_file() and metrics.stat().st_size > 0) or any(self.checkpoints.glob("*"))

    def discard(self) -> None:
        """Delete what `create` made and the files of a run, and no others."""
        for name in (MANIFEST, CONFIG, MEASURED, "data.json", "bad_rows.jsonl", EVENTS, LOCK):
            with contextlib.suppress(OSError):
                (self.path / name).unlink()
        if self.path / "pictures" in self._made:
            shutil.rmtree(self.path / "validation", ignore_errors=True)
        for place in reversed(self._made):
            with contextlib.suppress(OSError):
                place.rmdir()

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """Open an existing run folder.

        Raises: FovealError, when there is no run, or another process writes to it.
        """
        require_one_process()
        require_run(path)
        require_sound(path)
        run = cls(path)
        run.lock()
        for folder in (run.checkpoints, run.pictures):
            with writing(folder):
                folder.mkdir(exist_ok=True)
        return run

    def lock(self) -> None:
        """Keep other processes from writing; the system lets go of it when this one ends, however it ends.

        Raises: FovealError, when another process holds it.
        """
        with writing(self.path / LOCK):
            file = (self.path / LOCK).open("a+", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            owner = file.read(200).strip() or "unknown"
            file.close()
            raise FovealError(
                f"{self.path} is being written by another process ({owner}); wait for it or stop it, or "
                f"choose another --out"
            ) from error
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}\n")
        file.flush()
        self._lock = file

    def close(self) -> None:
        """Let other processes write."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def sync(self) -> None:
        """Bring the lines so far to the disk: a checkpoint must not be newer than they are."""
        for name in (METRICS, COMPLETIONS):
            if (self.path / name).is_file():
                with writing(self.path / name), (self.path / name).open("rb") as file:
                    os.fsync(file.fileno())

    def metrics(self, line: Mapping[str, Any]) -> None:
        """Append a line of metrics."""
        self._append(METRICS, [line])

    def event(self, kind: str, details: Mapping[str, Any]) -> None:
        """Append an event."""
        self._append(EVENTS, [{"kind": kind, "time": now(), **details}])

    def completions(
        self,
        step: int,
        groups: Sequence[Group],
        per_token: Mapping[str, Tensor],
        *,
        limit: int,
        token_groups: int,
    ) -> None:
        """Append the completions of the first `limit` groups.

        The first `token_groups` of them get per-token values and their pictures. `per_token` has no row for
        a completion that was excluded.
        """
        lines = completion_lines(
            step,
            groups,
            per_token,
            limit=limit,
            token_groups=token_groups,
            pictures=self._save_pictures,
        )
        self._append(COMPLETIONS, lines)

    def validated(self, step: int) -> bool:
        """Whether the validation after a step is recorded."""
        file = self.path / METRICS
        found = read_lines(file) if file.is_file() else []
        return any(line["kind"] == "validation" and line["step"] == step for line in found)

    def rewind(self, step: int) -> None:
        """Drop lines of later steps than `step`, and a line that was cut off: they will be written again."""
        files = [file for name in (METRICS, COMPLETIONS) if (file := self.path / name).is_file()]
        # All is read before anything is written.
        found = {file: read_lines(file, stepped=True) for file in files}
        for file, stored in found.items():
            write_text(file, "".join(json_line(line) for line in stored if line["step"] <= step))

    def measured(self) -> dict[str, Any] | None:
        """Choices measured at the first start.

        Raises: FovealError, when they cannot be read.
        """
        file = self.path / MEASURED
        return read_table(file, needs={"threads": int}, otherwise="the choices in it are then measured again")

    def summary(self) -> dict[str, Any] | None:
        """The end of the run, once it is there.

        Raises: FovealError, when it cannot be read.
        """
        file = self.path / SUMMARY
        needs = {"steps": int, "model": str}
        return read_table(file, needs=needs, otherwise="it is then written again from the newest checkpoint")

    def _append(self, name: str, lines: Sequence[Mapping[str, Any]]) -> None:
        with writing(self.path / name), (self.path / name).open("a", encoding="utf-8") as file:
            file.write("".join(json_line(line) for line in lines))

    def _save_pictures(self, group: Group) -> list[str]:
        names = []
        for index, image in enumerate(group.problem.images):
            name = f"pictures/{_file_name(group.problem.id)}-{index}.png"
            save_picture(image, self.path / name)
            names.append(name)
        return names


def _file_name(problem_id: str) -> str:
    """A file name that is the problem's own; ids may hold anything."""
    safe = "".join(c if c.isascii() and c.isalnum() or c in "-_" else "_" for c in problem_id)[:NAME_LENGTH]
    if safe == problem_id:
        return safe
    return f"{safe}-{hashlib.blake2b(problem_id.encode(), digest_size=4).hexdigest()}"


__all__ = [
    "COMPLETIONS",
    "CONFIG",
    "EVENTS",
    "MANIFEST",
    "MEASURED",
    "METRICS",
    "SUMMARY",
    "RunFolder",
    "import_paths",
    "manifest",
    "read_lines",
    "require_run",
    "save_picture",
    "write_json",
    "write_text",
    "writing",
]
