"""How sure a measured mean is: bootstrap over problems, over seeds and problems, and a t-interval over seeds.

Pure numpy. Every random draw comes from a keyed generator, so that the same data and key give the same
interval.
"""

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import ArrayLike, NDArray

from foveal.keys import Key, generator
from foveal.spec import FovealError

LEVEL = 0.95
"""Coverage that intervals aim at unless told otherwise."""

Bounds = tuple[float, float]
"""The least and the largest value that a problem can have."""

FRACTION: Bounds = (0.0, 1.0)
CHANGE: Bounds = (-1.0, 1.0)
"""Bounds of a share of right completions, and of the difference of two."""

DRAWS = 2000
"""Bootstrap draws: the 2.5 % quantile then rests on 50 of them."""

SAME = 1e-12
"""Values of fractions that differ by less are one value."""

_CHUNK_ENTRIES = 2_000_000  # counts drawn at once; bounds memory, never the result
_QUANTILE_BOUND = 1e6  # beyond every t-quantile that is asked for; ends the bisection


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean with its interval. An interval without bounds (-inf, inf) says that the data carry none."""

    value: float
    low: float
    high: float
    count: int
    """Independent units behind it: problems, clusters of problems, or seeds."""

    @property
    def excludes_zero(self) -> bool:
        """Whether 0 lies outside the interval."""
        return self.low > 0 or self.high < 0

    def to_json(self) -> dict[str, float | int | None]:
        """Plain numbers; a missing bound is null."""
        return {
            "value": self.value,
            "low": _bounded(self.low),
            "high": _bounded(self.high),
            "count": self.count,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Estimate":
        """The inverse of `to_json`."""
        low, high = data.get("low"), data.get("high")
        return cls(
            value=float(data["value"]),
            low=-math.inf if low is None else float(low),
            high=math.inf if high is None else float(high),
            count=int(data["count"]),
        )


def avg_at_k(correct: Bool[np.ndarray, "n k"]) -> Float[np.ndarray, " n"]:
    """Mean correctness of k completions, for each of n problems: `avg@k[i] = sum_j correct[i, j] / k`.

    >>> avg_at_k(np.array([[True, False], [True, True]])).tolist()
    [0.5, 1.0]
    """
    values = np.asarray(correct, dtype=np.float64)
    if values.ndim != 2 or values.shape[1] == 0:
        raise FovealError(f"avg@k needs an array of problems by samples, got shape {values.shape}")
    per_problem: NDArray[np.float64] = values.mean(axis=1)
    return per_problem


def mean(
    values: ArrayLike,
    *,
    key: Key,
    clusters: Sequence[Hashable] | None = None,
    bounds: Bounds | None = None,
    level: float = LEVEL,
    draws: int = DRAWS,
) -> Estimate:
    """Mean over problems with a percentile-bootstrap interval.

    `value = sum_i x_i / n`; the interval is the (1 - level) / 2 and (1 + level) / 2 quantiles of that mean
    over
    `draws` resamples of the n problems with replacement. With `clusters` (one label a problem: versions of
    one question, say) whole clusters are resampled and a draw's mean is `sum of x / number of problems` in
    it. With a handful of problems the interval is too narrow.

    Where all n units have one value v the bootstrap has no spread, and the interval is exact instead: other
    values have a share of at most p = 1 - ((1 - level) / 2)^(1 / n), and lie within `bounds`, so that the
    mean is in [v - p (v - bounds[0]), v + p (bounds[1] - v)]. For 0 or n right answers of n this is the
    interval of Clopper and Pearson (Biometrika 26, 1934). Without `bounds` such data carry no interval.

    >>> none_right = mean([0.0] * 16, key=(), bounds=FRACTION)
    >>> none_right.low, round(none_right.high, 3)
    (0.0, 0.206)

    Raises: FovealError for no values, a value that is not finite or outside `bounds`, or labels that do not
    match.
    """
    x = _one_dimension(values)
    _require_within(x, bounds)
    sums, sizes = _by_cluster(x, clusters)
    if np.ptp(sums / sizes) < SAME:
        return _without_spread(float(x.mean()), len(sums), bounds=bounds, level=level)
    rng = generator("bootstrap", *key)
    totals = _resample(np.stack([sums, sizes]), rng=rng, draws=draws)
    low, high = _quantiles(totals[:, 0] / totals[:, 1], level=level)
    return Estimate(value=float(x.mean()), low=low, high=high, count=len(sums))


def difference(
    before: ArrayLike,
    after: ArrayLike,
    *,
    key: Key,
    clusters: Sequence[Hashable] | None = None,
    bounds: Bounds | None = None,
    level: float = LEVEL,
    draws: int = DRAWS,
) -> Estimate:
    """Paired difference `mean(after_i - before_i)` of two runs on the same problems, in the same order.

    Problems are resampled as pairs, so what makes a problem hard for both runs does not widen the interval.
    It speaks of these two trained models; what another seed would give is in `two_level` and `over_seeds`.
    """
    a, b = _one_dimension(before), _one_dimension(after)
    if a.shape != b.shape:
        raise FovealError(
            f"a paired difference needs the same problems twice, got {a.size} and {b.size} values"
        )
    return mean(b - a, key=key, clusters=clusters, bounds=bounds, level=level, draws=draws)


def two_level(
    values: ArrayLike,
    *,
    key: Key,
    clusters: Sequence[Hashable] | None = None,
    level: float = LEVEL,
    draws: int = DRAWS,
) -> Estimate:
    """Mean of a (seeds, problems) table with a bootstrap over both: seeds and problems are each resampled.

    A draw takes S seeds and n problems (or clusters of them, as in `mean`) with replacement and averages the
    table over that grid (the same problems in every seed: problems are crossed with seeds, not nested in
    them). `count` is the number of
    seeds. With few seeds the interval is too narrow (two seeds can only be drawn in three ways): read it
    beside `over_seeds`. One seed carries no interval, and neither does a table of equal values.
    """
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 2 or x.size == 0 or not np.isfinite(x).all():
        raise FovealError(
            f"a two-level bootstrap needs finite values of seeds by problems, got shape {x.shape}"
        )
    seeds = len(x)
    if seeds == 1 or np.ptp(x) < SAME:
        return Estimate(value=float(x.mean()), low=-math.inf, high=math.inf, count=seeds)
    rng = generator("bootstrap two-level", *key)
    weights = rng.multinomial(seeds, np.full(seeds, 1.0 / seeds), size=draws) / seeds
    columns = [_by_cluster(row, clusters) for row in x]
    totals = _resample(np.stack([*(sums for sums, _ in columns), columns[0][1]]), rng=rng, draws=draws)
    by_seed = totals[:, :-1] / totals[:, -1:]
    means = (weights * by_seed).sum(axis=1)
    low, high = _quantiles(means, level=level)
    return Estimate(value=float(x.mean()), low=low, high=high, count=seeds)


def over_seeds(values: ArrayLike, *, level: float = LEVEL) -> Estimate:
    """Mean over S seeds with Student's interval `mean +- t(S - 1) * s / sqrt(S)`.

    `s` is the standard deviation with S - 1 in the denominator. The only interval here that is honest for two
    to five seeds. One seed carries no interval, and neither do seeds of exactly one value.

    >>> e = over_seeds([1.0, 2.0, 3.0])
    >>> round(e.low, 3), round(e.high, 3)
    (-0.484, 4.484)
    """
    x = _one_dimension(values)
    if np.ptp(x) < SAME:
        return Estimate(value=float(x.mean()), low=-math.inf, high=math.inf, count=int(x.size))
    half = t_quantile(0.5 + level / 2, x.size - 1) * float(x.std(ddof=1)) / math.sqrt(x.size)
    return Estimate(
        value=float(x.mean()), low=float(x.mean()) - half, high=float(x.mean()) + half, count=int(x.size)
    )


def exact_share(successes: int, trials: int, *, level: float = LEVEL) -> Estimate:
    """Share of successes with the exact (Clopper-Pearson) interval: every share whose two-sided binomial test
    does not reject what was seen.

    >>> e = exact_share(0, 8)
    >>> e.value, e.low, round(e.high, 4)
    (0.0, 0.0, 0.3694)

    Raises: FovealError for no trials or an impossible number of successes.
    """
    if trials < 1 or not 0 <= successes <= trials:
        raise FovealError(f"a share needs 0 <= successes <= trials and a trial, got {successes} of {trials}")
    tail = (1 - level) / 2

    def at_least(share: float, least: int) -> float:
        return sum(
            math.comb(trials, k) * share**k * (1 - share) ** (trials - k) for k in range(least, trials + 1)
        )

    low = _crossing(lambda p: at_least(p, successes), tail) if successes else 0.0
    high = _crossing(lambda p: at_least(p, successes + 1), 1 - tail) if successes < trials else 1.0
    return Estimate(value=successes / trials, low=low, high=high, count=trials)


def _crossing(rising: Callable[[float], float], wanted: float) -> float:
    """Where a function that rises from 0 to 1 on [0, 1] takes a value."""
    low, high = 0.0, 1.0
    while high - low > 1e-12:
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) < wanted else (low, middle)
    return (low + high) / 2


def t_quantile(probability: float, degrees: int) -> float:
    """Quantile of Student's t with a whole number of degrees of freedom, by bisection of its closed form.

    Source: Abramowitz and Stegun 26.7.3 and 26.7.4.
    """
    if not 0.5 <= probability < 1 or degrees < 1:
        raise FovealError(
            f"a t-quantile needs 0.5 <= p < 1 and degrees >= 1, got {probability} and {degrees}"
        )
    low, high = 0.0, _QUANTILE_BOUND
    while high - low > 1e-12 * (1 + high):
        middle = (low + high) / 2
        if _t_below(middle, degrees) < probability:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _t_below(t: float, degrees: int) -> float:
    """P(T <= t) for t >= 0."""
    angle = math.atan(t / math.sqrt(degrees))
    cosine, sine = math.cos(angle), math.sin(angle)
    odd = degrees % 2 == 1
    term = cosine if odd else 1.0
    total = term if not odd or degrees > 1 else 0.0
    for j in range(3 if odd else 2, degrees - 1, 2):
        term *= cosine**2 * (j - 1) / j
        total += term
    central = 2 / math.pi * (angle + sine * total) if odd else sine * total
    return 0.5 + central / 2


def _one_dimension(values: ArrayLike) -> NDArray[np.float64]:
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1 or x.size == 0 or not np.isfinite(x).all():
        raise FovealError(f"a mean needs a non-empty list of finite numbers, got shape {x.shape}")
    return x


def _by_cluster(
    x: NDArray[np.float64], clusters: Sequence[Hashable] | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sum and size of each cluster; every value is its own cluster by default."""
    if clusters is None:
        return x, np.ones_like(x)
    if len(clusters) != x.size:
        raise FovealError(f"{len(clusters)} cluster labels for {x.size} values; give one label a problem")
    number = {label: i for i, label in enumerate(dict.fromkeys(clusters))}
    where = np.array([number[label] for label in clusters])
    return np.bincount(where, weights=x).astype(np.float64), np.bincount(where).astype(np.float64)


