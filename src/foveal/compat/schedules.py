"""PAPO's and verl's controller of the reference KL's coefficient."""

ERROR_LIMIT = 0.2
"""Largest relative error that one update of the adaptive controller reacts to."""


def adaptive_coefficient(coef: float, kl: float, *, target: float, horizon: float, steps: int) -> float:
    """The coefficient after one update: coef (1 + clip(kl / target - 1, +-0.2) steps / horizon).

    >>> adaptive_coefficient(1.0, 0.3, target=0.1, horizon=100.0, steps=10)
    1.02

    Source: arXiv:1909.08593 section 2.2, as in TRL, PAPO and verl. The library's coefficients are fixed or
    follow a schedule.
    """
    error = min(max(kl / target - 1, -ERROR_LIMIT), ERROR_LIMIT)
    return coef * (1 + error * steps / horizon)
