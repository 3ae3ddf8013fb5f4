r"""Intervals, unions of them and inequalities in one name: `[0, 1)`, `x > 3`, `1 \\le x < 2`, `\\R`."""

import re
from fractions import Fraction

from foveal.rewards.answers.expression import Node, NotReadable, parse
from foveal.rewards.answers.names import is_label, is_name
from foveal.rewards.answers.senses import Interval, Region
from foveal.rewards.answers.text import split
from foveal.rewards.answers.value import TooHard, evaluate, variables

_LESS = {
    "<": (False, False), "\\le": (False, True), "<=": (False, True), "=<": (False, True),
    ">": (True, False), "\\ge": (True, True), ">=": (True, True), "=>": (True, True),
}  # fmt: skip
"""Relation -> whether the left side is the greater one, and whether they may be equal."""

RELATION = re.compile(r"(<=|>=|=<|=>|<|>|\\le(?![A-Za-z])|\\ge(?![A-Za-z]))")
_INFINITE = re.compile(r"([+-]?) ?(?:\\infty|infinity|inf|oo)")


def read_region(text: str) -> Region | None:
    """Intervals, unions of them, and inequalities in one name."""
    name, found, rest = text.partition("\\in ")
    if found and "\\infty" not in name:
        name, text = name.strip(), rest.strip()
        if not is_label(name):
            return None
    else:
        name = ""
    pieces: list[Interval] = []
    for part in re.split(
        r"\\cup| or |(?<=[\])]) ?U ?(?=[\[(])|,? and (?=[A-Za-z] ?[<>\\])|, (?=[A-Za-z] ?[<>])", text
    ):
        got = _piece(part.strip())
        if got is None:
            return None
        label, interval = got
        if name and label and label != name:
            return None
        name = name or label
        pieces.extend(interval)
    return Region(pieces=tuple(pieces), name=name.replace(" ", ""))


def _piece(text: str) -> tuple[str, tuple[Interval, ...]] | None:
    if text in ("\\R", "\\emptyset"):
        whole = Interval(low=None, high=None, low_closed=False, high_closed=False)
        return "", ((whole,) if text == "\\R" else ())
    if RELATION.search(text):
        return _inequality(text)
    if text.startswith("\\{") and text.endswith("\\}"):
        points = [_end(part) for part in split(text[2:-2], ",")]
        if any(bad or end is None for bad, end in points):
            return None
        return "", tuple(Interval(low=end, high=end, low_closed=True, high_closed=True) for _, end in points)
    if len(text) < 5 or text[0] not in "([" or text[-1] not in ")]":
        return None
    parts = split(text[1:-1], ",")
    if len(parts) != 2:
        parts = split(text[1:-1], ";")
    if len(parts) != 2:
        return None
    interval = _between(parts[0], parts[1], low_closed=text[0] == "[", high_closed=text[-1] == "]")
    return None if interval is None else ("", (interval,))


def _end(text: str) -> tuple[bool, Node | None]:
    """Whether an end cannot be read, and its value; None is infinity, of either sign."""
    if _INFINITE.fullmatch(text):
        return False, None
    try:
        formula = parse(text)
    except NotReadable:
        return True, None
    return False, formula


def _between(low: str, high: str, *, low_closed: bool, high_closed: bool) -> Interval | None:
    """The interval between two ends as they are written; None where one is no end."""
    (bad_low, below), (bad_high, above) = _end(low), _end(high)
    if bad_low or bad_high or (below is None and low[0] != "-") or (above is None and high[0] == "-"):
        return None
    return Interval(
        low=below,
        high=above,
        low_closed=low_closed and below is not None,
        high_closed=high_closed and above is not None,
    )


def _inequality(text: str) -> tuple[str, tuple[Interval, ...]] | None:
    """`x > 3`, `3 < x`, `1 \\le x < 2`."""
    pieces = [piece.strip() for piece in RELATION.split(text)]
    values, signs = pieces[0::2], [_LESS[sign] for sign in pieces[1::2]]
    if len(values) == 2 and is_name(values[1]):
        values, signs = [values[1], values[0]], [(not signs[0][0], signs[0][1])]
    if len(values) == 2 and is_name(values[0]):
        bad, end = _end(values[1])
        greater, closed = signs[0]
        if bad or end is None or variables(end):
            return None
        if greater:
            return values[0], (Interval(low=end, high=None, low_closed=closed, high_closed=False),)
        return values[0], (Interval(low=None, high=end, low_closed=False, high_closed=closed),)
    if len(values) == 2:
        return _linear(values[0], values[1], signs[0])
    if len(values) != 3 or signs[0][0] != signs[1][0] or not is_name(values[1]):
        return None
    low, high, low_closed, high_closed = values[0], values[2], signs[0][1], signs[1][1]
    if signs[0][0]:
        low, high, low_closed, high_closed = high, low, high_closed, low_closed
    interval = _between(low, high, low_closed=low_closed, high_closed=high_closed)
    return None if interval is None else (values[1], (interval,))


def _linear(left: str, right: str, sign: tuple[bool, bool]) -> tuple[str, tuple[Interval, ...]] | None:
    """The solution of an inequality that is linear in its one letter: `2x - 1 > 3`."""
    try:
        difference = Node("add", (parse(left), Node("neg", (parse(right),))))
        (name,) = variables(difference)
        at = [evaluate(difference, {name: Fraction(n)}) for n in (0, 1, 2)]
    except (NotReadable, TooHard, ValueError):
        return None
    zero, one, two = at
    slope = one - zero
    if not all(isinstance(value, Fraction) for value in at) or two - one != slope or not slope:
        return None
    end = Node("num", value=-zero / slope)
    greater, closed = sign
    if slope < 0:
        greater = not greater
    if greater:
        return name, (Interval(low=end, high=None, low_closed=closed, high_closed=False),)
    return name, (Interval(low=None, high=end, low_closed=False, high_closed=closed),)
