"""Sequence-level ratios and surrogates without a gradient through the ratio; schedules of coefficients."""

import doctest
import math

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from foveal.objectives import schedules, sequence
from foveal.objectives.schedules import linear_decay
from foveal.objectives.sequence import cispo_loss, gspo_log_ratio
from foveal.objectives.terms import clipped_surrogate


@pytest.mark.parametrize("module", [sequence, schedules])
def test_doctests_hold(module):
    result = doctest.testmod(module)
    assert result.attempted >= 1 and result.failed == 0


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_gspo_ratio_of_each_token_is_the_mean_over_its_completion():
    new = torch.tensor([[-1.0, -2.0, 7.0], [-1.0, -1.0, -1.0]])
    old = torch.tensor([[-2.0, -1.5, 0.0], [-1.0, -1.0, -4.0]])
    mask = torch.tensor([[True, True, False], [True, False, True]])
    found = gspo_log_ratio(new, old, mask)
    assert found.tolist() == [[0.25, 0.25, 0.0], [1.5, 0.0, 1.5]]


def test_gspo_gradient_is_that_of_each_token_alone_and_zero_beyond_the_limit_and_off_the_mask():
    new, old = random(4, 5), random(4, 5, seed=1)
    old[1] -= 30.0
    mask = torch.arange(5) < torch.tensor([[3], [5], [0], [1]])
    new[~mask], old[~mask] = float("nan"), float("inf")
    new.requires_grad_()
    advantages = torch.tensor([[2.0], [1.0], [1.0], [-0.5]]).double().expand(4, 5)
    found = gspo_log_ratio(new, old, mask)
    clipped_surrogate(found, advantages, clip_low=0.999, clip_high=1e9)[mask].sum().backward()
    assert (found[1] == sequence.SEQUENCE_LOG_RATIO_LIMIT).all()
    for row, width in ((0, 3), (3, 1)):
        mean = math.fsum((new - old)[row, :width].tolist()) / width
        wanted = -float(advantages[row, 0]) * math.exp(mean)
        assert new.grad[row, :width].tolist() == pytest.approx([wanted] * width, rel=1e-12)
    assert not new.grad[1].any() and not new.grad[~mask].any()


def test_gspo_log_ratio_has_the_gradient_of_its_own_token_numerically():
    """The value is not a function of one token alone, so each token's gradient is compared, not gradcheck."""
    new = random(2, 3).requires_grad_()
    mask = torch.ones(2, 3).bool()
    weights = random(2, 3, seed=2)
    (gspo_log_ratio(new, random(2, 3, seed=1), mask) * weights).sum().backward()
    assert torch.equal(new.grad, weights)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(-1e4, 1e4), min_size=4, max_size=4))
def test_extreme_log_ratios_stay_finite(values):
    new = torch.tensor([values], dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[True, True, True, False]])
    ratio = gspo_log_ratio(new, torch.zeros(1, 4, dtype=torch.float64), mask)
    clipped_surrogate(ratio, -torch.ones(1, 4).double(), clip_low=0.2, clip_high=0.2).sum().backward()
    assert new.grad.isfinite().all() and new.grad[0, 3] == 0.0


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_number_that_is_not_finite_spoils_its_own_completion_alone(value):
    new, mask = random(3, 2), torch.tensor([[True, True], [True, True], [True, False]])
    new[0, 1] = new[2, 1] = value
    found = gspo_log_ratio(new, random(3, 2, seed=1), mask)
    assert found[0].isnan().all() and found[1:].isfinite().all()


def test_cispo_by_hand_bounds_the_weight_and_never_loses_the_gradient():
    logprobs = torch.tensor([-1.0, -2.0, -3.0], dtype=torch.float64, requires_grad=True)
    ratio = torch.tensor([5.0, 0.0, -5.0], dtype=torch.float64, requires_grad=True)
    advantages = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    loss = cispo_loss(logprobs, ratio, advantages, clip_low=0.9, clip_high=3.0)
    assert loss.tolist() == pytest.approx([4.0, -4.0, 0.15], rel=1e-12)
    loss.sum().backward()
    assert logprobs.grad.tolist() == pytest.approx([-4.0, 2.0, -0.05], rel=1e-12)
    assert ratio.grad is None


def test_cispo_gradient_is_right_numerically():
    ratio, advantages = random(2, 3, seed=1), random(2, 3, seed=2)

    def loss(logprobs: torch.Tensor) -> torch.Tensor:
        return cispo_loss(logprobs, ratio, advantages, clip_low=0.2, clip_high=0.3)

    assert torch.autograd.gradcheck(loss, (random(2, 3).requires_grad_(),))


def test_linear_decay_starts_at_the_start_and_stays_at_the_end():
    values = [linear_decay(step, start=0.01, end=0.002, steps=4) for step in range(7)]
    assert values == pytest.approx([0.01, 0.008, 0.006, 0.004, 0.002, 0.002, 0.002])
