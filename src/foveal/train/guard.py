"""What the collapse guard does about an alarm: warn, lower, go back, stop. `foveal.collapse` does the seeing.

Going back restores weights and optimizer from the last healthy checkpoint. Steps and the place in the data go
on: each line of `metrics.jsonl` stays, a step's number is never used twice, and what follows is drawn from
other problems with other noise, so the run does not walk into the same collapse. Nothing but the line is
written; a run that is killed at any moment of it resumes from its newest checkpoint, sees the same alarm and
does the same again.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from foveal.collapse import RECENT, Memory, Verdict
from foveal.config import RunConfig
from foveal.policy.checkpoint import load_checkpoint, step_of, whole_checkpoints
from foveal.policy.model import Policy
from foveal.signs import in_words
from foveal.spec import FovealError

RETURNS = ("rollback", "stop")
"""Actions that need a healthy checkpoint, that of the start included."""


class Collapsed(FovealError):
    """The guard stopped the run; the healthy weights were saved first."""


def respond(
    verdict: Verdict,
    memory: Memory,
    *,
    step: int,
    config: RunConfig,
    checkpoints: Path,
    policy: Policy,
    optimizer: torch.optim.Optimizer,
) -> dict[str, Any] | None:
    """Act as configured and give the guard's line; None without an alarm.

    A guard that has no act left, or no healthy checkpoint to go back to, warns.
    Raises: FovealError, when the healthy checkpoint cannot be read.
    """
    if not verdict.alarm:
        return None
    guard, act, restored = config.guard, "warn", None
    if guard.action != "warn" and memory.acts < guard.max_acts:
        act = guard.action
    if act in RETURNS:
        target = healthy_checkpoint(checkpoints, memory, before=verdict.onset, every=config.checkpoint.every)
        if target is None:
            act = "warn"
        else:
            load_checkpoint(target, policy=policy, optimizer=optimizer)
            restored = step_of(target)
            memory.give_up(restored, step)
    if act != "warn":
        memory.acts += 1
        memory.scale *= guard.factor
    return {
        "kind": "guard",
        "step": step,
        "signs": list(verdict.signs),
        "z": {name: round(verdict.z[name], 3) for name in verdict.signs},
        "now": {name: verdict.now[name] for name in verdict.signs},
        "usual": {name: verdict.usual[name] for name in verdict.signs},
        "onset": verdict.onset,
        "act": act,
        "restored": restored,
        "scale": memory.scale,
    }


def healthy_checkpoint(folder: Path, memory: Memory, *, before: int, every: int) -> Path | None:
    """The newest checkpoint of step `before` or earlier that an alarm may go back to."""
    fit = [path for path in _fit(folder, memory, every=every) if step_of(path) <= before]
    return max(fit, key=step_of, default=None)


def spared(folder: Path, memory: Memory, *, step: int, config: RunConfig) -> list[Path]:
    """The checkpoints that a later alarm may go back to; none for a guard that never does.

    They are the healthy one as things stand, the one that would be if every sign went now, and those since:
    two or three where checkpoints are more than five steps apart. A save between two regular ones, at a stop,
    spares all of them, so that a resumed run finds what an uninterrupted one has.
    """
    if config.guard.action not in RETURNS or memory.acts >= config.guard.max_acts:
        return []
    every = config.checkpoint.every
    fit = _fit(folder, memory, every=every)
    if step % every:
        return fit
    now = healthy_checkpoint(folder, memory, before=memory.healthy_step(step), every=every)
    calm = healthy_checkpoint(folder, memory, before=step + 1 - RECENT, every=every)
    return [path for path in fit if path == now or calm is None or step_of(path) >= step_of(calm)]


def _fit(folder: Path, memory: Memory, *, every: int) -> list[Path]:
    """Whole checkpoints that no collapse has spoilt, of every so many steps: those alone are the same in a
    run that was stopped and resumed."""
    return [
        path
        for path in whole_checkpoints(folder)
        if (step := step_of(path)) % every == 0
        and not any(first < step < last for first, last in memory.spoilt)
    ]


def collapsed(line: Mapping[str, Any], folder: Path) -> Collapsed:
    """The error of a run that the guard stopped, with the way on."""
    return Collapsed(
        f"the collapse guard stopped the run: {in_words(line)}; everything is saved; go on from there with "
        f"the weight of the perception terms times {line['scale']:g}: foveal train --resume {folder}; or "
        f"start anew with a lower coefficient, or with entropy terms"
    )