def _resample(columns: NDArray[np.float64], *, rng: np.random.Generator, draws: int) -> NDArray[np.float64]:
    """(draws, rows): sums over n columns drawn with replacement from the n columns of `columns`.

    How often each DISTINCT column is drawn is multinomial, so right-or-wrong answers cost a few numbers a
    draw rather than n, and the result does not depend on the order of the problems.
    """
    distinct, counts = np.unique(columns, axis=1, return_counts=True)
    units, width = int(counts.sum()), len(counts)
    totals = np.empty((draws, len(columns)))
    step = max(1, _CHUNK_ENTRIES // width)
    for start in range(0, draws, step):
        rows = slice(start, min(start + step, draws))
        drawn = rng.multinomial(units, counts / units, size=rows.stop - start)
        totals[rows] = drawn @ distinct.T
    return totals


def _without_spread(value: float, units: int, *, bounds: Bounds | None, level: float) -> Estimate:
    """The exact interval where every unit has the same value; see `mean`."""
    if bounds is None:
        return Estimate(value=value, low=-math.inf, high=math.inf, count=units)
    other = 1.0 - ((1.0 - level) / 2) ** (1.0 / units)
    return Estimate(
        value=value,
        low=value - other * (value - bounds[0]),
        high=value + other * (bounds[1] - value),
        count=units,
    )


def _require_within(values: NDArray[np.float64], bounds: Bounds | None) -> None:
    if bounds is not None and (values.min() < bounds[0] - SAME or values.max() > bounds[1] + SAME):
        raise FovealError(
            f"values from {values.min():g} to {values.max():g} do not lie within bounds = {bounds}; give the "
            f"bounds of this quantity, or None"
        )


def _quantiles(means: NDArray[np.float64], *, level: float) -> tuple[float, float]:
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _bounded(bound: float) -> float | None:
    return bound if math.isfinite(bound) else None
