r"""What an answer says: a number with its unit, an equation, a list, a tuple, a set or an interval.

`readings` gives every sense that a text may have (`1,234` is a number or two of them); two answers are the
same when one sense of each agrees (`foveal.rewards.answers.sameness`).
"""

import re
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Literal

from foveal.rewards.answers.expression import Node, NotReadable, Token, parse, parse_tokens, tokens
from foveal.rewards.answers.text import enclosed, outside, split
from foveal.rewards.answers.unit import MAGNITUDES, Unit, read_unit
from foveal.rewards.answers.value import variables
from foveal.rewards.answers.words import with_digits

MAX_PARTS = 40
MAX_NESTED = 5

Kind = Literal["list", "set", "(", "["]


@dataclass(frozen=True, kw_only=True)
class Scalar:
    """One value. `digits`: the numeral where the value is written as a plain one; `bare_letter`: the unit is
    one letter right behind the number, which may as well be a variable (`12m`)."""

    formula: Node
    unit: Unit | None = None
    percent: bool = False
    digits: str = ""
    bare_letter: bool = False
    name: str = ""


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """Values with colons between them."""

    parts: tuple[Node, ...]
    name: str = ""


@dataclass(frozen=True, kw_only=True)
class Group:
    """Values side by side (`list`), in braces (`set`), or in brackets of one kind (a tuple or an interval)."""

    kind: Kind
    items: tuple["Reading", ...]
    name: str = ""


@dataclass(frozen=True, kw_only=True)
class Interval:
    """From `low` to `high`; None is infinity."""

    low: Node | None
    high: Node | None
    low_closed: bool
    high_closed: bool


@dataclass(frozen=True, kw_only=True)
class Region:
    """A union of intervals and points, in the order of writing."""

    pieces: tuple[Interval, ...]
    name: str = ""


@dataclass(frozen=True, kw_only=True)
class Equation:
    """Left minus right is zero."""

    left: Node
    right: Node
    name: str = ""


Reading = Scalar | Ratio | Group | Region | Equation

_NO_LIST = Group(kind="list", items=())
"""Stands for a list of which a member cannot be read."""

_COMPACT = re.compile(r"[+-]?[$€£¥]?\d{1,3}(?:,\d{3})+(?:\.\d+)?(?![\d,])")
_SPACED = re.compile(r"([+-]?\d{1,3}(?: \d{3})+(?:\.\d+)?)(?! ?[\d/])")
_DOTTED = re.compile(r"\d{1,3}(?:\.\d{3}){2,}(?:,\d+)?(?![\d.,])")
_COMMA_DECIMAL = re.compile(
    r"[+-]?(?:\d{1,6},(?:\d{1,2}|\d{4,10})|0,\d{1,10}|\d{1,3}(?:\.\d{3})+,\d{1,2})(?!\d)"
)
_AND = re.compile(r" ?(?:(?:,|;) ?)?(?<![A-Za-z])(?:and|or)(?![A-Za-z]) ?| & ")
_NAME = re.compile(
    r"(?:\\?(?:angle|triangle|overline|overrightarrow|vec|odot|sin|cos|tan|ln|log|Delta|theta|alpha|beta|gamma|lambda|phi"
    r"|omega|rho|sigma|mu|frac|pi|epsilon|mathcal|min|max)(?![A-Za-z])|[A-Za-z](?:_ ?(?:\{[^{}]{1,12}\}|[A-Za-z0-9]))?'?"
    r"|[(){}|,:/]|\\[{}]|°|[0-9]| |μ|Ω){1,60}"
)
_APPROXIMATELY = re.compile(
    r"(?:\\approx|~|about|approximately|approx\.?|around|roughly|nearly|=|\\sim) ?", re.IGNORECASE
)
_TIMES = re.compile(r"(?<=\d) ?[xX] ?(?=10 ?\^)")
_BARE_POWER = re.compile(r"(\\times ?10) ?([+-]\d+)$")
_CURRENCY = re.compile(r"([+-]?) ?(?:US|HK|CA|AU|U\.S\.)?([$€£¥₹]|USD|RMB|EUR|GBP) ?([+-]?)(?=[\d.])")
_PERCENT = re.compile(r" ?(?:%|\\%|percent(?:age)?(?: points?)?|pct|per cent)$")
_POINT = re.compile(r"[A-Z]'? ?(?=\()")
_LESS = {"<": (False, False), "\\le": (False, True), ">": (True, False), "\\ge": (True, True), "<=": (False, True),
         ">=": (True, True), "=<": (False, True), "=>": (True, True)}  # fmt: skip
_RELATION = re.compile(r"(<=|>=|=<|=>|<|>|\\le(?![A-Za-z])|\\ge(?![A-Za-z]))")
_INFINITE = re.compile(r"([+-]?) ?(?:\\infty|infinity|inf|oo)")
_UNIT_TOKENS = frozenset(("word", "num"))


