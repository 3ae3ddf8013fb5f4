"""Medians with intervals, bars, and the ratio of two commands."""

import json
import sys
from itertools import combinations_with_replacement
from pathlib import Path

import compare
import pytest
import scaling
from spread import Spread, chance, spread, verdict


def test_five_runs_span_their_whole_range() -> None:
    found = spread([5.0, 1.0, 4.0, 2.0, 3.0])
    assert (found.median, found.low, found.high, found.runs) == (3.0, 1.0, 5.0, 5)
    assert found.chance == 1 - 2 / 32


def test_eight_runs_leave_out_the_outermost() -> None:
    found = spread([8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 100.0])
    assert (found.median, found.low, found.high) == (5.5, 3.0, 8.0)
    assert found.chance == 1 - 2 * (1 + 8) / 256


def test_one_run_says_nothing_of_the_median() -> None:
    assert spread([2.0]) == Spread(median=2.0, low=2.0, high=2.0, chance=0.0, runs=1)


@pytest.mark.parametrize(("n", "place"), [(3, 1), (5, 2), (6, 2)])
def test_the_chance_is_the_share_of_all_sign_patterns(n: int, place: int) -> None:
    # A run is below the true median or above it with equal chance; the interval misses it when fewer than
    # `place` runs lie on one side.
    patterns = [bin(code).count("1") for code in range(2**n)]
    assert chance(n, place) == sum(place <= above <= n - place for above in patterns) / 2**n


def test_intervals_of_any_size_hold_the_median_and_the_level_where_they_can() -> None:
    for n in range(1, 40):
        found = spread([float(i) for i in range(n)])
        assert found.low <= found.median <= found.high
        assert found.chance >= 0.9 or n < 5


@pytest.mark.parametrize(
    ("median", "said"),
    [(0.42, "met"), (0.43, "met within 10 %"), (0.461, "met within 10 %"), (0.463, "not met")],
)
def test_a_bar_is_met_up_to_a_tenth_above_it(median: float, said: str) -> None:
    assert verdict(spread([median]), 0.42) == said


def test_orders_do_not_matter() -> None:
    for values in combinations_with_replacement((1.0, 2.0, 5.0), 4):
        assert spread(values) == spread(values[::-1])


def printing(text: str) -> list[str]:
    return [sys.executable, "-S", "-c", f"print({text!r})"]


def test_compare_prints_each_ratio_to_the_last_command_its_interval_and_the_verdict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = printing('noise\n{"cpu_seconds_per_step": 2.0}')
    second = printing('{"cpu_seconds_per_step": 1}')
    peer = printing('{"older": 1}\n{"cpu_seconds_per_step": 5.0}\n')
    out = tmp_path / "ratio.json"
    words = ["--runs", "2", "--bar", "0.42", "0.19", "--json", str(out)]
    compare.main([*words, "--", *first, "---", *second, "---", *peer])
    line = json.loads(capsys.readouterr().out)
    two, one = line["commands"]
    assert two["ratio_median"] == two["ratio_low"] == two["ratio_high"] == 0.4
    assert (two["median"], line["peer"]["median"], line["runs"]) == (2.0, 5.0, 2)
    assert (two["bar"], two["verdict"]) == (0.42, "met")
    assert (one["ratio_median"], one["bar"], one["verdict"]) == (0.2, 0.19, "met within 10 %")
    assert (two["command"], one["command"], line["peer"]["command"]) == (first, second, peer)
    assert line["interval"].endswith("chance of 0.500")
    assert json.loads(out.read_text()) == line


def test_compare_without_a_bar_gives_no_verdict() -> None:
    args = compare.arguments(["--", "a", "---", "b", "x"])
    assert (args.ours, args.peer) == ([["a"]], ["b", "x"])
    assert "verdict" not in compare.result([[1.0, 2.0]], args)["commands"][0]


@pytest.mark.parametrize(
    "words", [["--", "a"], ["--", "a", "---"], ["--bar", "1", "2", "--", "a", "---", "b"], ["--runs", "0"]]
)
def test_compare_needs_two_commands_and_a_bar_for_each(words: list[str]) -> None:
    with pytest.raises(SystemExit):
        compare.arguments(words)


def test_a_command_that_prints_no_such_number_is_named() -> None:
    with pytest.raises(SystemExit, match=r"printed cpu_seconds_per_step = None; expected a number above 0"):
        compare.cost(printing('{"seconds": 1}'), "cpu_seconds_per_step")
    with pytest.raises(SystemExit, match="ended with 0 and no JSON line"):
        compare.cost(printing("nothing"), "cpu_seconds_per_step")


def test_a_straight_line_by_hand() -> None:
    found = scaling.line_through([1.0, 2.0, 3.0], [1.0, 2.0, 4.0])
    # b = 3/2, a = 7/3 - 3; residuals 1/6, -1/3, 1/6; variance of y 14/3 in all.
    assert found["b"] == pytest.approx(1.5)
    assert found["a"] == pytest.approx(-2 / 3)
    assert found["r2"] == pytest.approx(1 - (1 / 6) / (14 / 3))
    assert scaling.line_through([1.0, 2.0], [3.0, 3.0])["r2"] == 1.0
