"""Intervals against hand numbers, an independent loop, and coverage on simulated data."""

import math

import numpy as np
import pytest

from foveal.evaluation import stats
from foveal.evaluation.stats import Estimate
from foveal.keys import generator
from foveal.spec import FovealError

KEY = (7,)


def test_avg_at_k_is_the_row_mean() -> None:
    correct = np.array([[True, True, False, False], [False, False, False, True]])
    assert stats.avg_at_k(correct).tolist() == [0.5, 0.25]


def test_mean_of_known_values() -> None:
    found = stats.mean([0.0, 1.0, 1.0, 0.0], key=KEY)
    assert found.value == 0.5 and found.count == 4
    assert found.low < 0.5 < found.high


def test_bootstrap_matches_the_normal_interval_for_many_problems() -> None:
    x = generator("normal").random(2000) < 0.3
    found = stats.mean(x, key=KEY, draws=4000)
    half = 1.96 * x.std() / math.sqrt(len(x))
    assert found.low == pytest.approx(x.mean() - half, abs=2e-3)
    assert found.high == pytest.approx(x.mean() + half, abs=2e-3)


def test_mean_equals_a_loop_over_resamples_of_each_problem() -> None:
    x = np.array([0.0, 2.0, 5.0, 2.0, 0.5])
    rng = generator("loop")
    means = [float(np.mean([x[i] for i in rng.integers(0, 5, size=5)])) for _ in range(20_000)]
    found = stats.mean(x, key=KEY, draws=20_000)
    assert found.low == pytest.approx(float(np.quantile(means, 0.025)), abs=0.05)
    assert found.high == pytest.approx(float(np.quantile(means, 0.975)), abs=0.05)


def test_order_of_the_problems_changes_nothing() -> None:
    x = generator("x").random(40)
    assert stats.mean(x[::-1], key=KEY).low == stats.mean(x, key=KEY).low


def test_same_key_same_interval_and_another_key_another() -> None:
    x = generator("x").random(40)
    assert stats.mean(x, key=KEY) == stats.mean(x, key=KEY)
    assert stats.mean(x, key=KEY) != stats.mean(x, key=(8,))


def test_chunks_do_not_change_the_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    x = generator("x").random(40)
    whole, grid = stats.mean(x, key=KEY), stats.two_level(x.reshape(4, 10), key=KEY)
    monkeypatch.setattr(stats, "_CHUNK_ENTRIES", 70)
    assert stats.mean(x, key=KEY) == whole
    assert stats.two_level(x.reshape(4, 10), key=KEY) == grid


def test_equal_values_of_no_known_bounds_carry_no_interval() -> None:
    assert stats.mean([0.25] * 9, key=KEY) == Estimate(value=0.25, low=-math.inf, high=math.inf, count=9)


@pytest.mark.parametrize("units", [1, 4, 16, 200])
def test_none_right_has_the_exact_binomial_interval(units: int) -> None:
    found = stats.mean([0.0] * units, key=KEY, bounds=stats.FRACTION)
    assert (found.value, found.low, found.count) == (0.0, 0.0, units)
    assert (1 - found.high) ** units == pytest.approx(0.025)  # at this share, none right has this chance
    mirrored = stats.mean([1.0] * units, key=KEY, bounds=stats.FRACTION)
    assert (mirrored.low, mirrored.high) == pytest.approx((1 - found.high, 1.0))


def test_equal_shares_that_are_neither_none_nor_all_lie_between_their_bounds() -> None:
    found = stats.mean([0.25] * 9, key=KEY, bounds=stats.FRACTION)
    other = 1 - 0.025 ** (1 / 9)
    assert (found.low, found.high) == pytest.approx((0.25 * (1 - other), 0.25 + 0.75 * other))


def test_values_outside_their_bounds_are_refused() -> None:
    with pytest.raises(FovealError, match="do not lie within bounds"):
        stats.mean([0.5, 2.0], key=KEY, bounds=stats.FRACTION)


