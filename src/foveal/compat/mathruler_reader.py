r"""Reads the formulas that mathruler 0.1.0 gives sympy, with a grammar of its own and no evaluator.

mathruler writes `(truth)-(answer)` and has sympy read it as Python, after a few rewritings: letters side by
side are a product, `2(x)` too, `n!` is a factorial. The same is done here on tokens: what is not in the
grammar below is unreadable, and mathruler's verdict on nearly all of that is "wrong" as well, since Python
cannot read it either (docs/security.md lists the exceptions).

    sum    = term {("+" | "-") term}
    term   = factor {("*" | "/" | "//" | nothing) factor}
    factor = ("+" | "-") factor | power
    power  = atom ["**" factor]
    atom   = (number | name | "(" sum ")" | call) ["!" | "!!"]
    call   = function ["**" exponent] "(" sum ["," sum] ")"

Source: mathruler 0.1.0 on sympy 1.14 (Python 3.11).
"""

import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from foveal.rewards.bounds import bits, factorial_bits, power_bits

MAX_LENGTH = 600
"""Characters of a formula; longer ones are unreadable."""
MAX_DEPTH = 40
"""Brackets, signs and exponents within each other."""
MAX_DIGITS = 400
"""Digits of one number."""
MAX_EXPONENT = 300
"""Power of ten of one number in scientific notation."""

_TOKEN = re.compile(
    r"(?P<gap>[ \t\f]+)|(?P<newline>\r?\n)"
    r"|(?P<imaginary>(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?[jJ])"
    r"|(?P<decimal>(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+)"
    r"|(?P<based>0[xX][0-9a-fA-F]+|0[bB][01]+|0[oO][0-7]+)"
    r"|(?P<whole>0+|[1-9][0-9]*)"
    r"|(?P<name>\w+)"
    r"|(?P<op>\*\*|//|[-+*/()!,])"
)
"""Python's tokens, as far as the grammar has them: `05` is two numbers, `2x` a number and a name."""

_Token = tuple[str, Any]
_END: _Token = ("end", None)


class Unreadable(ValueError):
    """A formula that is not in the grammar."""


@dataclass(frozen=True, kw_only=True)
class _Names:
    """The names that mean something; all others are symbols."""

    constants: Mapping[str, Any]
    functions: Mapping[str, Callable[..., Any]]


def is_zero(formula: str) -> bool:
    """Whether sympy simplifies a formula to 0, as mathruler asks; False for one that cannot be read.

    Time and memory are bounded for towers of powers; sympy's simplification is bounded by the worker.

    >>> is_zero("(2sqrt(3))-(sqrt(12))"), is_zero("(x(x+1))-(xx+x)"), is_zero("(x)-(__import__)")
    (True, True, False)
    """
    from sympy import simplify

    try:
        return bool(simplify(parse(formula)) == 0)
    except Exception:  # whatever an answer makes sympy raise
        return False


def parse(formula: str) -> Any:
    """The sympy object of a formula, evaluated step by step within the bounds of `foveal.rewards.bounds`.

    Raises: Unreadable, TooLarge, and what sympy raises.
    """
    if len(formula) > MAX_LENGTH:
        raise Unreadable(f"a formula of {len(formula)} characters")
    reader = _Reader(_tokens(formula))
    found = reader.sum()
    reader.expect("end", None)
    return found


@cache
def _names() -> _Names:
    """Those of sympy's names that can stand in an answer of at most two different letters."""
    from sympy import S, csc, frac, im, ln, re, sqrt

    functions = {
        "sqrt": sqrt,
        "frac": frac,
        "ln": ln,
        "csc": csc,
        "re": re,
        "im": im,
    }
    return _Names(
        constants={"pi": S.Pi, "oo": S.Infinity, "zoo": S.ComplexInfinity, "nan": S.NaN}, functions=functions
    )


_NO_NAMES = frozenset(
    "as if in is or and not id all fu ff rf li jn yn fft ntt gff eye hn1 hn2 none true false".split()
)
"""Words of Python, and functions of sympy and Python that are no formula on their own."""


def _tokens(formula: str) -> list[_Token]:
    found: list[_Token] = []
    place, broken = 0, False
    matches = list(_TOKEN.finditer(formula))
    for index, match in enumerate(matches):
        if match.start() != place:
            raise Unreadable(f"{formula[place]!r} is no token")
        place = match.end()
        kind = match.lastgroup
        if kind in ("gap", "newline"):
            broken = broken or kind == "newline"
            continue
        text = match[0]
        if kind == "op":
            new: list[_Token] = [("op", text)]
        elif kind == "name":
            after = matches[index + 1][0] if index + 1 < len(matches) else ""
            new = _named(text, keep_together=after == "!")
        elif kind == "imaginary":
            new = _imaginary(text[:-1])
        else:
            new = [("value", _number(text, kind=str(kind)))]
        starts = new[0][0] != "op" or new[0][1] == "("
        ends = bool(found) and (found[-1][0] == "value" or found[-1][1] in (")", "!"))
        if broken and starts and ends:
            raise Unreadable("a line break between two factors")
        broken = False
        found.extend(new)
    if place != len(formula):
        raise Unreadable(f"{formula[place]!r} is no token")
    return [*found, _END]


