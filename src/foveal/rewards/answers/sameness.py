"""Whether two readings say the same: values, units, members and ends of intervals."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeVar

from foveal.rewards.answers.expression import Node
from foveal.rewards.answers.senses import Equation, Group, Interval, Ratio, Reading, Region, Scalar
from foveal.rewards.answers.value import (
    POINTS,
    Number,
    as_fraction,
    close,
    constant,
    contains,
    evaluate,
    point,
    same_formula,
    variables,
)

T = TypeVar("T")

PLACES = 6
"""Decimal places, and significant digits, from which a decimal stands for the exact value that it rounds."""

MAX_RADIANS = 13
"""Two turns: a bare truth above it is no angle in radians."""


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What the problem says about its answer. `places`: decimal places to which a number counts;
    `percent`: the question asks for a percentage."""

    places: int | None = None
    percent: bool = False


NO_TERMS = Terms()


def same(gold: Reading, answer: Reading, terms: Terms = NO_TERMS) -> bool:
    """Whether the answer says what the truth says.

    Raises: TooHard, where a value cannot be computed here.
    """
    if gold.name and answer.name and not _same_name(gold.name, answer.name):
        return False
    if isinstance(gold, Scalar) and isinstance(answer, Scalar):
        return same_scalar(gold, answer, terms)
    if isinstance(gold, Ratio) or isinstance(answer, Ratio):
        return _same_ratio(gold, answer)
    if isinstance(gold, Equation) or isinstance(answer, Equation):
        return _same_equation(gold, answer)
    if isinstance(gold, Region) or isinstance(answer, Region):
        one, two = _as_region(gold), _as_region(answer)
        return one is not None and two is not None and _same_region(one, two)
    if isinstance(gold, Group) and isinstance(answer, Group):
        return _same_group(gold, answer, terms)
    one_value, group = (answer, gold) if isinstance(gold, Group) else (gold, answer)
    # `{3}` and `3` say the same, and so do `(3)` and `3`
    if isinstance(group, Group) and len(group.items) == 1:
        return same(group.items[0], one_value, terms)
    return False


def _same_name(one: str, two: str) -> bool:
    if one == two or (
        len(one) > 2 and len(two) > 2 and one.isalpha() and two.isalpha() and one.lower() == two.lower()
    ):
        return True
    if {one, two} == {"y", "f(x)"}:
        return True
    kinds = [re.sub(r"\(.*\)", "", name).strip("{}|").replace("angle", "") for name in (one, two)]
    words = [name.isalpha() and name.islower() and len(name) > 2 for name in kinds]
    if any(words):  # "area = 12" and "S = 12"
        return True
    return kinds[0] == kinds[1] or (len(kinds[0]) == 2 and kinds[0].isupper() and kinds[0] == kinds[1][::-1])


def same_scalar(gold: Scalar, answer: Scalar, terms: Terms = NO_TERMS) -> bool:
    """Whether two values with their units are the same.

    A unit may be left out by either side; where both have one, they must measure the same thing, and values
    are converted. A percentage is its hundredth, and also the number before the sign when the other side is
    larger than 1 or the question asks for a percentage.
    """
    if gold.percent or answer.percent:
        return _same_percent(gold, answer, terms)
    if gold.unit is None and answer.unit is None:
        return same_value(gold, answer, terms)
    if gold.unit is not None and answer.unit is not None:
        if not gold.unit.agrees(answer.unit):
            return False
        if gold.unit.factor == answer.unit.factor:
            return same_value(gold, answer, terms)
        if variables(gold.formula) or variables(answer.formula):
            return False
        left, right = (constant(side.formula) for side in (gold, answer))
        factor = answer.unit.factor / gold.unit.factor
        if terms.places is not None or not isinstance(left, Fraction) or not isinstance(right, Fraction):
            return _equal(left, _times(right, factor), terms)
        return left == right * factor
    if gold.bare_letter:
        return False
    if _is_radians(answer) and not variables(gold.formula) and abs(constant(gold.formula)) > MAX_RADIANS:
        return False  # 120 is in degrees
    measured, bare = (gold, answer) if gold.unit is not None else (answer, gold)
    angle = measured.unit is not None and measured.unit.dimension == {"angle": 1}
    if angle and measured.unit is not None and measured.unit.factor == 1 and contains(bare.formula, "pi"):
        radians = Node("deg", (measured.formula,))
        return same_formula(radians, bare.formula)
    return same_value(gold, answer, terms)


