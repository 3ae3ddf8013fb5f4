"""How large the value of a formula can be, found from its form: no power tower is ever computed."""

from typing import Any

MAX_BITS = 4096
"""Formulas whose value may need more bits are not read: arithmetic on them would cost time and memory."""
MAX_SYMBOLIC_EXPONENT_BITS = 7
"""Sums may be raised to exponents below 128: expanding costs more than the numbers say."""

_ATOM_BITS = 2.0
"""What a symbol or a constant like pi counts."""
_FAST_GROWING = frozenset(("factorial", "factorial2", "gamma", "binomial", "exp", "cosh", "sinh"))


class TooLarge(ArithmeticError):
    """A formula whose value may need more than `MAX_BITS` bits."""


def bits(formula: Any) -> float:
    """An upper bound of the bits that the value of a sympy object needs; nothing is evaluated.

    Raises: TooLarge, when it passes `MAX_BITS`.
    """
    found = _bits(formula)
    if found > MAX_BITS:
        raise TooLarge(f"a value of more than {MAX_BITS} bits")
    return found


def power_bits(base: Any, exponent: Any) -> float:
    """The bound of a power of two sympy objects.

    Raises: TooLarge, when it passes `MAX_BITS`, or when the exponent of a formula with symbols is too high.
    """
    if _has_symbols(exponent):
        return bits(base) + bits(exponent)  # stays as it is
    height = _height(exponent)
    if _has_symbols(base) and height > MAX_SYMBOLIC_EXPONENT_BITS:
        raise TooLarge("a formula to a power of more than 127")
    return _grown(bits(base), height)


def factorial_bits(argument: Any) -> float:
    """The bound of a factorial, or of another function that grows as fast, of a sympy object.

    Raises: TooLarge, when it passes `MAX_BITS`.
    """
    height = _height(argument)
    return height if _has_symbols(argument) else _grown(height, height)


def _has_symbols(formula: Any) -> bool:
    return bool(getattr(formula, "free_symbols", None))


def _grown(size: float, height: float) -> float:
    """Bits of a value of `size` bits to a power of `height` bits."""
    if height > 16 or max(size, 1.0) * 2.0**height > MAX_BITS:
        raise TooLarge(f"a power of more than {MAX_BITS} bits")
    return max(size, 1.0) * float(2.0**height)


def _height(formula: Any) -> float:
    """Bits of the whole part of the value: a root's exponent counts little, whatever its denominator."""
    if getattr(formula, "is_Rational", False):
        return max(0.0, float(int(formula.p).bit_length() - int(formula.q).bit_length() + 1))
    return bits(formula)


def _bits(formula: Any) -> float:
    if getattr(formula, "is_Rational", False):
        return float(max(abs(int(formula.p)).bit_length(), int(formula.q).bit_length()))
    if getattr(formula, "is_Float", False):
        return float(abs(formula._mpf_[2]) + formula._mpf_[3])
    parts = getattr(formula, "args", ())
    if not parts:
        return _ATOM_BITS
    if getattr(formula, "is_Pow", False):
        return power_bits(*parts)
    if type(formula).__name__ in _FAST_GROWING:
        return max(factorial_bits(part) for part in parts)
    return sum(bits(part) for part in parts) + len(parts)
