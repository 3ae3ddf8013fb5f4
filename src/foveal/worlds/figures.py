"""What the geometry families share: exact square roots, and reading lengths and equations back from text."""

import math
import re
from collections.abc import Iterable, Sequence

UNKNOWN = "x"
"""The label of the asked length."""

TRIPLES = ((3, 4, 5), (6, 8, 10), (5, 12, 13), (9, 12, 15), (8, 15, 17))
"""Pythagorean triples with small numbers."""

LENGTH = rf"(\d{{1,6}}|{UNKNOWN})\b"
_EQUATION = re.compile(r"\b(\d{1,6})\s*([-+*/])\s*(\d{1,6})\s*=\s*(\d{1,6})\b")


def exact_root(number: int) -> int | None:
    """The whole square root; None when there is none."""
    root = math.isqrt(number) if number > 0 else 0
    return root if root > 0 and root * root == number else None


def equation(left: int, sign: str, right: int) -> str:
    """A sum, difference or quotient with its result: "36 + 64 = 100"."""
    result = {"+": left + right, "-": left - right, "/": left // right if right else 0}[sign]
    return f"{left} {sign} {right} = {result}"


def equations_follow(thinking: str, expected: str | None) -> bool:
    """Whether each equation of the text is the expected one, sums in either order; none is no mistake."""
    found = _EQUATION.findall(thinking)
    if not found:
        return True
    wanted = _EQUATION.findall(expected or "")
    allowed = {*wanted, *((right, sign, left, result) for left, sign, right, result in wanted if sign == "+")}
    return all(item in allowed for item in found)


def first_match(pattern: str, text: str) -> tuple[str, ...] | None:
    """The groups of the first match."""
    found = re.search(pattern, text)
    return tuple(str(group) for group in found.groups()) if found else None


def right_numbers(stated: Iterable[str], truth: Sequence[str]) -> tuple[int, int]:
    """(right, stated) over the numbers, each of `truth` used once; the unknown is not a number."""
    left, right, count = [t for t in truth if t != UNKNOWN], 0, 0
    for value in stated:
        if value == UNKNOWN:
            continue
        count += 1
        if value in left:
            left.remove(value)
            right += 1
    return right, count


def together(*pairs: tuple[int, int]) -> tuple[int, int]:
    """Sum of (right, stated) pairs."""
    return sum(p[0] for p in pairs), sum(p[1] for p in pairs)
