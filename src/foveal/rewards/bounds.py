"""How large a value a formula can have, found from its form alone, so that no power tower is ever computed."""

from typing import Any

MAX_BITS = 20_000
"""Formulas whose value may need more bits are not read: arithmetic on them would cost time and memory."""

_SYMBOL_BITS = 1.0
"""What a symbol counts: an exponent that holds one is never computed."""


class TooLarge(ArithmeticError):
    """A formula whose value may need more than `MAX_BITS` bits."""


def bits(formula: Any) -> float:
    """An upper bound of log2 |value| of a sympy object that was built without evaluation.

    Raises: TooLarge, when it passes `MAX_BITS`.
    """
    found = _bits(formula)
    if found > MAX_BITS:
        raise TooLarge(f"a value of more than {MAX_BITS} bits")
    return found


def power_bits(base: float, exponent: float) -> float:
    """The bound of a power, from those of its base and its exponent.

    Raises: TooLarge, when it passes `MAX_BITS`.
    """
    if exponent > 32 or max(base, 1.0) * 2.0**exponent > MAX_BITS:
        raise TooLarge(f"a power of more than {MAX_BITS} bits")
    return max(base, 1.0) * 2.0**exponent


def factorial_bits(argument: float) -> float:
    """The bound of a factorial, from that of its argument.

    Raises: TooLarge, when it passes `MAX_BITS`.
    """
    return power_bits(argument, argument)


def _bits(formula: Any) -> float:
    if getattr(formula, "is_Rational", False):
        return float(max(abs(int(formula.p)).bit_length(), int(formula.q).bit_length()))
    if getattr(formula, "is_Float", False):
        return max(0.0, float(formula._mpf_[2]) + float(formula._mpf_[3]))
    parts = [bits(part) for part in getattr(formula, "args", ())]
    if not parts:
        return _SYMBOL_BITS
    if getattr(formula, "is_Pow", False):
        return power_bits(*parts)
    name = type(formula).__name__
    if name in {"factorial", "gamma", "binomial", "exp", "cosh", "sinh"}:
        return factorial_bits(max(parts))
    return sum(parts) + len(parts)
