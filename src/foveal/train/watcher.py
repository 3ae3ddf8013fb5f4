"""Who is told what a run does."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from foveal.config import RunConfig


class Watcher(Protocol):
    """Told what a run does; the command line draws it."""

    def start(self, config: RunConfig, step: int, folder: Path) -> None:
        """The run starts after `step` finished steps."""
        ...

    def message(self, text: str) -> None:
        """Something a person wants to know."""
        ...

    def step(self, metrics: Mapping[str, Any]) -> None:
        """A line of metrics, of a step or a validation."""
        ...


class Silent:
    """A watcher that says nothing."""

    def start(self, config: RunConfig, step: int, folder: Path) -> None:
        """Nothing."""

    def message(self, text: str) -> None:
        """Nothing."""

    def step(self, metrics: Mapping[str, Any]) -> None:
        """Nothing."""
