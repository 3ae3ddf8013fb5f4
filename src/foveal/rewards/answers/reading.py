r"""What an answer says: a number with its unit, an equation, a list, a tuple, a set or an interval.

`readings` gives every sense that a text may have (`1,234` is a number or two of them); two answers are the
same when one sense of each agrees (`foveal.rewards.answers.sameness`).
"""

import re
from dataclasses import replace

from foveal.rewards.answers.expression import Node, NotReadable, parse
from foveal.rewards.answers.names import is_label, is_name
from foveal.rewards.answers.region import RELATION, read_region
from foveal.rewards.answers.scalar import read_compound, read_scalar
from foveal.rewards.answers.senses import Equation, Group, Kind, Ratio, Reading, Region, Scalar
from foveal.rewards.answers.text import enclosed, outside, split
from foveal.rewards.answers.value import TooHard, same_formula, variables
from foveal.rewards.answers.words import with_digits

MAX_PARTS = 40
MAX_NESTED = 5

_NO_LIST = Group(kind="list", items=())
"""Stands for a list of which a member cannot be read."""

_SHORT = re.compile(r"([+-]?[$€£¥]?[\d.]{1,12})([kKMB])")
_SHORT_WORDS = {"k": "thousand", "K": "thousand", "M": "million", "B": "billion"}
_TO = re.compile(r"\d+(?: to \d+)+")
_BRACKETS: dict[str, Kind] = {"()": "(", "[]": "[", "{}": "list"}
_COMPACT = re.compile(r"[+-]?[$€£¥]?\d{1,3}(?:,\d{3})+(?:\.\d+)?(?![\d,])")
_SPACED = re.compile(r"([+-]?\d{1,3}(?: \d{3})+(?:\.\d+)?)(?! ?[\d/])")
_DOTTED = re.compile(r"\d{1,3}(?:\.\d{3}){2,}(?:,\d+)?(?![\d.,])")
_COMMA_DECIMAL = re.compile(
    r"[+-]?(?:\d{1,6},(?:\d{1,2}|\d{4,10})|0,\d{1,10}|\d{1,3}(?:\.\d{3})+,\d{1,2})(?!\d)"
)
_TWO_NUMBERS = re.compile(r"[+-]?[1-9]\d{0,5},(?:\d{1,2}|\d{4,6})")
_DERIVATIVE = re.compile(
    r"\\frac ?\{ ?(?:d|\\partial)(?:\^\{? ?\d ?\}?)? ?[a-zA-Z]? ?\} ?\{ ?(?:d|\\partial) ?[a-z]"
    r"|(?<![a-z])d[a-z]/d[a-z](?![a-z])"
)
_AND = re.compile(r" ?(?:(?:,|;) ?)?(?<![A-Za-z])(?:and|or)(?![A-Za-z]) ?| & ")
_APPROXIMATELY = re.compile(
    r"(?:\\approx|~|about|approximately|approx\.?|around|roughly|nearly|=|\\sim) ?", re.IGNORECASE
)
_POINT = re.compile(r"[A-Z]'? ?(?=\()")


def readings(text: str, *, gold: bool = False) -> tuple[Reading, ...]:
    """Every sense of a cleaned answer; empty where this grammar reads none.

    A truth `2,3` is a list and never 2.3, which only an answer may spell so.
    """
    if _DERIVATIVE.search(text):  # dy/dx is no quotient
        return ()
    found: list[Reading] = []
    plain = gold and _TWO_NUMBERS.fullmatch(text) is not None
    for form in [text] if plain else _forms(text) if "\\begin" not in text else ():
        reading = _read(form, 0)
        if reading is None:
            continue
        found.append(reading)
        if isinstance(reading, Scalar) and reading.unit is not None and not reading.percent:
            letters = _letters(form)  # `5 m` may be 5 times m
            found.extend([letters] if letters is not None else [])
    return tuple(reading for n, reading in enumerate(found) if reading not in found[:n])


def _letters(text: str) -> Scalar | None:
    """The text as a formula, with its units taken for variables."""
    try:
        node = parse(text.rpartition("=")[2])
    except NotReadable:
        return None
    return Scalar(formula=node) if variables(node) else None


def _forms(text: str) -> list[str]:
    """The text with its commas and spaces read as thousands, as decimal point, or as they stand."""
    text = with_digits(text)
    forms = []
    short = _SHORT.fullmatch(text)
    if short is not None:
        forms.append(f"{short[1]} {_SHORT_WORDS[short[2]]}")
    if "," in text:
        whole = _COMPACT.match(text)
        if whole is not None and "," not in text[whole.end() :]:
            forms.append(whole[0].replace(",", "") + text[whole.end() :])
        decimal = _COMMA_DECIMAL.match(text)
        if decimal is not None and "," not in text[decimal.end() :]:
            forms.append(decimal[0].replace(".", "").replace(",", ".") + text[decimal.end() :])
    grouped = _SPACED.match(text)
    if grouped is not None:
        forms.append(grouped[0].replace(" ", "") + text[grouped.end() :])
    dotted = _DOTTED.match(text)
    if dotted is not None:
        forms.append(dotted[0].replace(".", "").replace(",", ".") + text[dotted.end() :])
    return forms or [text] if grouped or dotted else [*forms, text]


