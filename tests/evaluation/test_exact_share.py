"""Shares with the interval of Clopper and Pearson."""

import math

import pytest

from foveal.evaluation.stats import exact_share
from foveal.spec import FovealError

TABLE = {
    (0, 8): (0.0, 0.3694),
    (1, 8): (0.0032, 0.5265),
    (4, 8): (0.1570, 0.8430),
    (7, 8): (0.4735, 0.9968),
    (8, 8): (0.6306, 1.0),
    (0, 6): (0.0, 0.4593),
    (1, 1): (0.025, 1.0),
}
"""(successes, trials) -> bounds, from tables of the beta distribution."""


@pytest.mark.parametrize(("seen", "bounds"), TABLE.items())
def test_bounds_are_those_of_the_tables(seen: tuple[int, int], bounds: tuple[float, float]) -> None:
    found = exact_share(*seen)
    assert (round(found.low, 4), round(found.high, 4)) == bounds
    assert found.value == seen[0] / seen[1] and found.count == seen[1]


def test_a_bound_is_where_the_tail_has_the_given_chance() -> None:
    found = exact_share(3, 10, level=0.9)

    def tail(share: float, counts: range) -> float:
        return sum(math.comb(10, k) * share**k * (1 - share) ** (10 - k) for k in counts)

    assert tail(found.low, range(3, 11)) == pytest.approx(0.05)
    assert tail(found.high, range(4)) == pytest.approx(0.05)


@pytest.mark.parametrize("seen", [(0, 0), (3, 2), (-1, 4)])
def test_impossible_counts_are_refused(seen: tuple[int, int]) -> None:
    with pytest.raises(FovealError, match="0 <= successes <= trials"):
        exact_share(*seen)
