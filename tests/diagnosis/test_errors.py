"""Shares and flows of error kinds by hand."""

import pytest

from foveal.diagnosis.errors import add_flows, flows, ordered, shares
from foveal.spec import FovealError


def test_shares_are_of_all_completions_and_sum_to_one() -> None:
    found = shares(["correct", "perception", "reasoning", "perception"])
    assert found == {"correct": 0.25, "perception": 0.5, "reasoning": 0.25}
    assert shares([]) == {}


def test_flows_count_pairs() -> None:
    found = flows(["perception", "perception", "correct"], ["correct", "perception", "correct"])
    assert found == {"correct": {"correct": 1}, "perception": {"correct": 1, "perception": 1}}


def test_flows_need_pairs() -> None:
    with pytest.raises(FovealError, match="got 1 and 2"):
        flows(["correct"], ["correct", "correct"])


def test_added_flows_are_sums() -> None:
    one, two = (
        {"perception": {"correct": 2}},
        {"perception": {"correct": 1, "format": 4}, "correct": {"correct": 3}},
    )
    assert add_flows([one, two]) == {"correct": {"correct": 3}, "perception": {"correct": 3, "format": 4}}


def test_known_kinds_come_first_and_unknown_ones_are_kept() -> None:
    assert ordered(["zebra", "format", "correct", "ape"]) == ["correct", "format", "ape", "zebra"]
