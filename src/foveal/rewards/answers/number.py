"""Numbers within a tolerance: measured in the unit of the truth."""

from dataclasses import dataclass
from fractions import Fraction

from foveal.rewards.answers.reading import readings
from foveal.rewards.answers.sameness import same_scalar
from foveal.rewards.answers.senses import Scalar
from foveal.rewards.answers.span import is_span
from foveal.rewards.answers.value import Number, TooHard, as_real, constant, variables


@dataclass(frozen=True, kw_only=True)
class Within:
    """The largest difference that still counts: the larger of a number, and a share of the truth."""

    absolute: Fraction
    relative: Fraction


def numbers(text: str) -> tuple[Scalar, ...]:
    """Every sense of a prepared text as one number."""
    return tuple(
        found for found in readings(text) if isinstance(found, Scalar) and not variables(found.formula)
    )


def within(gold: str, answer: str, bounds: Within) -> bool | None:
    """Whether the answer is a number as near to the truth as the bounds allow; None if the truth is none."""
    golds = () if is_span(gold) else numbers(gold)
    if not golds:
        return None
    return any(_near(one, two, bounds) for one in golds for two in numbers(answer))


def _near(gold: Scalar, answer: Scalar, bounds: Within) -> bool:
    try:
        if same_scalar(gold, answer):
            return True
        return any(_close(one, two, bounds) for one, two in _pairs(gold, answer))
    except TooHard:
        return False


def _pairs(gold: Scalar, answer: Scalar) -> list[tuple[Number, Number]]:
    """The values that may be compared: with a percent sign on one side both readings of it."""
    one, two = constant(gold.formula), constant(answer.formula)
    if gold.percent and answer.percent:
        return [(one, two)]
    if gold.percent or answer.percent:
        if (answer if gold.percent else gold).unit is not None:
            return []
        share = (one / 100, two) if gold.percent else (one, two / 100)
        return [share, (one, two)] if abs(two if gold.percent else one) > 1 else [share]
    if gold.unit is not None and answer.unit is not None:
        if not gold.unit.agrees(answer.unit):
            return []
        factor = answer.unit.factor / gold.unit.factor
        return [
            (one, two * factor if isinstance(two, Fraction) else two * factor.numerator / factor.denominator)
        ]
    return [] if gold.bare_letter and answer.unit is None else [(one, two)]


def _close(gold: Number, answer: Number, bounds: Within) -> bool:
    if isinstance(gold, Fraction) and isinstance(answer, Fraction):
        return abs(answer - gold) <= max(bounds.absolute, bounds.relative * abs(gold))
    gold, answer = as_real(gold), as_real(answer)
    return bool(abs(answer - gold) <= max(as_real(bounds.absolute), as_real(bounds.relative) * abs(gold)))


__all__ = ["Within", "numbers", "within"]