def readings(text: str) -> tuple[Reading, ...]:
    """Every sense of a cleaned answer; empty where this grammar reads none."""
    found: list[Reading] = []
    for form in _forms(text) if "\\begin" not in text else ():
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
        text = first.strip() if "=" in first or not _NAME.fullmatch(first) else f"{first}={rest}"
    if _RELATION.search(text) or "\\in" in text or "\\cup" in text or "\\R" in text or "\\emptyset" in text:
        return _region(text, depth)
    listed = _list(text, depth)
    if listed is not None:
        return None if listed is _NO_LIST else listed
    if outside(text, "="):
        return _equation(text, depth)
    if "\\pm" in text:
        return _plus_minus(text, depth)
    point = _POINT.match(text)
    if point is not None and "," in text and enclosed(text[point.end() :]):
        text = text[point.end() :]
    if text.startswith("\\{") and text.endswith("\\}"):
        return _group(text[2:-2], "set", depth)
    if enclosed(text) and (outside(text[1:-1], ",") or outside(text[1:-1], ";") or text[0] == "{"):
        return _bracketed(text, depth)
    if outside(text, ":"):
        return _ratio(text)
    return _scalar(text)


def _list(text: str, depth: int) -> Reading | None:
    """Parts joined by commas, semicolons, "and" or "or"; None where there is one part."""
    parts = _parts(_joined(text)) if _separated(text) else [text]
    if len(parts) == 1 or len(parts) > MAX_PARTS:
        return None
    parts = [part for part in parts if part]
    named = [part for part in parts if "=" in part]
    # `a = 4, -8, -10`: one name for all
    if len(named) == 1 and parts and parts[0] is named[0] and _NAME.fullmatch(named[0].split("=")[0]):
        parts = [parts[0].rpartition("=")[2], *parts[1:]]
    items = []
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
    if _is_name(left):
        return _named(left, last, depth)
    if len(sides) > 2:
        return _read(last, depth + 1)
    if _is_name(last):
        return _named(last, left, depth)
    try:
        one, two = parse(left), parse(last)
    except NotReadable:
        return None
    if not variables(one) and not variables(two):
        return _read(last, depth + 1)
    return Equation(left=one, right=two)


def _named(name: str, value: str, depth: int) -> Reading | None:
    """A value with the name it was given; the names of `(p,q)=(3,2)` say nothing more."""
    reading = _read(value, depth + 1)
    name = name.replace(" ", "").replace("\\", "")
    if isinstance(reading, Region) or reading is None:
        return reading
    return replace(reading, name="" if "," in name else name)


def _is_name(text: str) -> bool:
    """Whether a text can be what a value is given to: `x`, `AB`, `\\angle ABC`, `f(x)`, `V_1:V_2`, "area"."""
    if re.fullmatch(r"[A-Za-z][A-Za-z ]{2,40}", text):
        return True
    if _NAME.fullmatch(text) is None or not any(sign.isalpha() for sign in text):
        return False
    if re.fullmatch(r"\d+ ?[A-Za-z].*", text):
        return False
    if text.startswith("\\frac") or "/" in text:  # NO/BO is a name, x/4 is half an equation
        return not any(sign.isdigit() for sign in text)
    try:
        formula = parse(text)
    except NotReadable:
        return True
    letters = variables(formula)
    if formula.op == "mul":  # f(x), AB
        return bool(re.fullmatch(r"[A-Za-z]\([A-Za-z0-9,]+\)|[A-Z]{2,4}'?|[A-Z][a-z]", text.replace(" ", "")))
    return formula.op in ("var", "abs", "deg", "sin", "cos", "tan") and bool(letters)


def _plus_minus(text: str, depth: int) -> Reading | None:
    before, _, after = text.partition("\\pm")
    if "\\pm" in after:
        return None
    items = [_read(f"{before}{sign}{after}", depth + 1) for sign in "+-"]
    if items[0] is None or items[1] is None:
        return None
    return Group(kind="list", items=(items[0], items[1]))


def _bracketed(text: str, depth: int) -> Reading | None:
    inside = text[1:-1]
    kind = {"()": "(", "[]": "[", "{}": "list"}.get(text[0] + text[-1])
    if kind == "(" or kind == "[" or kind == "list":
        if kind != "list" and "\\infty" in inside:
            return _region(text, depth)
        return _group(inside, kind, depth)
    return _region(text, depth)


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


def _region(text: str, depth: int) -> Region | None:
    """Intervals, unions of them, and inequalities in one name."""
    name, found, rest = text.partition("\\in ")
    if found and "\\infty" not in name:
        name, text = name.strip(), rest.strip()
        if _NAME.fullmatch(name) is None:
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
    if _RELATION.search(text):
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
    (bad_low, low), (bad_high, high) = _end(parts[0]), _end(parts[1])
    if bad_low or bad_high:
        return None
    return "", (Interval(low=low, high=high, low_closed=text[0] == "[", high_closed=text[-1] == "]"),)


def _end(text: str) -> tuple[bool, Node | None]:
    """Whether an end cannot be read, and its value; None is infinity."""
    if _INFINITE.fullmatch(text):
        return False, None
    try:
        formula = parse(text)
    except NotReadable:
        return True, None
    return False, formula