def _named(text: str, *, keep_together: bool) -> list[_Token]:
    """A constant, a function, or symbols: letters side by side are a product, save Greek names."""
    from sympy import Integer, Symbol

    names = _names()
    if text in names.functions:
        return [("call", names.functions[text])]
    if text in names.constants:
        return [("value", names.constants[text])]
    if text.lower() in _NO_NAMES:
        raise Unreadable(f"the word {text!r}")
    if len(text) == 1 or "_" in text or _is_greek(text):
        return [("value", Symbol(text))]
    parts: list[_Token] = []
    for digits, letter in re.findall(r"([0-9]+)|(.)", text):
        if letter.isdigit() or (digits.startswith("0") and digits.strip("0")):
            raise Unreadable(f"{digits or letter!r} is no number")
        parts.append(("value", Integer(_digits(digits)) if digits else Symbol(letter)))
    return [("op", "("), *parts, ("op", ")")] if keep_together else parts


def _is_greek(text: str) -> bool:
    try:
        return bool(unicodedata.lookup(f"GREEK SMALL LETTER {text}"))
    except KeyError:
        return False


def _imaginary(digits: str) -> list[_Token]:
    """Python's `2j`, which sympy reads as `2*I`."""
    from sympy import I

    kind = "whole" if digits.isdigit() else "decimal"
    return [("value", _number(digits, kind=kind)), ("op", "*"), ("value", I)]


def _number(text: str, *, kind: str) -> Any:
    from sympy import Float, Integer

    if kind == "whole":
        return Integer(_digits(text))
    if len(text) > MAX_DIGITS:
        raise Unreadable(f"a number of {len(text)} characters")
    if kind == "based":
        return Integer(int(text, 0))
    exponent = re.split("[eE]", text)[1:]
    if exponent and (len(exponent[0]) > 5 or abs(int(exponent[0])) > MAX_EXPONENT):
        raise Unreadable(f"a power of ten of {exponent[0]}")
    return Float(text)


def _digits(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise Unreadable(f"a number of {len(text)} digits")
    return int(text)


class _Reader:
    """Recursive descent over the tokens of one formula."""

    def __init__(self, tokens: list[_Token]) -> None:
        self.tokens, self.place, self.depth = tokens, 0, 0

    @property
    def next(self) -> _Token:
        return self.tokens[self.place]

    def take(self) -> _Token:
        token = self.next
        self.place += 1
        return token

    def at(self, *ops: str) -> bool:
        kind, text = self.next
        return kind == "op" and text in ops

    def expect(self, kind: str, value: str | None) -> None:
        if self.next != (kind, value):
            raise Unreadable(f"expected {value or 'the end'}, got {self.next[1]!r}")
        self.place += kind != "end"

    def sum(self) -> Any:
        found = self.term()
        while self.at("+", "-"):
            found = found + self.term() if self.take()[1] == "+" else found - self.term()
        return found

    def term(self) -> Any:
        found = self.factor()
        while True:
            if self.at("*", "/", "//"):
                op = self.take()[1]
                right = self.factor()
                found = found * right if op == "*" else found / right if op == "/" else found // right
            elif self.next[0] in ("value", "call") or self.at("("):
                found = found * self.factor()
            else:
                return found

    def factor(self) -> Any:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise Unreadable(f"more than {MAX_DEPTH} levels")
        if self.at("+", "-"):
            negative = self.take()[1] == "-"
            value = self.factor()
            found = -value if negative else value
        else:
            found = self.power()
        self.depth -= 1
        return found

    def power(self) -> Any:
        base = self.atom()
        return self.raised(base, self.factor()) if self.passed("**") else base

    def passed(self, op: str) -> bool:
        """Whether the operator comes next; it is taken then."""
        found = self.at(op)
        self.place += found
        return found

    @staticmethod
    def raised(base: Any, exponent: Any) -> Any:
        power_bits(base, exponent)
        return base**exponent

    def atom(self) -> Any:
        kind, value = self.take()
        if kind == "value":
            found = value
        elif kind == "call":
            found = self.applied(value)
        elif (kind, value) == ("op", "("):
            found = self.sum()
            self.expect("op", ")")
        else:
            raise Unreadable(f"a formula that goes on with {value!r}")
        return self.factorials(found)

    def applied(self, function: Callable[..., Any]) -> Any:
        """`f(x)`, `f(x, y)` or `f**2(x)`, which is the power of the value."""
        exponent = None
        if self.passed("**"):
            kind, exponent = self.take()
            if kind != "value":
                raise Unreadable("an exponent of a function that is no number or letter")
            self.passed("*")
        self.expect("op", "(")
        arguments = [self.sum()]
        if self.passed(","):
            arguments.append(self.sum())
        self.expect("op", ")")
        value = function(*arguments)
        bits(value)
        return value if exponent is None else self.raised(value, exponent)

    def factorials(self, found: Any) -> Any:
        from sympy import factorial, factorial2

        marks = 0
        while self.passed("!"):
            marks += 1
        if marks > 2:
            raise Unreadable("more than two marks of a factorial")
        if not marks:
            return found
        factorial_bits(found)
        return factorial(found) if marks == 1 else factorial2(found)