def _is_radians(side: Scalar) -> bool:
    return side.unit is not None and side.unit.dimension == {"angle": 1} and side.unit.factor != 1


def _times(value: Number, factor: Fraction) -> Number:
    if isinstance(value, Fraction):
        return value * factor
    return value * factor.numerator / factor.denominator


def _same_percent(gold: Scalar, answer: Scalar, terms: Terms) -> bool:
    if gold.percent and answer.percent:
        return same_value(gold, answer, terms)
    if terms.percent and answer.percent and abs(constant(gold.formula)) <= 1 and gold.unit is None:
        return same_value(gold, answer, terms)  # one reading: 0.5 says half a percent
    share, plain = (gold, answer) if gold.percent else (answer, gold)
    if plain.unit is not None or variables(plain.formula) or variables(share.formula):
        return False
    value, whole = constant(share.formula), constant(plain.formula)
    if _equal(_times(value, Fraction(1, 100)), whole, terms):
        return True
    return (terms.percent or abs(whole) > 1) and same_value(gold, answer, terms)


def same_value(gold: Scalar, answer: Scalar, terms: Terms = NO_TERMS) -> bool:
    """Whether two values are the same: exactly, to the places that the problem asks for, or where one is a
    decimal of six places and digits or more that rounds the other."""
    if variables(gold.formula) or variables(answer.formula):
        return same_formula(gold.formula, answer.formula)
    if same_formula(gold.formula, answer.formula):
        return True
    left, right = constant(gold.formula), constant(answer.formula)
    if terms.places is not None:
        return _equal(left, right, terms)
    return _rounds(answer.digits, right, left) or _rounds(gold.digits, left, right)


def _equal(left: Number, right: Number, terms: Terms) -> bool:
    if close(left, right):
        return True
    return terms.places is not None and _rounded(left, terms.places) == _rounded(right, terms.places)