def test_versions_of_one_question_count_once_where_nothing_was_right() -> None:
    labels = [n // 5 for n in range(20)]
    found = stats.mean([0.0] * 20, key=KEY, clusters=labels, bounds=stats.FRACTION)
    assert found.count == 4 and (1 - found.high) ** 4 == pytest.approx(0.025)


def test_two_levels_resample_versions_of_a_question_together() -> None:
    x = np.repeat(generator("t").integers(0, 2, size=(4, 40)), 5, axis=1).astype(float)
    labels = [n // 5 for n in range(200)]
    alone = stats.two_level(x, key=KEY)
    clustered = stats.two_level(x, key=KEY, clusters=labels)
    assert clustered.value == alone.value
    assert clustered.high - clustered.low > 1.3 * (alone.high - alone.low)
    assert stats.two_level(x, key=KEY, clusters=list(range(200))) == alone


def test_seeds_of_one_value_carry_no_interval() -> None:
    assert stats.over_seeds([0.5, 0.5, 0.5]).low == -math.inf
    assert stats.two_level(np.full((3, 4), 0.5), key=KEY).high == math.inf


def test_paired_difference_ignores_what_both_runs_share() -> None:
    hard = generator("hard").normal(size=400) * 10
    noise = generator("noise").normal(size=400)
    found = stats.difference(hard, hard + 0.5 + noise, key=KEY)
    assert found.high - found.low == pytest.approx(2 * 1.96 * noise.std() / math.sqrt(400), rel=0.1)
    assert found.low < 0.5 + noise.mean() < found.high and found.excludes_zero


def test_paired_difference_of_equal_runs_is_zero() -> None:
    found = stats.difference([1, 0, 1], [1, 0, 1], key=KEY, bounds=stats.CHANGE)
    other = 1 - 0.025 ** (1 / 3)
    assert (found.value, found.low, found.high) == pytest.approx((0, -other, other))
    assert not found.excludes_zero


def test_difference_is_after_minus_before() -> None:
    assert stats.difference([0, 0], [1, 1], key=KEY).value == 1


def test_clusters_widen_the_interval_of_repeated_problems() -> None:
    x = np.repeat(generator("c").integers(0, 2, size=50), 8).astype(float)
    labels = [i // 8 for i in range(400)]
    alone, clustered = stats.mean(x, key=KEY), stats.mean(x, key=KEY, clusters=labels)
    assert clustered.value == alone.value and clustered.count == 50
    ratio = (clustered.high - clustered.low) / (alone.high - alone.low)
    assert ratio == pytest.approx(math.sqrt(8), rel=0.15)


def test_singleton_clusters_change_nothing() -> None:
    x = generator("x").random(30)
    assert stats.mean(x, key=KEY, clusters=list(range(30))) == stats.mean(x, key=KEY)


def test_unequal_clusters_are_weighted_by_size() -> None:
    found = stats.mean([1, 1, 1, 0], key=KEY, clusters=["a", "a", "a", "b"], draws=400)
    assert found.value == 0.75 and (found.low, found.high) == (0, 1)


@pytest.mark.parametrize(
    ("p", "degrees", "table"),
    [(0.975, 1, 12.7062), (0.975, 2, 4.3027), (0.975, 3, 3.1824), (0.975, 5, 2.5706), (0.95, 10, 1.8125)],
)
def test_t_quantile_equals_the_printed_table(p: float, degrees: int, table: float) -> None:
    assert stats.t_quantile(p, degrees) == pytest.approx(table, abs=6e-5)


def test_t_quantile_tends_to_the_normal_one() -> None:
    assert stats.t_quantile(0.975, 100_000) == pytest.approx(1.95996, abs=1e-4)


def test_over_seeds_by_hand() -> None:
    found = stats.over_seeds([0.1, 0.2, 0.3])
    half = 4.302653 * 0.1 / math.sqrt(3)
    assert (found.value, found.low, found.high) == pytest.approx((0.2, 0.2 - half, 0.2 + half))


def test_one_seed_carries_no_interval() -> None:
    for found in (stats.over_seeds([0.3]), stats.two_level([[0.2, 0.4]], key=KEY)):
        assert found.value == pytest.approx(0.3)
        assert (found.low, found.high) == (-math.inf, math.inf) and not found.excludes_zero


def test_two_level_is_wider_than_problems_alone_when_seeds_differ() -> None:
    rng = generator("two")
    table = rng.normal(size=(6, 300)) + rng.normal(size=(6, 1))
    both = stats.two_level(table, key=KEY)
    alone = stats.mean(table.mean(axis=0), key=KEY)
    assert both.value == pytest.approx(alone.value) and both.count == 6
    assert both.high - both.low > 3 * (alone.high - alone.low)


def test_two_level_keeps_problems_crossed_with_seeds() -> None:
    # Equal rows: seeds add nothing, so the interval is that of the problems alone.
    row = generator("row").random(200)
    both = stats.two_level(np.stack([row] * 5), key=KEY)
    alone = stats.mean(row, key=KEY)
    assert both.high - both.low == pytest.approx(alone.high - alone.low, rel=0.1)


def test_bootstrap_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = generator("coverage")
    hits = 0
    for trial in range(400):
        found = stats.mean(rng.random(120) < 0.4, key=(trial,), draws=400)
        hits += found.low <= 0.4 <= found.high
    assert 0.91 <= hits / 400 <= 0.98


def test_t_interval_covers_the_truth_with_three_seeds() -> None:
    rng = generator("coverage t")
    found = [stats.over_seeds(rng.normal(size=3)) for _ in range(2000)]
    assert np.mean([e.low <= 0 <= e.high for e in found]) == pytest.approx(0.95, abs=0.015)


def test_two_level_covers_the_truth_with_many_seeds_and_too_rarely_with_three() -> None:
    def coverage(seeds: int) -> float:
        rng = generator("coverage two-level", seeds)
        hits = 0
        for trial in range(250):
            table = rng.normal(size=(seeds, 1)) + rng.normal(size=(1, 40)) + rng.normal(size=(seeds, 40))
            found = stats.two_level(table, key=(trial,), draws=300)
            hits += found.low <= 0 <= found.high
        return hits / 250

    assert coverage(20) >= 0.89
    assert coverage(3) < 0.87


def test_estimate_survives_json_with_and_without_bounds() -> None:
    for found in (Estimate(value=0.5, low=0.25, high=0.75, count=3), stats.over_seeds([0.3])):
        assert Estimate.from_json(found.to_json()) == found
    assert stats.over_seeds([0.3]).to_json()["low"] is None


@pytest.mark.parametrize("values", [[], [[1.0, 2.0]], [1.0, math.nan]])
def test_values_without_a_mean_are_refused(values: list[float]) -> None:
    with pytest.raises(FovealError, match="finite numbers"):
        stats.mean(values, key=KEY)


def test_unpaired_lengths_and_labels_are_refused() -> None:
    with pytest.raises(FovealError, match="same problems twice, got 2 and 1"):
        stats.difference([1, 0], [1], key=KEY)
    with pytest.raises(FovealError, match="1 cluster labels for 2 values"):
        stats.mean([1, 0], key=KEY, clusters=["a"])
