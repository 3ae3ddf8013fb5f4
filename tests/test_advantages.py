import doctest
import math
import statistics

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

import foveal.advantages
from foveal.advantages import (
    broadcast,
    discounted_returns,
    group_centred,
    group_moments,
    group_normalised,
    keeps_group,
    leave_one_out,
    on_last_token,
    reinforce_plus_plus,
    reinforce_plus_plus_baseline,
    whiten,
    zero_equal_groups,
)

GROUPED = pytest.mark.parametrize("estimator", [group_normalised, group_centred, leave_one_out])


@st.composite
def groups_of_rewards(draw: st.DrawFn) -> tuple[list[float], list[int]]:
    """Groups of 1 to 9 completions or one of up to 64, rows in any order, labels with gaps."""
    several, one = st.lists(st.integers(1, 9), min_size=1, max_size=5), st.integers(2, 64).map(lambda n: [n])
    sizes = draw(several | one)
    labels = draw(st.permutations([7 * i - 3 for i, size in enumerate(sizes) for _ in range(size)]))
    rewards = draw(
        st.lists(st.sampled_from([0.0, 0.1, 0.9, 1.0, -0.5]), min_size=len(labels), max_size=len(labels))
    )
    return rewards, labels


def test_doctests_of_advantages_hold():
    result = doctest.testmod(foveal.advantages)
    assert result.attempted >= 11 and result.failed == 0


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
def test_grouped_estimators_equal_a_loop_over_groups_in_any_order_of_rows(case):
    rewards, labels = case
    tensor, index = torch.tensor(rewards, dtype=torch.float64), torch.tensor(labels)
    normalised, centred = group_normalised(tensor, index).tolist(), group_centred(tensor, index).tolist()
    left_out = leave_one_out(tensor, index).tolist()
    for row, (reward, label) in enumerate(zip(rewards, labels, strict=True)):
        own = [r for r, other in zip(rewards, labels, strict=True) if other == label]
        if len(set(own)) == 1:
            assert normalised[row] == 0.0 and centred[row] == 0.0 and left_out[row] == 0.0
            continue
        gap = reward - statistics.fmean(own)
        others = (math.fsum(own) - reward) / (len(own) - 1)
        assert left_out[row] == pytest.approx(reward - others, abs=1e-12)
        assert centred[row] == pytest.approx(gap, abs=1e-12)
        assert normalised[row] == pytest.approx(gap / (statistics.stdev(own) + 1e-6), abs=1e-11)


@settings(deadline=None, max_examples=60)
@given(groups_of_rewards(), st.sampled_from([-3.0, 0.25, 10.0]))
def test_grouped_estimators_ignore_what_is_added_to_all_rewards(case, shift):
    rewards, index = torch.tensor(case[0], dtype=torch.float64), torch.tensor(case[1])
    for estimator in (group_normalised, group_centred, leave_one_out):
        moved = estimator(rewards + shift, index)
        assert torch.allclose(moved, estimator(rewards, index), rtol=0, atol=1e-9)


def test_leave_one_out_by_hand():
    found = leave_one_out(torch.tensor([6.0, 1.0, 2.0, 7.0]), torch.tensor([3, 3, 3, 0]))
    assert found.tolist() == [4.5, -3.0, -1.5, 0.0]


