"""One run as a value: what to train, and where its files go."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Self


@dataclass(frozen=True, kw_only=True)
class Job:
    """One model to train (or only to evaluate, with `steps` 0) and everything that is measured on it."""

    worker: ClassVar[str]
    """Module that does such a job: `python -m WORKER JOB`."""

    name: str
    method: str
    seed: int | None
    config: str
    """Shipped config or TOML file."""
    overrides: tuple[str, ...]
    steps: int
    problems: int
    folder: str
    """Results folder: run folders, evaluations and logs go below it."""

    @property
    def run_folder(self) -> Path:
        """Where its training run lives."""
        return Path(self.folder) / "runs" / self.name

    @property
    def done_file(self) -> Path:
        """Exists once everything of this job is measured."""
        return Path(self.folder) / "jobs" / f"{self.name}.done.json"

    @property
    def log(self) -> Path:
        """What its process said."""
        return Path(self.folder) / "jobs" / f"{self.name}.log"

    def to_json(self) -> str:
        """For the worker's command line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Back from `to_json`."""
        found: dict[str, Any] = json.loads(text)
        values: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in found.items()}
        return cls(**values)
