"""Estimators of the official codes, by hand and against loops; where they differ from the library's."""

import math
import statistics

import pytest
import torch

from foveal.advantages import (
    discounted_returns,
    group_centred,
    group_normalised,
    leave_one_out,
    reinforce_plus_plus_baseline,
)
from foveal.compat.advantages import (
    opo,
    papo_gae,
    papo_reinforce_plus_plus,
    pass_at_k,
    remax,
    verl_gae,
    verl_gpg_advantage,
    verl_group_normalised,
    verl_group_vectorised,
    verl_leave_one_out,
    verl_reinforce_plus_plus,
    verl_reinforce_plus_plus_baseline,
    verl_remax,
)
from foveal.spec import FovealError

SCORES = torch.tensor([1.0, 0.0, 0.25, 0.5, 5.0], dtype=torch.float64)
GROUPS = torch.tensor([3, 3, 3, 9, 9])
ALONE = torch.tensor([3, 3, 3, 9, 4])
HOLES = torch.tensor([[True, False, True, True, False], [True, True, False, False, False]])
REWARDS = torch.tensor([[1.0, 9.0, 2.0, 4.0, 0.0], [0.0, 3.0, 0.0, 0.0, 0.0]], dtype=torch.float64)


def test_verl_differs_from_the_library_in_groups_of_one_alone():
    pairs = [
        (verl_group_normalised(SCORES, ALONE), group_normalised(SCORES, ALONE)),
        (verl_group_normalised(SCORES, ALONE, divide=False), group_centred(SCORES, ALONE)),
        (verl_leave_one_out(SCORES, ALONE), leave_one_out(SCORES, ALONE)),
    ]
    for official, own in pairs:
        assert torch.allclose(official[:3], own[:3], rtol=1e-12)
        assert official[3:].tolist() == pytest.approx([0.5, 5.0], rel=2e-6)
        assert own[3:].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("divide", [True, False])
def test_vectorised_statistics_are_the_plain_ones_to_single_precision(divide):
    found = verl_group_vectorised(SCORES, ALONE, divide=divide)
    wanted = verl_group_normalised(SCORES, ALONE, divide=divide)
    assert found.tolist() == pytest.approx(wanted.tolist(), abs=2e-6)


def test_vectorised_statistics_floor_the_variance():
    scores = torch.tensor([0.5, 0.5001], dtype=torch.float64)
    found = verl_group_vectorised(scores, torch.tensor([0, 0]))
    assert found[1].item() == pytest.approx(0.00005 / (1e-3 + 1e-6), rel=1e-3)
    assert verl_group_normalised(scores, torch.tensor([0, 0]))[1].item() > 0.6


def test_opo_baseline_is_weighted_by_length():
    mask = torch.arange(4) < torch.tensor([[4], [1], [3], [2], [2]])
    found = opo(SCORES, ALONE, mask)
    baseline = (4 * 1.0 + 1 * 0.0 + 3 * 0.25) / 8
    assert found.tolist() == pytest.approx([1 - baseline, -baseline, 0.25 - baseline, 0.5, 5.0])


def test_pass_at_k_pays_the_best_alone_and_nothing_among_equals():
    found = pass_at_k(SCORES, GROUPS, divide=False)
    assert found.tolist() == [0.75, 0.0, 0.0, 0.0, 4.5]
    std = statistics.stdev([1.0, 0.0, 0.25])
    assert pass_at_k(SCORES, GROUPS)[0].item() == pytest.approx(0.75 / (std + 1e-6))
    assert not pass_at_k(torch.ones(4), torch.tensor([1, 1, 1, 1])).any()
    with pytest.raises(FovealError, match="group 9 has 1; sample at least 2"):
        pass_at_k(SCORES[:4], GROUPS[:4])


def test_gpg_scales_by_the_share_of_scores_that_are_not_zero():
    found = verl_gpg_advantage(SCORES, GROUPS, scale=2.0)
    wanted = 5 / 4 * group_centred(SCORES, GROUPS) / 2
    assert torch.allclose(found, wanted, rtol=1e-12)


