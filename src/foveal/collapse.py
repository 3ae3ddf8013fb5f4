"""Does a run still look like its own healthy past? The eyes and the memory of the collapse guard.

A term that is paid without bound can be earned without use: kl_prcp shoots up, the policy's entropies rise,
updates are clipped more often, the text falls apart, and the reward goes. Each sign is held against its own
running median and spread, so the units of a metric, its level and its slow drift play no part. What drifts
slowly, or goes before there is a past, shows on the validation problems: their accuracy is held against its
best so far.

Source: arXiv:2507.06448v5 section 5.3 and appendices J and M name the signs (`foveal.signs`); the statistics
are ours.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, median
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from foveal.signs import BY_NAME, SIGNS, VALIDATION, Sign
from foveal.spec import Config

RECENT = 5
"""Steps whose median is "now": a sign needs three deviating steps of five, so one outlier is never one."""

MAD_TO_SD = 1.4826
"""Factor from the median absolute deviation to the standard deviation of normal noise."""

SPREAD_FLOOR = 0.05
"""A spread is at least this share of the level: a metric that hardly ever moved would otherwise make a sign
of nothing. So a sign that fires has changed by at least 15 % of its level at the default threshold."""

SUSPECT = 2 / 3
"""Share of the threshold from which on a step may turn out to be a part of a collapse."""

VALIDATIONS = 3
"""Validations in a row whose mean is an accuracy: one alone is too noisy to be the best or the last."""

Action = Literal["warn", "lower", "rollback", "stop"]


class GuardConfig(Config):
    """When the collapse guard speaks, and what it does then."""

    action: Action = "warn"
    """On an alarm: "warn"; "lower" the weight of the perception terms; "rollback" to the last healthy
    checkpoint and go on with a lowered weight; "stop" there."""
    threshold: float = Field(3.0, gt=0)
    """Robust standard deviations at which a sign fires; an alarm needs two kinds of sign. Lower is
    earlier, and oftener wrong: docs/guide.md has the numbers."""
    alone: float = Field(5.0, gt=0)
    """The same for a reward, format or relatedness that falls with no other sign."""
    validation_drop: float = Field(0.04, gt=0, le=1)
    """Accuracy lost on validation, against its best so far (means of three in a row), that is an alarm by
    itself; where the problems are so few that two standard errors are more, those."""
    warmup: int = Field(15, ge=5)
    """Healthy steps that are only learnt from."""
    window: int = Field(40, ge=5)
    """Healthy steps that median and spread are taken over."""
    factor: float = Field(0.5, gt=0, lt=1)
    """What an act multiplies the weight of the perception terms by."""
    cooldown: int = Field(20, ge=1)
    """Steps after an alarm in which there is no other."""
    max_acts: int = Field(3, ge=1)
    """Acts of a run; later alarms only warn."""

    @model_validator(mode="after")
    def _learns_enough(self) -> "GuardConfig":
        if self.warmup > self.window:
            raise ValueError(
                f"warmup {self.warmup} is longer than window {self.window}, so that no sign would ever be "
                "read; raise [guard] window, or lower warmup"
            )
        return self


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What one step's metrics say. `level`: 0 quiet, 1 at least one sign, 2 collapse."""

    level: int
    signs: tuple[str, ...]
    """Names of the signs that fire."""
    z: Mapping[str, float]
    """Robust standard deviations of every sign with a history, in the direction of collapse."""
    now: Mapping[str, float]
    usual: Mapping[str, float]
    alarm: bool = False
    """A collapse that was not told of yet."""
    onset: int = 0
    """The last step that still looked healthy, when there is an alarm."""


