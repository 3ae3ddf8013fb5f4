r"""Formulas of a completion: which are read, what they become, and that hostile ones cost nothing."""

import time
from fractions import Fraction

import pytest
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st

from foveal.rewards.bounds import TooLarge, bits
from foveal.rewards.latex import COMMANDS, MAX_DIGITS, MAX_LENGTH, MAX_NESTING, allowed, parse, same

X = sympy.Symbol("x", real=True)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("12", sympy.Integer(12)),
        ("1,234", sympy.Integer(1234)),
        ("-1,234.5", sympy.Float("-1234.5")),
        ("0.5", sympy.Rational(1, 2)),  # latex2sympy's own normal form
        ("0.25", sympy.Float("0.25")),
        ("0.25x", X / 4),
        (r"\frac{2}{4}", sympy.Rational(1, 2)),
        (r"\dfrac12", sympy.Rational(1, 2)),
        (r"7\frac{3}{4}", sympy.Rational(31, 4)),
        (r"\text{yes}", sympy.Symbol("yes", real=True)),
        (r"x_{10}", sympy.Symbol("x_{10}", real=True)),
    ],
)
def test_formulas_are_read_with_numbers_from_their_digits(text: str, wanted: sympy.Basic) -> None:
    assert parse(text) == wanted


@pytest.mark.parametrize(
    "text",
    [
        r"\sum_{n=0}^{3} n", r"\prod_{n=1}^{3} n", r"\int_0^1 x dx", r"\lim_{x\to0} x", r"\gcd(4,6)",
        r"\det A", r"\operatorname{rank}(A)", r"\variable{x}", r"\text{a.b}", r"\text{a[0]}",
        r"\text{__x__}", r"\mathrm{a(b)}", r"\text{a;b}", r"x_{a.b}", r"x_{\text{a}}", "x@y", "x#y",
        "x`y`", "x?y", "x~y", "é", "１", "x\x00y", r"\input{x}", r"\write18{x}", r"\unknown", "\\", "x__y",
        r"x_{1}_{2}", r"\textbackslash{}137",
    ],
)  # fmt: skip
def test_what_is_not_on_the_list_is_not_read(text: str) -> None:
    assert parse(text) is None


def test_sizes_are_limited() -> None:
    assert allowed("x" * MAX_LENGTH) and not allowed("x" * (MAX_LENGTH + 1))
    assert allowed("9" * MAX_DIGITS) and not allowed("9" * (MAX_DIGITS + 1))
    assert allowed("(" * MAX_NESTING + "x" + ")" * MAX_NESTING) and not allowed("{" * (MAX_NESTING + 1))


@pytest.mark.parametrize(
    "text",
    [
        "9^{9^{9^{9}}}", "(2,9^{9^{9^{9}}})", "[9^{9^{9^{9}}},2]", r"\frac{9^{9^{9^9}}}{2}", "99!!!",
        "(99!)!", "9999!", r"\Gamma(999999)", r"\binom{99999}{5000}", "2^{2^{2^{2^{2}}}}",
        r"e^{e^{e^{e^{9}}}}", "x^{999}", r"\pi^{\pi^{\pi^\pi}}", r"\{9^{9^{9^9}},1\}", "x=9^{9^{9^9}}",
        "1<9^{9^{9^9}}", r"\begin{pmatrix}9^{9^{9^9}}&1\\2&3\end{pmatrix}", r"\max(9^{9^{9^9}},1)",
        "((((((((((((9)^9)^9)^9)^9)^9)^9)^9)^9)^9)^9)^9)", r"\log_{9^{9^{9^9}}} 2",
    ],
)  # fmt: skip
def test_towers_are_refused_before_anything_is_computed(text: str) -> None:
    parse("x+1")  # loads the grammar
    start = time.process_time()
    assert parse(text) is None
    assert time.process_time() - start < 2.0


@pytest.mark.parametrize(
    ("one", "two", "wanted"),
    [
        ("x+1", "1+x", True),
        ("x+1", "x+2", False),
        ("0.1x+0.2x", "0.3x", True),
        (r"2\sqrt{3}", "3.464102", True),
        (r"2\sqrt{3}", "3.4641", False),
        ("0.333333", r"\frac13", True),
        ("0.25", "x", False),
        ("0.25", r"\{1,2\}", False),
        (r"\{1,2\}", r"\{2,1\}", True),
        ("(1,2]", "(1,2)", False),
        (r"12.5\%", "0.125", True),
    ],
)
def test_two_formulas_are_compared_by_value(one: str, two: str, wanted: bool) -> None:
    left, right = parse(one), parse(two)
    assert left is not None and right is not None
    assert same(left, right) is wanted and same(right, left) is wanted


def test_the_bound_of_a_value_is_found_without_it() -> None:
    two = sympy.Integer(2)
    assert bits(sympy.Rational(1, 1000)) == 10.0 and bits(sympy.Integer(0)) <= 1.0
    assert bits(sympy.sqrt(2)) < 10.0 and bits(sympy.Pow(2, sympy.Rational(1, 2**40))) < 10.0
    assert bits(sympy.Pow(two, 1000, evaluate=False)) >= 1000.0
    for formula in (
        sympy.Pow(two, 5000, evaluate=False),
        sympy.Pow(two, sympy.Pow(two, 100, evaluate=False), evaluate=False),
        sympy.factorial(10**6, evaluate=False),
        sympy.Pow(X + 1, 200, evaluate=False),
    ):
        with pytest.raises(TooLarge):
            bits(formula)


@settings(max_examples=200, deadline=None)
@given(st.fractions(min_value=-(10**6), max_value=10**6, max_denominator=10**4))
def test_the_bound_holds_for_numbers(value: Fraction) -> None:
    number = sympy.Rational(value.numerator, value.denominator)
    assert abs(value) < 2 ** bits(number)


TOKENS = [f"\\{name}" for name in sorted(COMMANDS)] + list("0123456789xyz+-*/^_=<>(),|!{}[] ")


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(TOKENS), max_size=14).map("".join))
def test_any_list_of_tokens_is_read_or_refused_in_silence(text: str) -> None:
    parse(text)