def test_remax_subtracts_the_greedy_score():
    assert remax(SCORES[:2], torch.tensor([0.25, 0.5])).tolist() == [0.75, -0.5]
    found = verl_remax(REWARDS, torch.tensor([1.0, 2.0]), HOLES)
    assert found.returns.tolist() == [[7.0, 6.0, 6.0, 4.0, 0.0], [3.0, 3.0, 0.0, 0.0, 0.0]]
    assert found.advantages.tolist() == [[6.0, 6.0, 5.0, 3.0, 0.0], [1.0, 1.0, 0.0, 0.0, 0.0]]


def test_official_returns_are_cut_at_holes_that_the_library_steps_over():
    found = papo_reinforce_plus_plus(REWARDS, HOLES, gamma=0.5)
    assert found.returns.tolist() == [[1.0, 11.0, 4.0, 4.0, 0.0], [1.5, 3.0, 0.0, 0.0, 0.0]]
    own = discounted_returns(REWARDS, HOLES, gamma=0.5)
    assert own.tolist() == [[3.0, 0.0, 4.0, 4.0, 0.0], [1.5, 3.0, 0.0, 0.0, 0.0]]


def test_papo_leaves_whitened_values_off_the_mask_and_verl_does_not():
    papo = papo_reinforce_plus_plus(REWARDS, HOLES, gamma=1.0)
    verl = verl_reinforce_plus_plus(REWARDS, HOLES, gamma=1.0)
    assert papo.advantages[~HOLES].all() and not verl.advantages[~HOLES].any()
    assert torch.equal(papo.advantages[HOLES], verl.advantages[HOLES])


def test_reinforce_plus_plus_baseline_of_verl_gives_an_equal_group_a_signal_and_the_library_does_not():
    mask = torch.arange(4) < torch.tensor([[4], [1], [1], [2], [2]])
    scores = torch.tensor([0.0, 1.0, 1.0, 0.5, 0.5], dtype=torch.float64)
    official = verl_reinforce_plus_plus_baseline(scores, GROUPS, mask)
    own = reinforce_plus_plus_baseline(scores, GROUPS, mask)
    assert (official[3:][mask[3:]] > 0.1).all() and not own[3:].any()
    tokens = [-2 / 3] * 4 + [1 / 3] * 2 + [0.0] * 4
    mean, std = statistics.fmean(tokens), statistics.stdev(tokens)
    assert official[0, 0].item() == pytest.approx((-2 / 3 - mean) / std, rel=1e-6)


def loop_gae(
    rewards: list[float], values: list[float], mask: list[bool], gamma: float, lam: float
) -> list[float]:
    """By the definition: the discounted sum of the TD errors of the tokens that count."""
    places = [t for t, inside in enumerate(mask) if inside]
    deltas = [
        rewards[t] + gamma * (values[places[i + 1]] if i + 1 < len(places) else 0.0) - values[t]
        for i, t in enumerate(places)
    ]
    return [
        math.fsum((gamma * lam) ** j * delta for j, delta in enumerate(deltas[i:]))
        for i in range(len(deltas))
    ]


def test_gae_of_papo_ignores_the_mask_and_that_of_verl_carries_over_it():
    values = torch.tensor([[0.3, -0.4, 0.2, 0.9, 0.5], [1.0, 0.1, 0.7, 0.0, -0.2]], dtype=torch.float64)
    how = {"gamma": 0.9, "lam": 0.8}
    papo, verl = papo_gae(REWARDS, values, HOLES, **how), verl_gae(REWARDS, values, HOLES, **how)
    for row in range(2):
        given = (REWARDS[row].tolist(), values[row].tolist())
        everywhere = loop_gae(*given, [True] * 5, 0.9, 0.8)
        assert (papo.returns - values)[row].tolist() == pytest.approx(everywhere)
        inside = loop_gae(*given, HOLES[row].tolist(), 0.9, 0.8)
        assert (verl.returns - values)[row][HOLES[row]].tolist() == pytest.approx(inside)
    for found in (papo, verl):
        raw = (found.returns - values)[HOLES].tolist()
        scaled = [(x - statistics.fmean(raw)) / statistics.stdev(raw) for x in raw]
        assert found.advantages[HOLES].tolist() == pytest.approx(scaled, rel=1e-6)
