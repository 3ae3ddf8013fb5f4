"""The run folder: what a run was, what it did, and how to go on.

config.toml        the resolved configuration
manifest.json      schema_version, command, git, packages, machine
measured.json      what was chosen by measurement at start; reused on resume
metrics.jsonl      one line a step, and one a validation (kind = "validation")
completions.jsonl  completions with policy version, rewards, per-token values of the terms, references to pictures
events.jsonl       start, resume, stop: what depends on when the process ran
pictures/          pictures that completions.jsonl refers to
checkpoints/       step-N: model (a Hugging Face folder), optimizer, state
summary.json       the end of the run
"""

import json
import math
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from PIL.Image import Image
from torch import Tensor

from foveal.config import SCHEMA_VERSION, RunConfig, dump
from foveal.spec import FovealError
from foveal.types import Group

METRICS = "metrics.jsonl"
COMPLETIONS = "completions.jsonl"
EVENTS = "events.jsonl"
CONFIG = "config.toml"
MEASURED = "measured.json"
SUMMARY = "summary.json"
DIGITS = 5
"""Significant digits of per-token values in completions.jsonl."""


class RunFolder:
    """Appends to a run folder; a line is whole or, after a kill, cut off at the next resume."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.pictures = path / "pictures"

    @classmethod
    def create(cls, path: Path, config: RunConfig) -> "RunFolder":
        """Start a new run folder.

        Raises: FovealError, when the folder already holds a run.
        """
        if (path / CONFIG).exists():
            raise FovealError(
                f"{path} already holds a run; go on with `foveal train --resume {path}`, or choose another --out"
            )
        try:
            for folder in (path, path / "checkpoints", path / "pictures"):
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FovealError(
                f"the run folder {path} cannot be made: {error}; choose another --out"
            ) from error
        write_json(path / "manifest.json", manifest())
        write_text(path / CONFIG, dump(config))
        return cls(path)

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """Open an existing run folder.

        Raises: FovealError, when there is no run.
        """
        if not (path / CONFIG).is_file():
            near = sorted(str(p.parent) for p in path.glob(f"*/{CONFIG}")) if path.is_dir() else []
            hint = f"; did you mean {near[0]}?" if near else ""
            raise FovealError(f"no run in {path}: it has no {CONFIG}{hint}")
        for folder in ("checkpoints", "pictures"):
            (path / folder).mkdir(exist_ok=True)
        return cls(path)

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
        """Append the completions of the first `limit` groups; the first `token_groups` with per-token values and pictures."""
        lines, row = [], 0
        for index, group in enumerate(groups[:limit]):
            detailed = index < token_groups
            pictures = self._save_pictures(group) if detailed else []
            for g, completion in enumerate(group.completions):
                length = len(completion.token_ids)
                tokens = {
                    name: [_short(value) for value in values[row, :length].tolist()]
                    for name, values in per_token.items()
                    if detailed and name != "sampled_logprobs"
                }
                lines.append(
                    {
                        "step": step,
                        "problem_id": group.problem.id,
                        "completion": g,
                        "question": group.problem.question,
                        "answer": group.problem.answer,
                        "text": completion.text,
                        "finish": completion.finish,
                        "policy_version": completion.policy_version,
                        "view": completion.view,
                        "reward": group.rewards[g],
                        "correct": group.correct[g],
                        "breakdown": {name: values[g] for name, values in group.breakdown.items()},
                        "pictures": pictures,
                    }
                    | ({"token_ids": list(completion.token_ids), "tokens": tokens} if detailed else {})
                )
                row += 1
        self._append(COMPLETIONS, lines)

    def rewind(self, step: int) -> None:
        """Drop lines of later steps than `step`, and a line that was cut off: they will be written again."""
        for name in (METRICS, COMPLETIONS):
            file = self.path / name
            if not file.is_file():
                continue
            kept = [line for line in read_lines(file) if line["step"] <= step]
            write_text(file, "".join(_line(line) for line in kept))

    def measured(self) -> dict[str, Any] | None:
        """Choices measured at the first start."""
        file = self.path / MEASURED
        return json.loads(file.read_text()) if file.is_file() else None

    def _append(self, name: str, lines: Sequence[Mapping[str, Any]]) -> None:
        try:
            with (self.path / name).open("a", encoding="utf-8") as file:
                file.write("".join(_line(line) for line in lines))
        except OSError as error:
            raise FovealError(
                f"{self.path / name} cannot be written: {error}; make room, then go on with "
                f"`foveal train --resume {self.path}`"
            ) from error

    def _save_pictures(self, group: Group) -> list[str]:
        names = []
        for index, image in enumerate(group.problem.images):
            safe = "".join(c if c.isalnum() or c in "-_" else "_" for c in group.problem.id)
            name = f"pictures/{safe}-{index}.png"
            save_picture(image, self.path / name)
            names.append(name)
        return names


def save_picture(image: Image, file: Path) -> None:
    """Write a PNG unless it is there."""
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        image.convert("RGB").save(file)


def read_lines(file: Path) -> list[dict[str, Any]]:
    """The whole lines of a JSONL file; a last line that was cut off is left out."""
    found = []
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return found


def write_json(file: Path, value: object) -> None:
    """Write JSON, whole or not at all."""
    write_text(file, json.dumps(value, indent=1, ensure_ascii=False))


def write_text(file: Path, text: str) -> None:
    """Write a file beside its place and move it there."""
    hidden = file.with_name(f".{file.name}.partial")
    with hidden.open("w", encoding="utf-8") as handle:
        handle.write(text)
        handle.flush()
        os.fsync(handle.fileno())
    hidden.replace(file)


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
        "git": _git(),
        "python": platform.python_version(),
        "packages": packages,
        "machine": {"system": platform.platform(), "processor": platform.machine(), "cores": os.cpu_count()},
    }


def _git() -> dict[str, Any] | None:
    def ask(*words: str) -> str:
        return subprocess.run(
            ("git", *words), capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    try:
        return {"commit": ask("rev-parse", "HEAD"), "changed": bool(ask("status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return None


def _line(value: Mapping[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False) + "\n"


def _short(value: float) -> float | None:
    return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
