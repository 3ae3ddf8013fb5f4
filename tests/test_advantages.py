import doctest
import math
import statistics

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

import foveal.advantages
from foveal.advantages import broadcast, group_centred, group_moments, group_normalised

BOTH = pytest.mark.parametrize("estimator", [group_normalised, group_centred])


@st.composite
def groups_of_rewards(draw: st.DrawFn) -> tuple[list[float], list[int]]:
    """Groups of 1 to 9 completions, rows in any order, labels with gaps."""
    sizes = draw(st.lists(st.integers(1, 9), min_size=1, max_size=5))
    labels = draw(st.permutations([7 * i - 3 for i, size in enumerate(sizes) for _ in range(size)]))
    rewards = draw(
        st.lists(st.sampled_from([0.0, 0.1, 0.9, 1.0, -0.5]), min_size=len(labels), max_size=len(labels))
    )
    return rewards, labels


def test_doctests_of_advantages_hold():
    result = doctest.testmod(foveal.advantages)
    assert result.attempted >= 2 and result.failed == 0


def test_group_normalised_by_hand():
    rewards = torch.tensor([1.0, 0.0, 5.0, 7.0, 9.0], dtype=torch.float64)
    found = group_normalised(rewards, torch.tensor([0, 0, 1, 1, 1]))
    first = 0.5 / (math.sqrt(0.5) + 1e-6)
    second = 2.0 / (2.0 + 1e-6)
    assert found.tolist() == pytest.approx([first, -first, -second, 0.0, second], abs=1e-15)


def test_group_centred_by_hand():
    found = group_centred(torch.tensor([1.0, 0.0, 5.0, 7.0]), torch.tensor([2, 2, 0, 0]))
    assert found.tolist() == [0.5, -0.5, -1.0, 1.0]


@settings(deadline=None, max_examples=100)
@given(groups_of_rewards())
def test_both_estimators_equal_a_loop_over_groups_in_any_order_of_rows(case):
    rewards, labels = case
    tensor, index = torch.tensor(rewards, dtype=torch.float64), torch.tensor(labels)
    normalised, centred = group_normalised(tensor, index).tolist(), group_centred(tensor, index).tolist()
    for row, (reward, label) in enumerate(zip(rewards, labels, strict=True)):
        own = [r for r, other in zip(rewards, labels, strict=True) if other == label]
        if len(set(own)) == 1:
            assert normalised[row] == 0.0 and centred[row] == 0.0
            continue
        gap = reward - statistics.fmean(own)
        assert centred[row] == pytest.approx(gap, abs=1e-12)
        assert normalised[row] == pytest.approx(gap / (statistics.stdev(own) + 1e-6), abs=1e-11)


@BOTH
@pytest.mark.parametrize("reward", [0.1, 0.9, 1 / 3, 1e6 + 0.1, -0.7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_group_of_equal_rewards_gets_exactly_zero(estimator, reward, dtype):
    """In float64 too a sum of equal numbers over their count is not always the number."""
    for size in range(1, 65):
        rewards = torch.full((size,), reward, dtype=dtype)
        assert estimator(rewards, torch.zeros(size, dtype=torch.long)).tolist() == [0.0] * size


@BOTH
def test_float32_rewards_get_float32_advantages_of_float64_statistics(estimator):
    rewards = torch.tensor([0.9, 0.1, 0.9, 0.9])
    index = torch.zeros(4, dtype=torch.long)
    found = estimator(rewards, index)
    assert found.dtype == torch.float32
    assert torch.equal(found, estimator(rewards.double(), index).float())


@BOTH
def test_a_nan_reward_stays_in_its_own_group(estimator):
    found = estimator(torch.tensor([float("nan"), 1.0, 1.0, 0.0]), torch.tensor([0, 0, 1, 1]))
    assert found[:2].isnan().all() and found[2:].isfinite().all()


def test_group_moments_by_hand():
    found = group_moments(torch.tensor([1.0, 3.0, 4.0]), torch.tensor([5, 5, 2]))
    assert found.size.tolist() == [2, 2, 1] and found.mean.tolist() == [2, 2, 4]
    assert found.std.tolist() == pytest.approx([math.sqrt(2), math.sqrt(2), 0.0])
    assert found.equal.tolist() == [False, False, True]


def test_broadcast_fills_the_mask_and_nothing_else():
    mask = torch.tensor([[True, True, False], [False, False, False]])
    assert broadcast(torch.tensor([2.0, float("nan")]), mask).tolist() == [[2.0, 2.0, 0.0], [0.0, 0.0, 0.0]]