def _read(text: str, depth: int) -> Reading | None:
    text = text.strip()
    lead = _APPROXIMATELY.match(text)
    if lead is not None and len(text) > lead.end():
        text = text[lead.end() :].strip()
    if not text or depth > MAX_NESTED:
        return None
    if "\\approx" in text:
        first, _, rest = text.partition("\\approx")
        text = first.strip() if "=" in first or not is_name(first.strip()) else f"{first}={rest}"
    if RELATION.search(text) or "\\in" in text or "\\cup" in text or "\\R" in text or "\\emptyset" in text:
        return read_region(text)
    compound = read_compound(text)
    if compound is not None:
        return compound
    listed = _list(text, depth)
    if listed is not None:
        return None if listed is _NO_LIST else listed
    if outside(text, "="):
        return _equation(text, depth)
    if "\\pm" in text:
        return _plus_minus(text, depth)
    point = _POINT.match(text)
    if point is not None and "," in text and enclosed(text[point.end() :]):
        return _named(point[0], text[point.end() :], depth)
    if text.startswith("\\{") and text.endswith("\\}"):
        return _group(text[2:-2], "set", depth)
    if enclosed(text) and (outside(text[1:-1], ",") or outside(text[1:-1], ";") or text[0] == "{"):
        return _bracketed(text, depth)
    if outside(text, ":") or _TO.fullmatch(text):
        return _ratio(text.replace(" to ", ":"))
    return read_scalar(text)


def _list(text: str, depth: int) -> Reading | None:
    """Parts joined by commas, semicolons, "and" or "or"; None where there is one part."""
    parts = _parts(_joined(text)) if _separated(text) else [text]
    if len(parts) == 1 or len(parts) > MAX_PARTS:
        return None
    parts = [part for part in parts if part]
    named = [part for part in parts if "=" in part]
    # `a = 4, -8, -10`: one name for all
    if len(named) == 1 and parts and parts[0] is named[0] and is_label(named[0].split("=")[0]):
        parts = [parts[0].rpartition("=")[2], *parts[1:]]
    items: list[Reading] = []
    for part in parts:
        item = _read(part, depth + 1)
        if item is None:
            return _NO_LIST
        items.extend(item.items if isinstance(item, Group) and item.kind == "list" else (item,))
    if all(isinstance(item, Region) for item in items):
        return None
    return _shared_unit(Group(kind="list", items=tuple(items)))


def _shared_unit(group: Group) -> Group:
    """`3 and 4 cm`: the unit of the last belongs to all."""
    last = group.items[-1] if group.items else None
    if not isinstance(last, Scalar) or last.unit is None:
        return group
    if not all(isinstance(item, Scalar) and item.unit is None for item in group.items[:-1]):
        return group
    return replace(
        group,
        items=tuple(
            replace(item, unit=last.unit) if isinstance(item, Scalar) else item for item in group.items
        ),
    )


def _parts(text: str) -> list[str]:
    """The members of a list; of `p=5,q=2; p=7,q=2` each half is a tuple."""
    halves = [half for half in split(text, ";") if half]
    members = [split(half, ",") for half in halves]
    if len(halves) > 1 and all(len(row) > 1 for row in members):
        return [f"({half})" for half in halves]
    return [member for row in members for member in row]


def _separated(text: str) -> bool:
    return outside(text, ",") or outside(text, ";") or _AND.search(text) is not None


def _joined(text: str) -> str:
    return _AND.sub(",", text)


def _equation(text: str, depth: int) -> Reading | None:
    sides = [side.strip() for side in re.split(r"={1,2}", text)]
    if not all(sides):
        return None
    left, last = sides[0], sides[-1]
    if is_name(left):
        return _named(left, last, depth)
    if len(sides) > 2:
        return _read(last, depth + 1)
    if is_name(last):
        return _named(last, left, depth)
    try:
        one, two = parse(left), parse(last)
    except NotReadable:
        return None
    if not variables(one) and not variables(two):  # 2+3 = 5 says 5, and 6 = 5 says nothing
        return _read(last, depth + 1) if one.op != "num" or _same(one, two) else None
    return Equation(left=one, right=two)


def _same(one: Node, two: Node) -> bool:
    try:
        return same_formula(one, two)
    except TooHard:
        return False


def _named(name: str, value: str, depth: int) -> Reading | None:
    """A value with the name it was given; the names of `(p,q)=(3,2)` say nothing more."""
    reading = _read(value, depth + 1)
    name = name.replace(" ", "").replace("\\", "")
    if isinstance(reading, Region) or reading is None:
        return reading
    return replace(reading, name="" if "," in name else name)


def _plus_minus(text: str, depth: int) -> Reading | None:
    before, _, after = text.partition("\\pm")
    if "\\pm" in after:
        return None
    items = [_read(f"{before}{sign}{after}", depth + 1) for sign in "+-"]
    if items[0] is None or items[1] is None:
        return None
    return Group(kind="list", items=(items[0], items[1]))


def _bracketed(text: str, depth: int) -> Reading | None:
    kind = _BRACKETS.get(text[0] + text[-1])
    if kind is None or (kind != "list" and "\\infty" in text):
        return read_region(text)
    return _group(text[1:-1], kind, depth)


def _group(inside: str, kind: Kind, depth: int) -> Reading | None:
    parts = _parts(_joined(inside))
    if len(parts) > MAX_PARTS or not all(parts):
        return None
    items: list[Reading] = []
    for part in parts:
        item = _read(part, depth + 1)
        if item is None:
            return None
        items.extend(item.items if isinstance(item, Group) and item.kind == "list" else (item,))
    return Group(kind=kind, items=tuple(items))


def _ratio(text: str) -> Ratio | None:
    parts = split(text, ":")
    try:
        formulas = tuple(parse(part) for part in parts)
    except NotReadable:
        return None
    return Ratio(parts=formulas) if 2 <= len(formulas) <= 6 else None
