r"""Reads LaTeX of a completion or a truth into sympy objects without any evaluator of strings.

latex2sympy parses with a grammar of its own, but it makes symbols out of whatever stands in `\text{}`, and
sympy prints symbols into source code that it compiles (`\sum` with `evalf`); and it reads numbers by way of
sympy's evaluator. So only text that consists of `_TOKENS` reaches it, whose symbols are letters and digits,
and numbers are built from their digits here. Decimals are exact fractions wherever they are part of a
formula, since sympy identifies floating-point numbers by evaluating text.
"""

import re
from fractions import Fraction
from functools import cache
from typing import Any

from foveal.rewards.bounds import TooLarge, bits

MAX_LENGTH = 300
"""Characters of a formula; longer ones are not read."""
MAX_NESTING = 12
"""Brackets within brackets, of any kind; the grammar's time grows quickly with them."""
MAX_DIGITS = 100
"""Digits of one number."""
PLACES = 6
"""Decimal places to which a lone decimal is compared, as math-verify compares it."""

COMMANDS = frozenset(
    "frac sqrt cdot times div pm mp left right lbrace rbrace infty in notin cup cap setminus emptyset "
    "varnothing le leq leqslant ge geq geqslant lt gt ne neq approx equiv circ degree log ln exp sin cos tan "
    "csc sec cot arcsin arccos arctan arccsc arcsec arccot sinh cosh tanh max min binom mod "
    "lfloor rfloor lceil rceil lvert rvert vert quad qquad "
    "alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi pi rho "
    "sigma tau upsilon phi varphi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi "
    "Omega".split()
)
r"""Commands that latex2sympy may see. Left out on purpose: `\sum`, `\prod`, `\int`, `\lim` and derivatives
(they reach code that sympy compiles, or cost without bound), `\gcd` and `\lcm` (they identify decimals by
text), `\operatorname` (methods by name), `\variable`."""

_TOKENS = re.compile(
    r"(?:\s"
    r"|[0-9A-Za-z]|[-+*/=<>(),;:.|!%&\[\]{}^]"
    r"|_(?:[A-Za-z0-9]|\{[A-Za-z0-9]{1,20}\})(?!_)"
    r"|\\\\|\\[{}%,;:! |]"
    r"|\\(?:text|mbox|mathbb|overline|bar|vec|hat)\s*\{[A-Za-z0-9 ]{0,40}\}"
    r"|\\(?:begin|end)\{[pbv]?matrix\}"
    rf"|\\(?:{'|'.join(sorted(COMMANDS, key=len, reverse=True))})(?![A-Za-z])"
    r")*",
    re.ASCII,
)
_NUMBER = re.compile(r"(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?", re.ASCII)
_GROUPED = re.compile(r"\s*(-?)([0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]+)?)\s*", re.ASCII)
_LONG_NUMBER = re.compile(rf"[0-9]{{{MAX_DIGITS + 1}}}")
_COMPUTED = re.compile(r"\\(?:binom|[Gg]amma)(?![A-Za-z])")
_FOUR_DIGITS = re.compile(r"[0-9]{4}")
"""latex2sympy computes the functions of `_COMPUTED` while it reads."""
_CHAIN = re.compile(r"(?<![\\<!>])=")


def allowed(text: str) -> bool:
    r"""Whether a formula consists of whitelisted tokens only and stays within the limits of size.

    >>> allowed(r"\frac{1}{2}x_{10}"), allowed(r"\text{cm}"), allowed(r"\text{a[0]}"), allowed(r"\sum x")
    (True, True, False, False)
    """
    if len(text) > MAX_LENGTH or _LONG_NUMBER.search(text) or _TOKENS.fullmatch(text) is None:
        return False
    if _COMPUTED.search(text) and _FOUR_DIGITS.search(text):
        return False
    depth = 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        if depth > MAX_NESTING:
            return False
    return True


