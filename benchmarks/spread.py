"""A median with an interval that assumes no distribution, and whether a bar is met."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from math import comb

LEVEL = 0.9
"""Least chance of the interval to hold the true median, where there are runs enough (5)."""

NEAR = 1.1
"""A median this far above a bar still meets it, with the interval shown: single runs are no better."""


@dataclass(frozen=True, kw_only=True)
class Spread:
    """The median of independent runs, and the order statistics around it."""

    median: float
    low: float
    high: float
    chance: float
    """Chance that the interval holds the true median: 1 - 2 sum_{i<k} C(n, i) / 2^n for the k-th smallest to
    the k-th largest of n."""
    runs: int

    def __str__(self) -> str:
        return (
            f"{self.median:.4g} [{self.low:.4g}, {self.high:.4g}] "
            f"({100 * self.chance:.0f} % interval of the median of {self.runs})"
        )


def spread(values: Sequence[float]) -> Spread:
    """The narrowest pair of order statistics that holds the true median with a chance of LEVEL; the least and
    the largest value where no pair does."""
    ordered, n = sorted(values), len(values)
    place = 1
    while place + 1 <= (n + 1) // 2 and chance(n, place + 1) >= LEVEL:
        place += 1
    return Spread(
        median=statistics.median(ordered),
        low=ordered[place - 1],
        high=ordered[n - place],
        chance=chance(n, place),
        runs=n,
    )


def chance(n: int, place: int) -> float:
    """Chance that the true median lies between the `place`-th smallest and largest of n values."""
    return max(0.0, 1 - 2 * sum(comb(n, i) for i in range(place)) / 2**n)


def verdict(found: Spread, bar: float) -> str:
    """Whether the median is at most the bar, or at most a tenth above it."""
    if found.median <= bar:
        return "met"
    return "met within 10 %" if found.median <= NEAR * bar else "not met"
