"""What states no value: relations of figures (`AD=BC`, `AB \\parallel CD`), signs, grades, ions, `>50%`."""

import re

from foveal.rewards.answers.text import clean

_SIDE = (
    r"((?:\\(?:angle|triangle|overline|odot|vec) ?)?\{? ?[A-Z]{2,4}'? ?\}?"
    r"|\\(?:angle|triangle) ?(?:[1-9]|[A-Z]))"
)
_RELATION = re.compile(
    rf"{_SIDE} ?(=|\\parallel|\\perp|\\cong|\\sim|//|\u2225|\u22a5|\u224c|\u223d) ?{_SIDE}"
)
_SIGN = re.compile(
    r"[<>=+]|\\(?:le|ge|ne|times)|[A-Za-z]{1,2}\+\+|[A-Z][a-z]?(?:\^\{?)?\d?[+-]\}?|\d{1,9}\+"
    r"|(?:[<>]|\\[lg]e ?) ?[$]?\d{1,9}(?:\.\d{1,9})? ?%?"
)
_NAMES = {
    "//": "\\parallel",
    "\u2225": "\\parallel",
    "\u22a5": "\\perp",
    "\u224c": "\\cong",
    "\u223d": "\\sim",
}


def is_sign(text: str) -> bool:
    """Whether a text is a sign, a grade, an ion or a bound that no formula holds, or Chinese.

    >>> is_sign(">"), is_sign("C++"), is_sign("Na+"), is_sign(">50%"), is_sign("x>3")
    (True, True, True, True, False)
    """
    return _SIGN.fullmatch(text) is not None or any("\u4e00" <= sign <= "\u9fff" for sign in text)


def same_statement(gold: str, answer: str) -> bool | None:
    """Whether two relations of figures, or two bare signs, are the same; None where the truth is neither.

    >>> same_statement("AD=BC", "BC = AD"), same_statement("AD=BC", "AD=BD"), same_statement("x=5", "5")
    (True, False, None)
    """
    if _SIGN.fullmatch(gold):
        return same_text(gold, answer)
    one, two = _RELATION.fullmatch(gold), _RELATION.fullmatch(answer)
    if one is None:
        return None
    return two is not None and _parts(one) == _parts(two)


def same_text(gold: str, answer: str) -> bool:
    """Whether two texts are the same but for spaces and the spelling of signs."""
    return clean(gold).replace(" ", "") == clean(answer).replace(" ", "")


def _parts(found: re.Match[str]) -> tuple[str, list[str]]:
    sides = (re.sub(r"[ {}]|\\overline", "", found[n]) for n in (1, 3))
    return _NAMES.get(found[2], found[2]), sorted(sides)
