"""Sentences about a comparison that say no more than its intervals carry."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from foveal.evaluation.compare import COLD_START
from foveal.evaluation.stats import Estimate
from foveal.report.read import listed, mapping

MIN_PROBLEMS = 30
"""Below this a percentile bootstrap is too narrow to found a sentence on."""

Strength = Literal["method", "runs", "none"]
"""What a difference speaks of: the method, only these trained runs, or nothing."""

NAMES = {
    COLD_START: "cold start",
    "grpo": "GRPO",
    "dapo": "DAPO",
    "papo": "PAPO",
    "cppo": "CPPO",
    "gspo": "GSPO",
    "cispo": "CISPO",
    "dr_grpo": "Dr.GRPO",
    "kl": "KL to the start",
    "no_shortcut": "no shortcut",
}


def title(method: str) -> str:
    """A method as a reader knows it."""
    return NAMES.get(method, method)


def estimate(value: object) -> Estimate | None:
    """An estimate of `comparisons.json`; None where there is none."""
    data = mapping(value)
    try:
        return Estimate.from_json(data) if data else None
    except (KeyError, TypeError, ValueError):
        return None


def strength(quantity: Mapping[str, Any], *, problems: int) -> Strength:
    """How far a difference carries, read off its intervals.

    "method": the t-interval over three or more seeds and the bootstrap over seeds and problems both exclude
    0.
    "runs": every seed's own paired interval excludes 0 on the same side; too few seeds to speak of the
    method.
    """
    if problems < MIN_PROBLEMS:
        return "none"
    seeds = [one for one in map(estimate, listed(quantity.get("per_seed"))) if one is not None]
    over, both = estimate(quantity.get("over_seeds")), estimate(quantity.get("two_level"))
    if (
        over is not None
        and over.count >= 3
        and over.excludes_zero
        and both is not None
        and both.excludes_zero
    ):
        return "method"
    same_side = all(one.low > 0 for one in seeds) or all(one.high < 0 for one in seeds)
    return "runs" if seeds and same_side else "none"


def headline(comparisons: Mapping[str, Any]) -> list[str]:
    """What happened to accuracy: against the cold start, then between methods."""
    pairs = [mapping(pair) for pair in listed(comparisons.get("pairs"))]
    gains = [pair for pair in pairs if pair.get("a") == COLD_START]
    rivals = [pair for pair in pairs if pair.get("a") != COLD_START]
    sentences = [_gains(gains)] if gains else []
    if rivals:
        sentences += _rivals(rivals)
    return sentences


def looks(comparisons: Mapping[str, Any]) -> list[str]:
    """What happened to errors of perception, and to accuracy with another problem's picture."""
    pairs = [mapping(pair) for pair in listed(comparisons.get("pairs"))]
    gains = [pair for pair in pairs if pair.get("a") == COLD_START]
    sentences = []
    for name, noun in (
        ("perception_error_fraction", "Perception errors, as a share of all completions,"),
        ("accuracy_other_picture", "Accuracy over another problem's picture"),
    ):
        moved = [(pair, mapping(pair.get(name))) for pair in gains if pair.get(name)]
        if not moved:
            continue
        told = [(_title(pair), strength(q, problems=_problems(pair)), _shift(q)) for pair, q in moved]
        shown = [
            f"{shift} points under {method}{_caveat(how)}" for method, how, shift in told if how != "none"
        ]
        silent = [method for method, how, _ in told if how == "none"]
        quiet = f"{noun.rstrip(',')}: no change is shown"
        sentence = f"{noun} changed by {_and(shown)}." if shown else quiet
        if silent and shown:
            sentence += f" No change is shown for {_and(silent)}."
        elif silent:
            sentence += f" for {_and(silent, word='or')}."
        sentences.append(sentence)
    return sentences


def points(quantity: Estimate, *, signed: bool = False) -> str:
    """A share as points of 100 with its interval, where it has one."""
    sign = "+" if signed else ""
    value = f"{100 * quantity.value:{sign}.1f}"
    if quantity.low == -float("inf"):
        return value
    return f"{value} [{100 * quantity.low:{sign}.1f}, {100 * quantity.high:{sign}.1f}]"


def _gains(gains: Sequence[Mapping[str, Any]]) -> str:
    told = []
    for pair in gains:
        quantity = mapping(pair.get("accuracy"))
        how = strength(quantity, problems=_problems(pair))
        value = _shift(quantity)
        told.append((f"{_title(pair)} {value}{_caveat(how)}", how, value))
    up = [text for text, how, value in told if how != "none" and not value.startswith("\N{MINUS SIGN}")]
    down = [text for text, how, value in told if how != "none" and value.startswith("\N{MINUS SIGN}")]
    open_ = [_title(pair) for pair, (_, how, _) in zip(gains, told, strict=True) if how == "none"]
    problems = max(_problems(pair) for pair in gains)
    parts = []
    if up:
        parts.append(
            f"more of {problems:,} held-out problems are right than before training: {_and(up)} points"
        )
    if down:
        parts.append(f"fewer are right: {_and(down)} points")
    if open_:
        parts.append(f"no change against the cold start is shown for {_and(open_, word='or')}")
    sentence = "; ".join(parts)
    return sentence[:1].upper() + sentence[1:] + "."


def _rivals(rivals: Sequence[Mapping[str, Any]]) -> list[str]:
    shown = []
    for pair in rivals:
        quantity = mapping(pair.get("accuracy"))
        how = strength(quantity, problems=_problems(pair))
        if how != "none":
            names = f"{_title(pair)} differs from {title(str(pair.get('a')))}"
            shown.append(f"{names} by {_shift(quantity)} points{_caveat(how)}")
    if not shown:
        return ["No difference between the methods is shown."]
    silent = len(rivals) - len(shown)
    rest = f" No difference is shown for the other {silent} of {len(rivals)} pairs." if silent else ""
    return [f"{_and(shown)}.{rest}"]


def _shift(quantity: Mapping[str, Any]) -> str:
    over = estimate(quantity.get("over_seeds"))
    if over is None:
        return "?"
    return f"{100 * over.value:+.1f}".replace("-", "\N{MINUS SIGN}")


def _caveat(how: Strength) -> str:
    return " (in each of these runs; too few seeds to speak of the method)" if how == "runs" else ""


def _title(pair: Mapping[str, Any]) -> str:
    return title(str(pair.get("b")))


def _problems(pair: Mapping[str, Any]) -> int:
    found = pair.get("problems")
    return found if isinstance(found, int) else 0


def _and(parts: Sequence[str], *, word: str = "and") -> str:
    if len(parts) < 2:
        return "".join(parts)
    return f"{', '.join(parts[:-1])} {word} {parts[-1]}"
