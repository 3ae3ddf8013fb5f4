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

import fcntl
import hashlib
import json
import math
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, TextIO

from PIL.Image import Image
from torch import Tensor

from foveal.config import SCHEMA_VERSION, RunConfig, dump
from foveal.spec import FovealError
from foveal.tables import PLUGIN_FOLDERS
from foveal.train.lines import completion_lines
from foveal.types import Group

METRICS = "metrics.jsonl"
COMPLETIONS = "completions.jsonl"
EVENTS = "events.jsonl"
CONFIG = "config.toml"
MEASURED = "measured.json"
SUMMARY = "summary.json"
MANIFEST = "manifest.json"
LOCK = "lock"
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

    @staticmethod
    def require_free(path: Path) -> None:
        """Raises: FovealError, when the folder already holds a run."""
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
        try:
            for folder in (path, path / "checkpoints", path / "pictures"):
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FovealError(
                f"the run folder {path} cannot be made: {error}; choose another --out"
            ) from error
        run = cls(path)
        run.lock()
        write_json(path / MANIFEST, manifest())
        write_text(path / CONFIG, dump(config))
        return run

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """Open an existing run folder.

        Raises: FovealError, when there is no run, or another process writes to it.
        """
        require_run(path)
        run = cls(path)
        run.lock()
        for folder in (run.checkpoints, run.pictures):
            folder.mkdir(exist_ok=True)
        return run

    def lock(self) -> None:
        """Keep other processes from writing; the system lets go of it when this one ends, however it ends.

        Raises: FovealError, when another process holds it.
        """
        file = (self.path / LOCK).open("a+", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            owner = file.read().strip() or "unknown"
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
        self._append(EVENTS, [{"kind": kind, "time": _now(), **details}])

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
        for name in (METRICS, COMPLETIONS):
            file = self.path / name
            if not file.is_file():
                continue
            kept = [line for line in read_lines(file) if line["step"] <= step]
            write_text(file, "".join(_line(line) for line in kept))

    def measured(self) -> dict[str, Any] | None:
        """Choices measured at the first start.

        Raises: FovealError, when they cannot be read.
        """
        file = self.path / MEASURED
        return _read(file, needs={"threads": int}, otherwise="the choices in it are then measured again")

    def summary(self) -> dict[str, Any] | None:
        """The end of the run, once it is there.

        Raises: FovealError, when it cannot be read.
        """
        file = self.path / SUMMARY
        needs = {"steps": int, "model": str}
        return _read(file, needs=needs, otherwise="it is then written again from the newest checkpoint")

    def _append(self, name: str, lines: Sequence[Mapping[str, Any]]) -> None:
        with writing(self.path / name), (self.path / name).open("a", encoding="utf-8") as file:
            file.write("".join(_line(line) for line in lines))

    def _save_pictures(self, group: Group) -> list[str]:
        names = []
        for index, image in enumerate(group.problem.images):
            name = f"pictures/{_file_name(group.problem.id)}-{index}.png"
            save_picture(image, self.path / name)
            names.append(name)
        return names


def save_picture(image: Image, file: Path) -> None:
    """Write a PNG unless it is there, whole or not at all."""
    if file.is_file():
        return
    hidden = file.with_name(f".{file.name}.partial")
    with writing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        image.convert("RGB").save(hidden, format="PNG")
        hidden.replace(file)


def read_lines(file: Path) -> list[dict[str, Any]]:
    """The whole lines of a JSONL file; a last line that was cut off, perhaps within a letter, is left out."""
    found = []
    # Not splitlines: a completion may hold separators of lines that JSON does not escape.
    for line in file.read_bytes().split(b"\n"):
        try:
            found.append(json.loads(line))
        except ValueError:
            break
    return found


def write_json(file: Path, value: object) -> None:
    """Write JSON, whole or not at all."""
    write_text(file, json.dumps(_finite(value), indent=1, ensure_ascii=False, allow_nan=False))


def write_text(file: Path, text: str) -> None:
    """Write a file beside its place and move it there."""
    hidden = file.with_name(f".{file.name}.partial")
    with writing(file):
        with hidden.open("w", encoding="utf-8") as handle:
            handle.write(text)
            handle.flush()
            os.fsync(handle.fileno())
        hidden.replace(file)


@contextmanager
def writing(file: Path) -> Iterator[None]:
    """A disk that does not take what is written is told of, with the way out.

    Raises: FovealError.
    """
    try:
        yield
    except OSError as error:
        raise FovealError(
            f"{file} cannot be written: {error.strerror or error}; nothing finished is lost: make room "
            f"on the disk, then "
            f"go on with `foveal train --resume RUN`"
        ) from error


def require_run(path: Path) -> None:
    """Raises: FovealError, when the folder holds no run."""
    if not (path / CONFIG).is_file():
        near = sorted(str(p.parent) for p in path.glob(f"*/{CONFIG}")) if path.is_dir() else []
        hint = f"; did you mean {near[0]}?" if near else ""
        raise FovealError(f"no run in {path}: it has no {CONFIG}{hint}")


def import_paths(path: Path) -> list[str]:
    """Folders in which a run finds the plug-in modules that its config names.

    Raises: FovealError, when they cannot be read.
    """
    otherwise = "modules of your own are then looked for in the working directory alone"
    found = _read(path / MANIFEST, needs={"import_paths": list}, otherwise=otherwise)
    return [str(place) for place in found["import_paths"]] if found else []


def _read(file: Path, *, needs: Mapping[str, type], otherwise: str) -> dict[str, Any] | None:
    """A JSON table with values of these types; None where there is no file."""
    if not file.is_file():
        return None
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        reason = "it is not a table"
        if isinstance(found, dict):
            bad = [key for key, kind in needs.items() if not isinstance(found.get(key), kind)]
            if not bad:
                return found
            reason = f"{bad[0]} is {found.get(bad[0])!r}"
    except (OSError, ValueError) as error:
        reason = str(error)
    raise FovealError(f"{file} cannot be read: {reason}; delete it to go on without it: {otherwise}")


def manifest() -> dict[str, Any]:
    """What ran where: command, commit, packages, machine."""
    packages = {}
    for name in (
        "foveal",
        "torch",
        "transformers",
        "torchvision",
        "numpy",
        "pillow",
        "math-verify",
        "pydantic",
    ):
        try:
            packages[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            packages[name] = "absent"
    return {
        "schema_version": SCHEMA_VERSION,
        "started": _now(),
        "command": sys.argv,
        "import_paths": [*PLUGIN_FOLDERS, str(Path.cwd())],
        "git": _git(),
        "python": platform.python_version(),
        "packages": packages,
        "machine": {"system": platform.platform(), "processor": platform.machine(), "cores": os.cpu_count()},
    }


def _git() -> dict[str, Any] | None:
    """Commit and state of the checkout that this code runs from; None where it was installed from a package.

    The working directory's own repository is none of ours, nor is one that merely lies around an environment.
    """

    def ask(*words: str) -> str:
        command = ("git", "-C", str(Path(__file__).parent), *words)
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        ask("ls-files", "--error-unmatch", Path(__file__).name)
        return {
            "repository": ask("rev-parse", "--show-toplevel"),
            "commit": ask("rev-parse", "HEAD"),
            "changed": bool(ask("status", "--porcelain")),
        }
    except (OSError, subprocess.SubprocessError):
        return None


def _line(value: Mapping[str, Any]) -> str:
    return json.dumps(_finite(value), ensure_ascii=False, allow_nan=False) + "\n"


def _finite(value: object) -> object:
    """The value with null for NaN and infinities, which JSON does not know."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    return [_finite(inner) for inner in value] if isinstance(value, list | tuple) else value


def _file_name(problem_id: str) -> str:
    """A file name that is the problem's own; ids may hold anything."""
    safe = "".join(c if c.isascii() and c.isalnum() or c in "-_" else "_" for c in problem_id)[:NAME_LENGTH]
    if safe == problem_id:
        return safe
    return f"{safe}-{hashlib.blake2b(problem_id.encode(), digest_size=4).hexdigest()}"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
