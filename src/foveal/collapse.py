"""Does a run still look like its own healthy past? The eyes and the memory of the collapse guard.

A term that is paid without bound can be earned without use: kl_prcp shoots up, the policy's entropies rise,
updates are clipped more often, the text falls apart, and the reward goes. Each sign is held against its own
running median and spread, so the units of a metric, its level and its slow drift play no part.

Source: arXiv:2507.06448v5 section 5.3 and appendices J and M name the signs; the statistics are ours.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Literal

from pydantic import Field, model_validator

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

Kind = Literal["looking", "policy", "text", "outcome"]
Action = Literal["warn", "lower", "rollback", "stop"]


@dataclass(frozen=True, kw_only=True)
class Sign:
    """A metric, or the sum of several, and the direction in which it goes when a run collapses."""

    name: str
    metrics: tuple[str, ...]
    rises: bool
    kind: Kind
    words: str
    floor: float = 0.0
    """Least spread of a share, which has a natural unit; 0 where the unit is open."""
    unit: str = ""
    """A metric that gives the natural unit of one whose level may be 0 or negative."""
    whole: bool = False
    """A share that is 1 when all is well: its level is what it lacks to 1."""
    alone: bool = True
    """Whether an outcome can be an alarm by itself: a policy that learns leaves its reference."""


SIGNS: tuple[Sign, ...] = (
    Sign(name="kl_prcp", metrics=("kl_prcp/mean",), rises=True, kind="looking", words="kl_prcp"),
    Sign(
        name="kl_prcp_variance",
        metrics=("kl_prcp/variance",),
        rises=True,
        kind="looking",
        words="the variance of kl_prcp",
    ),
    Sign(
        name="kl_prcp_tail",
        metrics=("kl_prcp/tail_fraction",),
        rises=True,
        kind="looking",
        words="the tail share of kl_prcp",
        floor=0.0025,
    ),
    Sign(
        name="removed_kl",
        metrics=("perception/removed_kl",),
        rises=True,
        kind="looking",
        words="the KL to the removed view",
    ),
    Sign(name="entropy", metrics=("policy/entropy",), rises=True, kind="policy", words="the entropy"),
    Sign(
        name="removed_entropy",
        metrics=("policy/entropy", "perception/entropy_shift"),
        rises=True,
        kind="policy",
        words="the entropy on the removed view",
    ),
    Sign(
        name="clip_high",
        metrics=("policy/clip_high_fraction",),
        rises=True,
        kind="policy",
        words="the share of tokens clipped from above",
        floor=0.00025,
    ),
    Sign(
        name="reward",
        metrics=("reward/mean",),
        rises=False,
        kind="outcome",
        words="the reward",
        unit="reward/std",
    ),
    Sign(
        name="format",
        metrics=("reward/format",),
        rises=False,
        kind="outcome",
        words="the format",
        floor=0.01,
        whole=True,
    ),
    Sign(
        name="relatedness",
        metrics=("completion/relatedness",),
        rises=False,
        kind="outcome",
        words="the share of the text that the grammar knows",
        floor=0.0003,
        whole=True,
    ),
    Sign(
        name="reference_logprob",
        metrics=("completion/reference_logprob",),
        rises=False,
        kind="outcome",
        words="the log-probability under the reference policy",
        alone=False,
    ),
    Sign(
        name="truncated",
        metrics=("completion/truncated_fraction",),
        rises=True,
        kind="text",
        words="the share of truncated completions",
        floor=0.01,
    ),
    Sign(
        name="length",
        metrics=("completion/length_mean",),
        rises=True,
        kind="text",
        words="the length",
    ),
)
"""What is watched. A run has those whose metrics it logs."""

BY_NAME: Mapping[str, Sign] = {sign.name: sign for sign in SIGNS}


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

    scale: float = 1.0
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

    def healthy_step(self, step: int) -> int:
        """The last step that no alarm, now or later, can count to a collapse; it never goes back."""
        return min([*self.since.values(), step + 1]) - RECENT

    def forget_recent(self) -> None:
        """The last steps are no part of the run any more."""
        self.recent.clear()
        self.since.clear()
        self.collapsed, self.told, self.calm = False, False, 0


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
    may_act = config.action != "warn" and memory.acts < config.max_acts
    alarm = collapse and step > memory.quiet_until and (may_act or not memory.told)
    if alarm:
        memory.told = True
        memory.alarms += 1
        memory.quiet_until = step + config.cooldown
    return alarm


def in_words(line: Mapping[str, Any]) -> str:
    """A guard's line of metrics.jsonl as a sentence; what a field lacks is left out."""
    now, usual = _table(line.get("now")), _table(line.get("usual"))
    seen = [
        f"{BY_NAME[name].words} is {now[name]:.3g} (usually {usual[name]:.3g})"
        for name in BY_NAME
        if name in now and name in usual
    ]
    done = {
        "lower": "the weight of the perception terms is now {scale:g} of the configured one",
        "rollback": "back to the weights of step {restored}; the weight of the perception terms is now "
        "{scale:g} of the configured one",
        "stop": "stopped with the weights of step {restored}",
    }.get(str(line.get("act")), "")
    scale = line.get("scale")
    told = done.format(restored=line.get("restored"), scale=scale if isinstance(scale, int | float) else 1.0)
    onset = f"healthy up to step {line.get('onset')}"
    return f"step {line.get('step')}: " + "; ".join(part for part in (", ".join(seen), onset, told) if part)


def _table(value: object) -> dict[str, float]:
    """The numbers of a table by name; none where it is no table."""
    items = value.items() if isinstance(value, Mapping) else ()
    return {str(name): float(number) for name, number in items if isinstance(number, int | float)}
