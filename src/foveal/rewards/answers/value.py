"""What a formula is worth: exact fractions where it is rational, 60 digits where it is not.

Two formulas with letters are the same when they agree at five points, exactly or to 45 digits: polynomials
of the size that stands in an answer cannot agree there by chance.
"""

import importlib
import zlib
from collections.abc import Mapping
from fractions import Fraction
from functools import cache
from typing import Any

from foveal.rewards.answers.expression import Node

PRECISION_BITS = 220
MAX_BITS = 4000
"""Bits of an exact number; beyond it the rules do not decide."""
MAX_EXPONENT = 2000
MAX_ARGUMENT = 10_000
POINTS = 5

Number = Any
"""A Fraction, or a real or complex number of mpmath's."""


class TooHard(Exception):
    """A value that the rules do not compute: too large, or undefined."""


@cache
def _context() -> Any:
    """A context of its own, so that nobody else's precision matters; imported when first needed."""
    context = importlib.import_module("mpmath").MPContext()
    context.prec = PRECISION_BITS
    return context


def variables(node: Node) -> frozenset[str]:
    """Names of the letters, without the constants pi, e and i."""
    if node.op == "var":
        return frozenset() if node.name in ("pi", "e", "i") else frozenset((node.name,))
    return frozenset().union(*(variables(part) for part in node.args))


def uses(node: Node, op: str) -> bool:
    """Whether an operation stands anywhere in the formula."""
    return node.op == op or any(uses(part, op) for part in node.args)


def contains(node: Node, name: str) -> bool:
    """Whether a letter or constant stands anywhere in the formula."""
    return (node.op == "var" and node.name == name) or any(contains(part, name) for part in node.args)


def point(names: frozenset[str], index: int) -> dict[str, Fraction]:
    """Values for the letters, the same on every machine; each fifth of a kind is negative."""
    values = {}
    for name in names:
        hashed = zlib.crc32(f"{name}/{index}".encode())
        value = Fraction(hashed % 1999 + 350, 997)
        values[name] = -value if (hashed >> 12) % 3 == 0 else value
    return values


def evaluate(node: Node, at: Mapping[str, Fraction], *, natural_log: bool = True) -> Number:
    """The value with the letters set to `at`.

    Raises: TooHard.
    """
    try:
        return _value(node, at, natural_log)
    except (ZeroDivisionError, OverflowError, ValueError, ArithmeticError) as error:
        raise TooHard(str(error)) from error


def constant(node: Node) -> Number:
    """The value of a formula without letters.

    Raises: TooHard.
    """
    return evaluate(node, {})


def close(one: Number, two: Number) -> bool:
    """Whether two values are the same: exactly, or to 45 digits where one is irrational."""
    if isinstance(one, Fraction) and isinstance(two, Fraction):
        return one == two
    ctx = _context()
    one, two = _real(one), _real(two)
    size = max(abs(one), abs(two))
    if size < ctx.mpf(10) ** -40:
        return bool(abs(one - two) <= size * ctx.mpf(10) ** -15)
    return bool(abs(one - two) <= size * ctx.mpf(10) ** -45)


def as_real(value: Number) -> Number:
    """The value as a real number of 60 digits; TooHard for a complex one."""
    value = _real(value)
    imaginary = getattr(value, "imag", 0)
    if abs(imaginary) > abs(value) * _context().mpf(10) ** -45:
        raise TooHard("complex")
    return value.real


def as_fraction(value: Number) -> Fraction:
    """A real number of mpmath's as a fraction, to 200 binary places; TooHard for a complex one."""
    return Fraction(int(as_real(value) * 2**200), 2**200)


def same_formula(one: Node, two: Node) -> bool:
    """Whether two formulas are equal for all values of their letters.

    Raises: TooHard.
    """
    names = variables(one) | variables(two)
    bases = (True, False) if any(uses(part, "log") or uses(part, "lg") for part in (one, two)) else (True,)
    return any(_agree(one, two, names, natural) for natural in bases)


def _agree(one: Node, two: Node, names: frozenset[str], natural: bool) -> bool:
    done = 0
    for index in range(POINTS if names else 1):
        at = point(names, index)
        try:
            left = evaluate(one, at, natural_log=natural)
        except TooHard:
            if names:
                continue
            raise
        if not close(left, evaluate(two, at, natural_log=natural)):
            return False
        done += 1
    if not done:
        raise TooHard("undefined at every point")
    return True


def _real(value: Number) -> Number:
    if isinstance(value, Fraction):
        return _context().mpf(value.numerator) / value.denominator
    return value


def _bounded(value: Fraction) -> Fraction:
    if value.numerator.bit_length() > MAX_BITS or value.denominator.bit_length() > MAX_BITS:
        raise TooHard("too many digits")
    return value