@GROUPED
@pytest.mark.parametrize("reward", [0.1, 0.9, 1 / 3, 1e6 + 0.1, -0.7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_group_of_equal_rewards_gets_exactly_zero(estimator, reward, dtype):
    """In float64 too a sum of equal numbers over their count is not always the number."""
    for size in range(1, 65):
        rewards = torch.full((size,), reward, dtype=dtype)
        assert estimator(rewards, torch.zeros(size, dtype=torch.long)).tolist() == [0.0] * size


@GROUPED
def test_float32_rewards_get_float32_advantages_of_float64_statistics(estimator):
    rewards = torch.tensor([0.9, 0.1, 0.9, 0.9])
    index = torch.zeros(4, dtype=torch.long)
    found = estimator(rewards, index)
    assert found.dtype == torch.float32
    assert torch.equal(found, estimator(rewards.double(), index).float())


@GROUPED
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


@st.composite
def ragged_rewards(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rewards, group labels and a mask with holes, empty rows and single tokens."""
    rewards, labels = draw(groups_of_rewards())
    width = draw(st.integers(1, 6))
    cells = draw(st.lists(st.booleans(), min_size=len(rewards) * width, max_size=len(rewards) * width))
    mask = torch.tensor(cells).view(len(rewards), width)
    return torch.tensor(rewards, dtype=torch.float64), torch.tensor(labels), mask


def test_reward_lies_on_the_last_token_of_the_mask():
    mask = torch.tensor([[True, True, False, False], [True, False, True, False], [False] * 4])
    found = on_last_token(torch.tensor([5.0, 7.0, float("nan")]), mask)
    assert found.tolist() == [[0.0, 5.0, 0.0, 0.0], [0.0, 0.0, 7.0, 0.0], [0.0] * 4]
    assert on_last_token(torch.tensor([1.0]), torch.zeros(1, 0, dtype=torch.bool)).shape == (1, 0)


def test_returns_by_hand_step_over_holes_and_never_see_what_lies_there():
    mask = torch.tensor([[True, False, True, True, False]])
    rewards = torch.tensor([[1.0, float("inf"), 2.0, 4.0, float("nan")]])
    assert discounted_returns(rewards, mask, gamma=0.5).tolist() == [[3.0, 0.0, 4.0, 4.0, 0.0]]


@settings(deadline=None, max_examples=60)
@given(ragged_rewards(), st.sampled_from([0.0, 0.9, 1.0]))
def test_reinforce_plus_plus_equals_a_loop(case, gamma):
    rewards, _, mask = case
    returns: dict[tuple[int, int], float] = {}
    for row, inside in enumerate(mask.tolist()):
        places = [t for t, on in enumerate(inside) if on]
        for steps, t in enumerate(reversed(places)):
            returns[row, t] = float(rewards[row]) * gamma**steps
    found = reinforce_plus_plus(rewards, mask, gamma=gamma)
    assert not found[~mask].any()
    values = list(returns.values())
    if len(set(values)) < 2:
        assert not found.any()
        return
    mean, deviation = statistics.fmean(values), math.sqrt(statistics.variance(values) + 1e-8)
    for (row, t), value in returns.items():
        assert float(found[row, t]) == pytest.approx((value - mean) / deviation, abs=1e-9)


@settings(deadline=None, max_examples=60)
@given(ragged_rewards())
def test_reinforce_plus_plus_baseline_equals_a_loop_and_is_zero_in_equal_groups(case):
    rewards, index, mask = case
    found = reinforce_plus_plus_baseline(rewards, index, mask)
    gaps, equal = [], []
    for reward, label in zip(rewards.tolist(), index.tolist(), strict=True):
        own = rewards[index == label].tolist()
        equal.append(len(set(own)) == 1)
        gaps.append(0.0 if equal[-1] else reward - statistics.fmean(own))
    lengths = mask.sum(-1).tolist()
    square = sum(n * gap**2 for n, gap in zip(lengths, gaps, strict=True)) / max(sum(lengths), 1)
    for row, gap in enumerate(gaps):
        wanted = gap / math.sqrt(square + 1e-8)
        assert found[row][mask[row]].tolist() == pytest.approx([wanted] * lengths[row], abs=1e-9)
        # A reward at the mean of unequal ones may be off it by rounding; equal ones may not.
        assert not equal[row] or not found[row].any()
    assert not found[~mask].any()


def test_reinforce_plus_plus_baseline_keeps_signs_and_a_mean_square_of_one():
    """Long wrong answers pull the batch's mean far down; subtracting it would turn a wrong one's sign."""
    mask = torch.arange(9) < torch.tensor([[9], [1], [1], [1], [9], [1]])
    rewards = torch.tensor([0.0, 1.0, 0.5, 0.6, 0.0, 1.0], dtype=torch.float64)
    found = reinforce_plus_plus_baseline(rewards, torch.tensor([0, 0, 1, 1, 2, 2]), mask)
    assert found[:, 0].sign().tolist() == [-1, 1, -1, 1, -1, 1]
    assert float(found[mask].square().mean()) == pytest.approx(1.0, abs=1e-6)


def test_baseline_of_the_batch_leaves_an_equal_group_a_signal_that_can_be_taken_away():
    mask, rewards = torch.ones(4, 2).bool(), torch.tensor([1.0, 1.0, 0.0, 0.5])
    index = torch.tensor([0, 0, 1, 1])
    found = reinforce_plus_plus(rewards, mask)
    assert (found[:2] > 0).all()
    cleared = zero_equal_groups(found, rewards, index)
    assert cleared[:2].tolist() == [[0.0, 0.0], [0.0, 0.0]] and torch.equal(cleared[2:], found[2:])


def test_whiten_by_hand():
    mask = torch.tensor([[True, True, False], [True, False, False]])
    values = torch.tensor([[1.0, 2.0, float("nan")], [6.0, 50.0, 50.0]], dtype=torch.float64)
    scale = math.sqrt(7.0 + 1e-8)
    found = whiten(values, mask).tolist()
    assert found[0] == pytest.approx([-2 / scale, -1 / scale, 0.0], abs=1e-15)
    assert found[1] == pytest.approx([3 / scale, 0.0, 0.0], abs=1e-15)


@pytest.mark.parametrize("value", [0.1, 0.9, 1 / 3, 1e6 + 0.1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_batch_of_equal_values_is_whitened_to_exactly_zero(value, dtype):
    for size in range(0, 65):
        values = torch.full((1, 65), value, dtype=dtype)
        assert not whiten(values, torch.arange(65).unsqueeze(0) < size).any()


def test_whiten_of_a_nan_is_nan_everywhere_on_the_mask_and_keeps_the_dtype():
    mask = torch.tensor([[True, True, True, False]])
    found = whiten(torch.tensor([[1.0, float("nan"), 3.0, 9.0]]), mask)
    assert found.dtype == torch.float32
    assert found[mask].isnan().all() and found[0, 3] == 0.0


@settings(deadline=None, max_examples=60)
@given(ragged_rewards(), st.randoms(use_true_random=False))
def test_batch_estimators_follow_the_order_of_rows(case, shuffle):
    rewards, index, mask = case
    order = list(range(len(rewards)))
    shuffle.shuffle(order)
    pairs = [
        (reinforce_plus_plus(rewards, mask)[order], reinforce_plus_plus(rewards[order], mask[order])),
        (
            reinforce_plus_plus_baseline(rewards, index, mask)[order],
            reinforce_plus_plus_baseline(rewards[order], index[order], mask[order]),
        ),
    ]
    for found, wanted in pairs:
        assert torch.allclose(found, wanted, rtol=0, atol=1e-9)


def test_bounds_of_dynamic_sampling_are_strict():
    assert keeps_group([0.0, 1.0], low=0.0, high=1.0)
    assert not keeps_group([1.0, 1.0], low=0.0, high=1.0)
    assert not keeps_group([0.0, 0.0], low=0.0, high=1.0)
    assert not keeps_group([float("nan"), 1.0], low=0.0, high=1.0)
