r"""One value with its unit, percent sign, currency or word of magnitude: `12 km/h`, `3 million`, `$5`."""

import itertools
import re
from dataclasses import replace
from fractions import Fraction

from foveal.rewards.answers.expression import Node, NotReadable, Token, parse_tokens, tokens
from foveal.rewards.answers.senses import Scalar
from foveal.rewards.answers.unit import MAGNITUDES, read_unit
from foveal.rewards.answers.value import variables

_PART = re.compile(r"(\d{1,9}(?:\.\d{1,9})?) ?([A-Za-z]+)")
_COMPOUND = re.compile(r"\d{1,9} ?[A-Za-z]+(?:,? (?:and )?\d{1,9}(?:\.\d{1,9})? ?[A-Za-z]+){1,3}")
_TIMES = re.compile(r"(?<=\d) ?[xX] ?(?=10 ?\^)")
_BARE_POWER = re.compile(r"(\\times ?10) ?([+-]\d+)$")
_CURRENCY = re.compile(r"([+-]?) ?(?:US|HK|CA|AU|U\.S\.)?([$€£¥₹]|USD|RMB|EUR|GBP) ?([+-]?)(?=[\d.])")
_PERCENT = re.compile(r" ?(?:%|\\%|percent(?:age)?(?: points?)?|pct|per cent)$")


def read_scalar(text: str) -> Scalar | None:
    """The value that a text states with what belongs to it; None where it states none."""
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


def read_compound(text: str) -> Scalar | None:
    """A quantity in several units, the larger ones first: `2 hours 30 minutes`, `5 feet and 6 inches`."""
    if _COMPOUND.fullmatch(text) is None:
        return None
    parts = [(Fraction(number), read_unit(unit)) for number, unit in _PART.findall(text)]
    units = [unit for _, unit in parts if unit is not None]
    if len(units) != len(parts) or any(unit.words or not unit.agrees(units[0]) for unit in units):
        return None
    if any(small.factor >= large.factor for large, small in itertools.pairwise(units)):
        return None
    total = sum((number * unit.factor for (number, _), unit in zip(parts, units, strict=True)), Fraction(0))
    return Scalar(formula=Node("num", value=total / units[0].factor), unit=units[0])


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
        letter = len(tail) == 1 and text[place - 1] != " " and tail.islower()
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
