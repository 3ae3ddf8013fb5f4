"""What a run is at, beside its weights and its optimizer."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from foveal.collapse import Memory
from foveal.config import RunConfig
from foveal.policy.checkpoint import STATE_FILE, damaged, step_of
from foveal.text import shortened

Count = Annotated[int, Field(strict=True, ge=0)]


@dataclass
class State:
    """What a checkpoint holds beside weights and optimizer."""

    step: Count = 0
    """Finished steps."""
    cursor: Count = 0
    """Problems taken from the data so far."""
    skipped: Count = 0
    """Updates left out because their gradient was not finite."""
    idle: Count = 0
    """The last so many steps made no update at all: each was left out."""
    best: dict[str, int | float] = field(default_factory=dict)
    """Step and accuracy of the best validation; empty before there was one."""
    distrusted: bool = False
    """What the sampler recorded was once further off than allowed, and is not used any more."""
    guard: Memory = field(default_factory=Memory)
    """What the collapse guard has seen and done."""

    def summary(self, config: RunConfig, *, model: str) -> dict[str, Any]:
        """What is written at the end of a run; `model` is its folder, seen from the run's."""
        return {
            "schema_version": 1,
            "steps": self.step,
            "objective": config.objective.type,
            "seed": config.seed,
            "skipped_count": self.skipped,
            "best": self.best or None,
            "model": model,
        }

    @classmethod
    def of(cls, saved: Mapping[str, Any], *, checkpoint: Path) -> "State":
        """The state that a checkpoint holds.

        Raises: FovealError, when it is not one, or that of another step.
        """
        try:
            state = TypeAdapter(cls).validate_python(dict(saved))
        except ValidationError as error:
            first = error.errors()[0]
            place, value = ".".join(map(str, first["loc"])), shortened(repr(first["input"]), 60)
            reason = f"{place} = {value}: {first['msg']}"
            raise damaged(checkpoint, checkpoint / STATE_FILE, ValueError(reason)) from error
        if state.best and state.best.keys() != {"step", "accuracy"}:
            reason = f"best = {state.best!r}: expected a step and an accuracy"
            raise damaged(checkpoint, checkpoint / STATE_FILE, ValueError(reason))
        if state.step != step_of(checkpoint):
            reason = f"it holds step {state.step}"
            raise damaged(checkpoint, checkpoint / STATE_FILE, ValueError(reason))
        return state