@dataclass
class Memory:
    """What the guard remembers, as JSON values: it is a part of a checkpoint's state."""

    scale: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Factor on the weight of the perception terms in force."""
    acts: int = 0
    alarms: int = 0
    quiet_until: int = 0
    """No alarm up to this step."""
    collapsed: bool = False
    """The signs of a collapse have not gone yet: nothing is learnt from such steps."""
    told: bool = False
    """There was an alarm about it."""
    calm: int = 0
    """Steps since those signs were last seen."""
    usual: dict[str, list[float]] = field(default_factory=dict)
    """Values of healthy steps by sign, the oldest first."""
    recent: dict[str, list[float]] = field(default_factory=dict)
    since: dict[str, int] = field(default_factory=dict)
    """For a sign at `SUSPECT` of the threshold, the step from which on it has been."""
    spoilt: list[tuple[int, int]] = field(default_factory=list)
    """Stretches of steps (both ends excluded) that were given up: their checkpoints are not healthy."""
    validated: list[tuple[int, float]] = field(default_factory=list)
    """Step and accuracy of the last three validations."""
    best: float = 0.0
    """The highest mean of three validations in a row."""
    fine: int | None = None
    """Step of the last validation that had lost less than `SUSPECT` of what is an alarm; None before the
    first."""
    losing: bool = False
    """The accuracy lost on validation was told of and has not come back."""

    def healthy_step(self, step: int) -> int:
        """The last step that no alarm, now or later, can count to a collapse; it never goes back, but for
        steps that are given up."""
        signs = min([*self.since.values(), step + 1]) - RECENT
        return signs if self.fine is None else min(signs, self.fine)

    def give_up(self, restored: int, step: int) -> None:
        """The steps from `restored` to `step` are no part of the run any more."""
        self.spoilt.append((restored, step))
        self.recent.clear()
        self.since.clear()
        self.collapsed, self.told, self.calm, self.losing = False, False, 0, False
        self.validated = [(at, accuracy) for at, accuracy in self.validated if at <= restored]
        self.fine = None if self.fine is None else min(self.fine, restored)


def observe(memory: Memory, step: int, metrics: Mapping[str, Any], config: GuardConfig) -> Verdict:
    """Take a step's metrics into `memory` and say what they show; what is missing or NaN is left out.

    z = (median of the last 5 values - median of the healthy window) / spread, in the direction of collapse;
    spread = max(1.4826 MAD of the window, floors). A straight drift has z = 1.5 however steep it is, since it
    widens the window's spread too; growth by 5 % a step has z = 3, by 10 % a step 6.9.

    An alarm needs signs of two kinds, one of them "looking" (kl_prcp) or "outcome" (reward, format,
    relatedness, the reference's log-probability), each at `threshold`; or one of the first three outcomes at
    `alone`.
    """
    z: dict[str, float] = {}
    now: dict[str, float] = {}
    usual: dict[str, float] = {}
    for sign in SIGNS:
        value = _value(metrics, sign.metrics)
        if value is None:
            continue
        recent = memory.recent.setdefault(sign.name, [])
        window = memory.usual.setdefault(sign.name, [])
        recent.append(value)
        if len(recent) > RECENT:
            oldest = recent.pop(0)
            if not memory.collapsed:
                window.append(oldest)
                del window[: -config.window]
        if len(recent) == RECENT and len(window) >= config.warmup:
            unit = _value(metrics, (sign.unit,)) if sign.unit else None
            now[sign.name], usual[sign.name] = median(recent), median(window)
            rise = now[sign.name] - usual[sign.name]
            z[sign.name] = (rise if sign.rises else -rise) / _spread(sign, window, unit or 0.0)
    fired = tuple(name for name, value in z.items() if value >= config.threshold)
    for name, value in z.items():
        if value < SUSPECT * config.threshold:
            memory.since.pop(name, None)
        else:
            memory.since.setdefault(name, step)
    collapse = _is_collapse(fired, z, config)
    alarm = _note(memory, step, collapse, config)
    return Verdict(
        level=2 if collapse else min(1, len(fired)),
        signs=fired,
        z=z,
        now=now,
        usual=usual,
        alarm=alarm,
        onset=min(memory.since[name] for name in fired) - RECENT if alarm else 0,
    )


def observe_validation(
    memory: Memory, step: int, accuracy: float, *, answers: int, config: GuardConfig
) -> Verdict:
    """Take the accuracy of a validation with so many `answers` into `memory` and say what it shows.

    lost = best - max(mean of the last three, the last), where best is the highest mean of three so far. An
    alarm from max(validation_drop, 2 sqrt(p (1 - p) / (3 answers))) on, p the mean of the last three. The
    last alone can only excuse: a run that has come back is not told of. Validations are on the same
    problems, so that most of the noise of their choice is in both terms.
    """
    memory.validated = [*memory.validated, (step, accuracy)][-VALIDATIONS:]
    mean = fmean(value for _, value in memory.validated)
    if len(memory.validated) == VALIDATIONS:
        memory.best = max(memory.best, mean)
    error = math.sqrt(mean * (1 - mean) / (VALIDATIONS * answers))
    limit = max(config.validation_drop, 2 * error)
    lost = memory.best - max(mean, accuracy) if len(memory.validated) == VALIDATIONS else 0.0
    if lost < SUSPECT * limit:
        memory.fine, memory.losing = step, False
    alarm = lost >= limit and _may_tell(memory, step, told=memory.losing, config=config)
    memory.losing |= alarm
    name = VALIDATION.name
    return Verdict(
        level=2 if lost >= limit else 0,
        signs=(name,) if lost >= limit else (),
        z={name: lost / max(error, math.ulp(1.0))},
        now={name: mean},
        usual={name: memory.best},
        alarm=alarm,
        onset=memory.healthy_step(step) if alarm else 0,
    )


def _value(metrics: Mapping[str, Any], names: Sequence[str]) -> float | None:
    """The sum of the named metrics; None unless all are there and finite."""
    values = [metrics.get(name) for name in names]
    numbers = [float(v) for v in values if isinstance(v, int | float) and math.isfinite(v)]
    return sum(numbers) if len(numbers) == len(names) else None


def _spread(sign: Sign, window: Sequence[float], unit: float) -> float:
    """Robust standard deviation of a healthy window, never 0."""
    middle = median(window)
    deviation = MAD_TO_SD * median(abs(value - middle) for value in window)
    level = unit if sign.unit else abs(1 - middle if sign.whole else middle)
    return max(deviation, SPREAD_FLOOR * level, sign.floor, math.ulp(1.0))


def _is_collapse(fired: Sequence[str], z: Mapping[str, float], config: GuardConfig) -> bool:
    kinds = {BY_NAME[name].kind for name in fired}
    outcomes = [name for name in fired if BY_NAME[name].kind == "outcome" and BY_NAME[name].alone]
    alone = any(z[name] >= config.alone for name in outcomes)
    return alone or (len(kinds) > 1 and bool(kinds & {"looking", "outcome"}))


def _note(memory: Memory, step: int, collapse: bool, config: GuardConfig) -> bool:
    """Open or close an episode of collapse; whether there is something to tell.

    An episode ends after as many calm steps as a sign needs to change. While it lasts, only a guard that acts
    speaks again, once a cool-down, since what it did was not enough.
    """
    memory.calm = 0 if collapse else memory.calm + 1
    if collapse:
        memory.collapsed = True
    elif memory.calm >= RECENT:
        memory.collapsed = memory.told = False
    alarm = collapse and _may_tell(memory, step, told=memory.told, config=config)
    memory.told |= alarm
    return alarm


def _may_tell(memory: Memory, step: int, *, told: bool, config: GuardConfig) -> bool:
    """Whether there may be an alarm now; it is counted, and begins a cool-down."""
    may_act = config.action != "warn" and memory.acts < config.max_acts
    if step <= memory.quiet_until or (told and not may_act):
        return False
    memory.alarms += 1
    memory.quiet_until = step + config.cooldown
    return True