def parse(text: str) -> Any | None:
    r"""The sympy object of a formula, unevaluated; None when it is not allowed, not read, or too large.

    A decimal that stands alone is a `Float`; within a formula it is an exact `Rational`. May run long on
    hostile input: call it in a grading worker.

    >>> parse(r"\frac{2}{4}"), parse("0.5x"), parse(r"\text{__import__}")
    (1/2, x/2, None)
    """
    if len(text) > MAX_LENGTH:
        return None
    normalize, settings, reader, complex_ = _latex2sympy()
    text = normalize(text, settings)
    if not allowed(text):
        return None
    sides = _CHAIN.split(text)
    last = sides[-1] if len(sides) > 2 and "," not in text and ";" not in text else text
    for formula in dict.fromkeys((text, last)):
        try:
            found = reader(is_real=not complex_(formula)).parse(formula)
            bits(found)
            return found if _is_lone_decimal(found) else _exact(found)
        except TooLarge:
            return None
        except Exception:  # its grammar and sympy raise many kinds
            continue
    return None


def same(gold: Any, answer: Any) -> bool:
    """Whether two objects of `parse` are equal, as math-verify judges it: decimals to six places."""
    import logging

    import math_verify

    # Time is limited from outside, in CPU seconds; math-verify warns when its own limit is off.
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    if _is_lone_decimal(gold) or _is_lone_decimal(answer):
        try:
            return bool(gold.doit().round(PLACES) == answer.doit().round(PLACES))
        except Exception:  # a set, a relation or a symbol has no decimal places
            return False
    return bool(math_verify.verify(gold, answer, timeout_seconds=None))


def _is_lone_decimal(found: Any) -> bool:
    return bool(getattr(found, "is_Float", False))


def _exact(found: Any) -> Any:
    """The object with exact fractions in place of its decimals, otherwise built as it was."""
    from sympy import MatrixBase, Rational

    if getattr(found, "is_Float", False):
        value = Fraction(str(found))
        return Rational(value.numerator, value.denominator)
    if isinstance(found, MatrixBase):
        return found.applyfunc(_exact)
    parts = getattr(found, "_unsorted_args", None) or getattr(found, "args", ())
    if not parts or not found.atoms(_float()):
        return found
    inner = [_exact(part) for part in parts]
    keeps_form = found.is_Add or found.is_Mul or found.is_Pow or found.is_Relational
    return found.func(*inner, evaluate=False) if keeps_form else found.func(*inner)


def _float() -> Any:
    from sympy import Float

    return Float


@cache
def _latex2sympy() -> tuple[Any, Any, Any, Any]:
    """latex2sympy's normal form with its settings, its reader with numbers built here, and math-verify's
    test for complex numbers."""
    from latex2sympy2_extended.latex2sympy2 import _Latex2Sympy
    from latex2sympy2_extended.math_normalization import NormalizationConfig, normalize_latex
    from math_verify.grader import should_treat_as_complex

    class Reader(_Latex2Sympy):  # type: ignore[misc, unused-ignore]
        """latex2sympy's reader, which otherwise hands the digits of a number to sympy's evaluator."""

        def parse(self, latex_str: str) -> Any:
            grouped = _GROUPED.fullmatch(latex_str)
            if grouped is None:
                return super().parse(latex_str)
            digits = grouped[2]
            digits = digits.replace(",", ".", 1) if digits.startswith("0,") else digits.replace(",", "")
            return -_number(digits) if grouped[1] else _number(digits)

        def convert_exp(self, exp: Any) -> Any:
            # While reading: the ends of an interval are compared in value.
            found = super().convert_exp(exp)
            bits(found)
            return found

        def parse_number(self, text: str) -> Any:
            return _number(text.replace(",", ""))

    settings = NormalizationConfig(
        basic_latex=True, units=True, malformed_operators=True, nits=True, boxed="none", equations=False
    )
    return normalize_latex, settings, Reader, should_treat_as_complex


def _number(text: str) -> Any:
    """An integer or a decimal from its digits.

    Raises: ValueError, for anything else.
    """
    from sympy import Float, Integer, Rational

    if _NUMBER.fullmatch(text) is None:
        raise ValueError(f"no number: {text[:40]!r}")
    if text.isdigit():
        return Integer(int(text))
    value = Fraction(text)
    return Float(Rational(value.numerator, value.denominator), max(15, len(text)))