def _value(node: Node, at: Mapping[str, Fraction], natural: bool) -> Number:
    op = node.op
    if op == "num":
        return node.value
    if op == "var":
        return _letter(node.name, at)
    args = [_value(part, at, natural) for part in node.args]
    if op in ("add", "mul", "div", "neg"):
        return _arithmetic(op, args)
    if op == "pow":
        return _power(args[0], args[1])
    if op == "root":
        return _root(args[0], args[1])
    if op == "abs":
        return abs(args[0])
    if op == "fact":
        return _factorial(args[0])
    return _function(op, args, natural)


def _letter(name: str, at: Mapping[str, Fraction]) -> Number:
    if name in at:
        return at[name]
    ctx = _context()
    if name == "pi":
        return +ctx.pi
    if name == "e":
        return +ctx.e
    if name == "i":
        return ctx.mpc(0, 1)
    raise TooHard(f"no value for {name}")


def _arithmetic(op: str, args: list[Number]) -> Number:
    if op == "neg":
        return -args[0]
    if not all(isinstance(part, Fraction) for part in args):
        args = [_real(part) for part in args]
    if op == "div":
        return args[0] / args[1]
    result = args[0]
    for part in args[1:]:
        result = result + part if op == "add" else result * part
    if op == "add" and not isinstance(result, Fraction):
        return _without_noise(result, max(abs(part) for part in args))
    return _bounded(result) if isinstance(result, Fraction) else result


def _power(base: Number, exponent: Number) -> Number:
    if isinstance(exponent, Fraction):
        if abs(exponent) > MAX_EXPONENT:
            raise TooHard("a large power")
        if isinstance(base, Fraction) and exponent.denominator == 1:
            bits = max(base.numerator.bit_length(), base.denominator.bit_length())
            if bits * abs(exponent.numerator) > MAX_BITS:
                raise TooHard("a large power")
            return base**exponent.numerator
        if base == 0:
            return Fraction(0)
        if exponent.denominator != 1 and isinstance(base, Fraction) and base > 0:
            root = _root(Fraction(exponent.denominator), base)
            return _power(root, Fraction(exponent.numerator))
    elif abs(exponent) > MAX_EXPONENT:
        raise TooHard("a large power")
    return _context().power(_real(base), _real(exponent))


def _root(index: Number, radicand: Number) -> Number:
    if not isinstance(index, Fraction) or index.denominator != 1 or not 1 <= index <= 100:
        raise TooHard("an odd root index")
    n = index.numerator
    if isinstance(radicand, Fraction) and radicand < 0 and n % 2:
        return -_root(index, -radicand)
    if isinstance(radicand, Fraction) and radicand >= 0:
        top, bottom = _whole_root(radicand.numerator, n), _whole_root(radicand.denominator, n)
        if top is not None and bottom is not None:
            return Fraction(top, bottom)
    ctx = _context()
    return ctx.sqrt(_real(radicand)) if n == 2 else ctx.root(_real(radicand), n)


def _whole_root(value: int, n: int) -> int | None:
    """The whole root of a natural number, where there is one."""
    low, high = 0, 1 << (value.bit_length() // n + 1)
    while low <= high:
        middle = (low + high) // 2
        power = middle**n
        if power == value:
            return middle
        low, high = (middle + 1, high) if power < value else (low, middle - 1)
    return None


def _factorial(value: Number) -> Number:
    if not isinstance(value, Fraction) or value.denominator != 1 or not 0 <= value <= 300:
        raise TooHard("a factorial of this")
    result = 1
    for factor in range(2, value.numerator + 1):
        result *= factor
    return _bounded(Fraction(result))


def _function(op: str, args: list[Number], natural: bool) -> Number:
    ctx = _context()
    numbers = [_real(part) for part in args]
    if any(abs(part) > MAX_ARGUMENT for part in numbers) and op not in ("ln", "log", "lg", "deg"):
        raise TooHard("a large argument")
    x = numbers[-1]
    if op == "deg":
        return x * ctx.pi / 180
    if op == "log" and len(numbers) == 2:
        return ctx.log(x) / ctx.log(numbers[0])
    if op == "lg" or (op == "log" and not natural):
        return ctx.log(x) / ctx.log(10)
    if op in ("ln", "log"):
        return ctx.log(x)
    return _without_noise(getattr(ctx, op)(x), ctx.mpf(1))


def _without_noise(value: Number, size: Number) -> Number:
    r"""Exact zero in place of what rounding leaves of it: `\sin \pi`, `\sqrt{2}\sqrt{2}-2`."""
    return Fraction(0) if abs(value) <= size * _context().mpf(10) ** -55 else value