def _inequality(text: str) -> tuple[str, tuple[Interval, ...]] | None:
    """`x > 3`, `3 < x`, `1 \\le x < 2`."""
    pieces = [piece.strip() for piece in _RELATION.split(text)]
    values, signs = pieces[0::2], [_LESS[sign] for sign in pieces[1::2]]
    if len(values) == 2 and _is_name(values[1]):
        values, signs = [values[1], values[0]], [(not signs[0][0], signs[0][1])]
    if len(values) == 2 and _is_name(values[0]):
        bad, end = _end(values[1])
        greater, closed = signs[0]
        if bad or end is None or variables(end):
            return None
        if greater:
            return values[0], (Interval(low=end, high=None, low_closed=closed, high_closed=False),)
        return values[0], (Interval(low=None, high=end, low_closed=False, high_closed=closed),)
    if len(values) != 3 or signs[0][0] != signs[1][0] or not _is_name(values[1]):
        return None
    (bad_low, low), (bad_high, high) = _end(values[0]), _end(values[2])
    if bad_low or bad_high:
        return None
    closed_low, closed_high = signs[0][1], signs[1][1]
    if signs[0][0]:
        low, high, closed_low, closed_high = high, low, closed_high, closed_low
    return values[1], (Interval(low=low, high=high, low_closed=closed_low, high_closed=closed_high),)


def _ratio(text: str) -> Ratio | None:
    parts = split(text, ":")
    try:
        formulas = tuple(parse(part) for part in parts)
    except NotReadable:
        return None
    return Ratio(parts=formulas) if 2 <= len(formulas) <= 6 else None


def _scalar(text: str) -> Scalar | None:
    text = _BARE_POWER.sub(r"\1^\2", _TIMES.sub(" \\\\times ", text))
    currency = _CURRENCY.match(text)
    unit = None
    if currency is not None:
        unit = read_unit(currency[2])
        text = currency[1] + currency[3] + text[currency.end() :]
    percent = _PERCENT.search(text)
    if percent is not None:
        text = text[: percent.start()].strip()
    try:
        found = _formula(tokens(text))
    except NotReadable:
        found = None
    if found is None or variables(found.formula):
        found = _measured(text) or found
    if found is None or (percent and found.unit) or (unit and found.unit and not unit.agrees(found.unit)):
        return None
    return replace(found, unit=unit or found.unit, percent=percent is not None)


def _formula(words: list[Token]) -> Scalar | None:
    """A formula without a unit, degrees excepted."""
    try:
        node = parse_tokens(words)
    except NotReadable:
        return None
    if node.op == "deg" or (node.op == "neg" and node.args[0].op == "deg"):
        inner = node.args[0] if node.op == "deg" else Node("neg", node.args[0].args)
        return Scalar(formula=inner, unit=read_unit("°"), digits=_digits(words[:-1]))
    return Scalar(formula=node, digits=_digits(words))


def _digits(words: list[Token]) -> str:
    signless = words[1:] if words and words[0].text in "+-" else words
    return signless[0].text if len(signless) == 1 and signless[0].kind == "num" else ""


def _measured(text: str) -> Scalar | None:
    """A formula without letters, a word of magnitude, and a unit."""
    for place in _unit_places(text):
        head, tail = text[:place].strip(), text[place:].strip()
        power, tail = _magnitude(tail)
        unit = read_unit(tail) if tail else None
        if tail and unit is None:
            continue
        try:
            found = _formula(tokens(head))
        except NotReadable:
            continue
        if found is None or found.unit is not None or variables(found.formula):
            continue
        formula = (
            found.formula if power == 1 else Node("mul", (found.formula, Node("num", value=Fraction(power))))
        )
        letter = len(tail) == 1 and text[place - 1] != " " and tail.isalpha()
        return replace(
            found, formula=formula, unit=unit, bare_letter=letter, digits=found.digits if power == 1 else ""
        )
    return None


def _unit_places(text: str) -> list[int]:
    """Where a unit may begin: at words behind a digit, a bracket or a constant, from the left."""
    places = []
    for place in range(1, len(text)):
        sign, before = text[place], text[place - 1]
        if not (sign.isalpha() or sign in "°$€£¥₹μΩ/") or before == "\\":
            continue
        if before.isalpha() and before not in "万亿":
            continue
        if sign == "/" and not text[place + 1 : place + 2].isalpha():
            continue
        if text[:place].rstrip().endswith(("^", "_", "{", "/", "*", "+", "-")):
            continue
        places.append(place)
        if len(places) > 8:
            break
    return places


def _magnitude(text: str) -> tuple[int, str]:
    """The factor that the first words name, and what follows."""
    power = 1
    while text:
        first = re.match(r"[A-Za-z]+|[万亿]", text)
        if first is None or first[0].lower() not in MAGNITUDES:
            break
        power *= MAGNITUDES[first[0].lower()]
        text = text[first.end() :].strip()
    return power, text