def _rounded(value: Number, places: int) -> int:
    """The value in units of the last place, halves away from zero."""
    value = value if isinstance(value, Fraction) else as_fraction(value)
    scaled = abs(value) * 10**places + Fraction(1, 2)
    whole = int(scaled.numerator // scaled.denominator)
    return -whole if value < 0 else whole


def _rounds(digits: str, decimal: Number, exact: Number) -> bool:
    """Whether the decimal is the rounding of the value, and long enough to stand for it."""
    whole, dot, fraction = digits.lower().partition(".")
    if not dot or not fraction.isdigit() or not isinstance(decimal, Fraction):
        return False
    if len(fraction) < PLACES or len((whole + fraction).lstrip("0")) < PLACES:
        return False
    try:
        distance = abs(_minus(exact, decimal))
    except TypeError:
        return False
    return bool(distance * 2 * 10 ** len(fraction) <= 1)


def _minus(exact: Number, decimal: Fraction) -> Number:
    if isinstance(exact, Fraction):
        return exact - decimal
    return exact - type(exact)(decimal.numerator) / decimal.denominator


def _same_ratio(gold: Reading, answer: Reading) -> bool:
    one, two = _ratio_parts(gold), _ratio_parts(answer)
    if one is None or two is None or len(one) != len(two):
        return False
    return all(
        same_formula(Node("mul", (one[0], right)), Node("mul", (left, two[0])))
        for left, right in zip(one[1:], two[1:], strict=True)
    )


def _ratio_parts(side: Reading) -> tuple[Node, ...] | None:
    """The parts of a ratio; a number without a unit is a ratio to 1."""
    if isinstance(side, Ratio):
        return side.parts
    if isinstance(side, Scalar) and side.unit is None and not side.percent:
        return (side.formula, Node("num", value=Fraction(1)))
    return None


def _same_equation(gold: Reading, answer: Reading) -> bool:
    """Whether left minus right of the one is a multiple of the other's at every point."""
    one, two = _difference(gold), _difference(answer)
    if one is None or two is None:
        return False
    names = variables(one) | variables(two)
    if variables(one) != variables(two):
        return False
    factor = None
    for index in range(POINTS):
        at = point(names, index)
        left, right = evaluate(one, at), evaluate(two, at)
        if left == 0 or right == 0:
            return False
        ratio = left / right if isinstance(left, Fraction) == isinstance(right, Fraction) else None
        if ratio is None or (factor is not None and not close(ratio, factor)):
            return False
        factor = ratio
    return True


def _difference(side: Reading) -> Node | None:
    if isinstance(side, Equation):
        return Node("add", (side.left, Node("neg", (side.right,))))
    name = side.name.replace("f(x)", "y") if isinstance(side, Scalar) else ""
    if isinstance(side, Scalar) and side.unit is None and len(name) == 1:
        return Node("add", (Node("var", name=name), Node("neg", (side.formula,))))
    return None


def _as_region(side: Reading) -> Region | None:
    if isinstance(side, Region):
        return side
    if not isinstance(side, Group):
        return None
    items = side.items
    if side.kind in ("(", "[") and len(items) == 2:
        ends = [item.formula for item in items if isinstance(item, Scalar) and item.unit is None]
        if len(ends) == 2:
            closed = side.kind == "["
            return Region(
                pieces=(Interval(low=ends[0], high=ends[1], low_closed=closed, high_closed=closed),),
                name=side.name,
            )
    return None


def _same_region(gold: Region, answer: Region) -> bool:
    return len(gold.pieces) == len(answer.pieces) and _matched(gold.pieces, answer.pieces, _same_interval)


def _same_interval(one: Interval, two: Interval) -> bool:
    if (one.low_closed, one.high_closed) != (two.low_closed, two.high_closed):
        return False
    return all(
        (left is None and right is None)
        or (left is not None and right is not None and same_formula(left, right))
        for left, right in ((one.low, two.low), (one.high, two.high))
    )


def _same_group(gold: Group, answer: Group, terms: Terms) -> bool:
    if not gold.items or not answer.items:
        return gold == answer and gold.kind != "list"
    kinds = {gold.kind, answer.kind}
    if kinds == {"set", "("} or kinds == {"set", "["}:
        return False
    if kinds == {"(", "["} and len(gold.items) <= 2:
        return False
    one, two = gold.items, answer.items
    if "set" in kinds or (kinds == {"list"} and all(isinstance(item, Group) for item in (*one, *two))):
        one, two = _distinct(one, terms), _distinct(two, terms)
    if len(one) != len(two):
        return False
    distinct_names = all(item.name for item in one) and len({item.name for item in one}) == len(one)
    ordered = bool(kinds & {"(", "["}) or (distinct_names and not any(item.name for item in two))
    if ordered:
        return all(same(left, right, terms) for left, right in zip(one, two, strict=True))
    return _matched(one, two, lambda left, right: same(left, right, terms))


def _distinct(items: Sequence[Reading], terms: Terms) -> tuple[Reading, ...]:
    found: list[Reading] = []
    for item in items:
        if not any(same(item, other, terms) for other in found):
            found.append(item)
    return tuple(found)


def _matched(one: Sequence[T], two: Sequence[T], agree: Callable[[T, T], bool]) -> bool:
    """Whether each of the one has a partner of its own among the other."""
    left = list(two)
    for item in one:
        place = next((n for n, other in enumerate(left) if agree(item, other)), None)
        if place is None:
            return False
        del left[place]
    return not left
