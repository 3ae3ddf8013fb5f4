"""Policy losses, KL estimators and the adaptive coefficient of the official codes."""

import doctest
import math

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from foveal.compat import schedules
from foveal.compat.kl import NAMES, areal_kl, official_kl
from foveal.compat.policy_losses import geometric_mean_loss, gpg_loss, sapo_loss
from foveal.compat.schedules import adaptive_coefficient
from foveal.objectives.terms import exact_kl, kl_estimate
from foveal.spec import FovealError


def random(*shape: int, seed: int = 0, scale: float = 1.0) -> torch.Tensor:
    noise = torch.Generator().manual_seed(seed)
    return scale * torch.randn(*shape, generator=noise, dtype=torch.float64)


def test_geometric_mean_loss_equals_a_loop():
    new, old, mask = random(3, 4), random(3, 4, seed=1), torch.arange(4) < torch.tensor([[4], [2], [0]])
    advantages = torch.tensor([[2.0], [-1.0], [3.0]]).double().expand(3, 4)
    weights = random(3, 4, seed=2).exp()
    how = {"clip_low": 0.3, "clip_high": 0.4}
    plain = geometric_mean_loss(new, old, advantages, mask, **how).tolist()
    weighted = geometric_mean_loss(new, old, advantages, mask, weights=weights, **how).tolist()
    for row in range(2):
        n, a = int(mask[row].sum()), float(advantages[row, 0])
        gaps = [float(new[row, t] - old[row, t]) for t in range(n)]
        kept = [min(gap, 0.4) if a > 0 else max(gap, -0.3) for gap in gaps]
        wanted = -a * math.exp(math.fsum(kept) / n)
        assert plain[row] == pytest.approx(wanted, rel=1e-7)
        scale = math.prod(float(w) for w in weights[row, :n]) ** (1 / n)
        assert weighted[row] == pytest.approx(wanted * scale, rel=1e-7)
    assert plain[2] == 0.0


def test_geometric_mean_loss_has_no_gradient_where_clipped_or_padded():
    new = torch.tensor([[0.1, 9.0, -9.0, 5.0]], dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[True, True, True, False]])
    how = {"clip_low": 0.2, "clip_high": 0.2}
    zero, one = torch.zeros(1, 4).double(), torch.ones(1, 4).double()
    geometric_mean_loss(new, zero, one, mask, **how).sum().backward()
    assert new.grad[0].ne(0).tolist() == [True, False, True, False]
    new.grad = None
    geometric_mean_loss(new, zero, -one, mask, **how).sum().backward()
    assert new.grad[0].ne(0).tolist() == [True, True, False, False]


def test_policy_losses_have_the_right_gradients():
    old, advantages, mask = random(2, 3, seed=1), random(2, 3, seed=2), torch.ones(2, 3).bool()
    losses = [
        lambda new: gpg_loss(new, advantages),
        lambda new: sapo_loss(new, old, advantages),
        lambda new: geometric_mean_loss(new, old, advantages, mask, clip_low=0.2, clip_high=0.2),
    ]
    for loss in losses:
        assert torch.autograd.gradcheck(loss, (random(2, 3).requires_grad_(),))


def test_sapo_by_hand_has_the_policy_gradient_at_ratio_one():
    new = torch.tensor([-1.0, -1.0, -1.0], dtype=torch.float64, requires_grad=True)
    old = torch.tensor([-1.0, -1.0, -2.0], dtype=torch.float64)
    loss = sapo_loss(new, old, torch.tensor([2.0, -1.0, -1.0], dtype=torch.float64))
    gate = 4 / 1.05 / (1 + math.exp(-1.05 * (math.e - 1)))
    assert loss.tolist() == pytest.approx([-2 * 2.0, 4 / 1.05 / 2, gate])
    loss.sum().backward()
    assert new.grad[:2].tolist() == pytest.approx([-2.0, 1.0])


@pytest.mark.parametrize("name", sorted(NAMES))
def test_names_of_the_official_codes_are_the_library_estimators(name):
    p, q = random(3, 4), random(3, 4, seed=1)
    assert torch.equal(official_kl(p, q, name=name), kl_estimate(p, q, estimator=NAMES[name]))


def test_full_is_the_exact_kl():
    p, q = random(2, 3, 5).log_softmax(-1), random(2, 3, 5, seed=1).log_softmax(-1)
    assert torch.equal(official_kl(p, q, name="full"), exact_kl(p, q))


@pytest.mark.parametrize("name", ["k1+", "kl+", "k3+", "low_var_kl+", "abs+", "k2+", "mse+"])
def test_plus_has_the_value_of_the_estimator_and_the_gradient_of_k2(name):
    p, q = random(3, 4).requires_grad_(), random(3, 4, seed=1).requires_grad_()
    found = official_kl(p, q, name=name)
    plain = kl_estimate(p, q, estimator=NAMES[name[:-1]])
    assert torch.allclose(found, plain, rtol=1e-12)
    found.sum().backward()
    assert torch.allclose(p.grad, (p - q).detach(), rtol=1e-12)
    assert torch.allclose(q.grad, (q - p).detach(), rtol=1e-12)


def test_unknown_estimator_is_named():
    with pytest.raises(FovealError, match="'k4' is unknown; use one of kl, k1, abs"):
        official_kl(random(1), random(1), name="k4")
    with pytest.raises(FovealError, match="AReaL has no KL estimator 'abs'"):
        areal_kl(random(1), random(1), estimator="abs")


@settings(deadline=None, max_examples=50)
@given(st.floats(-1e3, 1e3))
def test_areal_clamps_the_value_alone(gap):
    p, q = torch.zeros(1).double().requires_grad_(), torch.tensor([gap], dtype=torch.float64)
    raw = {
        "k1": -gap,
        "k2": gap**2 / 2,
        "k3": math.exp(gap) - gap - 1 if gap < 700 else math.inf,
    }
    for estimator, value in raw.items():
        found = areal_kl(p, q, estimator=estimator)
        assert found.item() == pytest.approx(min(max(value, -10.0), 10.0), abs=1e-9)
        (grad,) = torch.autograd.grad(found.sum(), p)
        assert grad.isfinite().all()
        if abs(value) > 10.001:
            assert grad.item() == 0.0


def test_adaptive_coefficient_by_hand():
    result = doctest.testmod(schedules)
    assert result.attempted == 1 and result.failed == 0
    how = {"target": 0.1, "horizon": 100.0, "steps": 10}
    assert adaptive_coefficient(2.0, 0.11, **how) == pytest.approx(2.0 * 1.01)
    assert adaptive_coefficient(2.0, 0.0, **how) == pytest.approx(2.0 * 0.98)
    assert adaptive_coefficient(2.0, 9.9, **how) == pytest.approx(2.0 * 1.02)
