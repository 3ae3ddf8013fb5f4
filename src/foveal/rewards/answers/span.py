"""Ranges: `2010-2015`, `5-10 years`, `20 to 25`, `50%-60%`. A truth of that form is never a difference."""

import re

from foveal.rewards.answers.sameness import NO_TERMS, Terms, same_scalar
from foveal.rewards.answers.scalar import read_scalar
from foveal.rewards.answers.senses import Scalar
from foveal.rewards.answers.unit import read_unit
from foveal.rewards.answers.value import TooHard

_MONEY = r"(?:[$€£¥₹] ?)?"
_NUMBER = r"\d{1,12}(?:,\d{3}){0,4}(?:\.\d{1,12})?"
_UNIT = r"(?: ?(?:%|°[CF]?|[A-Za-zμΩ\u4e00-\u9fff][A-Za-zμΩ0-9/^ .\u4e00-\u9fff-]{0,30}))?"
_SHORT_UNIT = r"(?: ?(?:%|°[CF]?|[A-Za-zμΩ]{1,12}(?:/[A-Za-z]{1,8})?))?"
_TIGHT = re.compile(rf"({_MONEY})({_NUMBER})({_SHORT_UNIT})[-~]({_MONEY})({_NUMBER})({_UNIT})")
_WORDED = re.compile(
    rf"(?:from |between )?({_MONEY}-?)({_NUMBER})({_SHORT_UNIT})(?: (?:to|and|through|until) | ?[~至到] ?)"
    rf"({_MONEY}-?)({_NUMBER})({_UNIT})",
    re.IGNORECASE,
)
_BARE_AND = re.compile(rf"{_MONEY}-?{_NUMBER}[^a-z]* and ", re.IGNORECASE)
_LOOSE = re.compile(rf"({_MONEY})({_NUMBER})({_SHORT_UNIT}) - ({_MONEY})({_NUMBER})({_UNIT})")

MAX_RANGES = 20
Ends = tuple[str, str]


def ends(text: str, *, spaced: bool = False) -> Ends | None:
    """Both ends of a range as texts, each with its unit; None where the text is none.

    >>> ends("5-10 years"), ends("from -5 to 5 V"), ends("2019-20"), ends("5 - 3"), ends("2x-3")
    (('5 years', '10 years'), ('-5 V', '5 V'), ('2019', '2020'), None, None)
    """
    match = _TIGHT.fullmatch(text) or (_LOOSE.fullmatch(text) if spaced else None)
    if match is None and not (text[:1] != "b" and _BARE_AND.match(text)):
        match = _WORDED.fullmatch(text)
    if match is None:
        return None
    before, low, unit, again, high, last = match.groups()
    if not (_is_unit(unit) and _is_unit(last)):  # 2x-3, 10-2x and 3-2i are formulas
        return None
    if "-" not in before and len(low) == 4 and len(high) == 2 and not last and low.isdigit():
        high = low[:2] + high  # a season or school year: 2019-20
    last, unit = last.strip(), unit.strip()
    signs = "".join(sign for sign in before if sign not in "- ")
    again = again if again.strip(" -") or not signs else again + signs
    return f"{before}{low} {unit or last}".strip(), f"{again}{high} {last or unit}".strip()


def _is_unit(text: str) -> bool:
    """Whether what stands behind a number can only be its unit; a letter glued to it may be a variable."""
    name = text.strip()
    if not name or name[0] in "%°":
        return True
    unit = read_unit(name)
    return unit is not None and (text[0] == " " or (len(name) > 1 and not unit.words))


def is_span(text: str) -> bool:
    """Whether a truth is a range rather than a number: `5-10`, `5 to 10 cm`."""
    return ends(text) is not None


def same_span(gold: str, answer: str, terms: Terms = NO_TERMS) -> bool | None:
    """Whether two ranges have the same ends; None where the truth is no range.

    `3 to 4` may also be a ratio: None where the answer is not a range either.
    """
    one = ends(gold)
    if one is None:
        return _same_list(gold, answer, terms)
    two = ends(answer, spaced=True)
    ratio = re.fullmatch(r"\d+ to \d+", gold) is not None
    if two is None:
        return None if ratio else False
    if ratio and re.fullmatch(r"\d+ to \d+", answer):
        return None
    return all(_same_end(left, right, terms) for left, right in zip(one, two, strict=True))


def _same_list(gold: str, answer: str, terms: Terms) -> bool | None:
    """`1-2, 3-4` in the same order; None where the truth is no list of ranges."""
    golds, answers = (re.split(r", |; ", text) for text in (gold, answer))
    if len(golds) < 2 or len(golds) > MAX_RANGES or not all(_TIGHT.fullmatch(part) for part in golds):
        return None
    if not all(is_span(part) for part in golds):
        return None
    return len(golds) == len(answers) and all(
        same_span(left, right, terms) is True for left, right in zip(golds, answers, strict=True)
    )


def _same_end(gold: str, answer: str, terms: Terms) -> bool:
    left, right = _read(gold), _read(answer)
    if left is None or right is None:
        return gold.replace(" ", "").casefold() == answer.replace(" ", "").casefold()
    try:
        return same_scalar(left, right, terms)
    except TooHard:
        return False


def _read(text: str) -> Scalar | None:
    return read_scalar(text.replace(",", ""))
