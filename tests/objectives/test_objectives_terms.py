import doctest
import math
from dataclasses import replace

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

import foveal.objectives.terms
from foveal.objectives.terms import (
    aggregate,
    clipped_surrogate,
    clipped_tokens,
    count,
    entropy,
    exact_kl,
    k3,
    kl_estimate,
    log_ratio,
    masked_mean,
    masked_sum,
    scatter_tokens,
    select_above_quantile,
    select_top,
    spread_weights,
    term_mean,
)
from foveal.spec import FovealError
from foveal.types import Count, Term
from objective_batches import ragged

NAN, INF = float("nan"), float("inf")


def numbers(*values: float, grad: bool = False) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64, requires_grad=grad)


@st.composite
def ragged_cases(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor]:
    """Values and a mask with empty rows and holes."""
    rows, width = draw(st.integers(1, 6)), draw(st.integers(1, 7))
    bits = draw(st.lists(st.booleans(), min_size=rows * width, max_size=rows * width))
    noise = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    return torch.randn(rows, width, generator=noise, dtype=torch.float64), torch.tensor(bits).view(
        rows, width
    )


def looped_mean(values: torch.Tensor, mask: torch.Tensor, aggregation: str) -> float:
    rows = [
        [v for v, m in zip(vs, ms, strict=True) if m]
        for vs, ms in zip(values.tolist(), mask.tolist(), strict=True)
    ]
    rows = [row for row in rows if row]
    if not rows:
        return 0.0
    if aggregation == "token_mean":
        return sum(map(sum, rows)) / sum(map(len, rows))
    if aggregation == "sequence_sum":
        return sum(map(sum, rows)) / len(rows)
    return sum(sum(row) / len(row) for row in rows) / len(rows)


def test_doctests_of_the_terms_hold():
    result = doctest.testmod(foveal.objectives.terms)
    assert result.attempted >= 5 and result.failed == 0


def test_masked_sum_ignores_nan_outside_and_keeps_nan_inside():
    assert masked_sum(numbers(1.0, NAN, 3.0), torch.tensor([True, False, True])).item() == 4.0
    assert math.isnan(masked_sum(numbers(1.0, NAN), torch.tensor([True, True])).item())
    assert masked_mean(numbers(NAN, INF), torch.tensor([False, False])).item() == 0.0


@pytest.mark.parametrize("junk", [NAN, INF, -INF])
def test_masked_sum_gives_exactly_zero_gradient_to_junk_outside(junk):
    values = numbers(1.0, junk, grad=True)
    masked_sum(values, torch.tensor([True, False])).backward()
    assert values.grad.tolist() == [1.0, 0.0]


def test_count_has_tokens_and_nonempty_rows():
    assert count(ragged([3, 0, 1], 4)) == Count(tokens=4.0, sequences=2.0)


def test_aggregate_by_hand():
    values = torch.tensor([[1.0, 2.0, 3.0], [10.0, 99.0, 99.0]])
    mask = ragged([3, 1], 3)
    assert aggregate(values, mask, aggregation="token_mean", count=count(mask)).item() == 4.0
    assert aggregate(values, mask, aggregation="sequence_mean", count=count(mask)).item() == 6.0
    assert aggregate(values, mask, aggregation="sequence_sum", count=count(mask)).item() == 8.0
    assert aggregate(values, mask, aggregation="sequence_sum", count=count(mask), horizon=4).item() == 2.0
    half = Count(tokens=8.0, sequences=4.0)
    assert aggregate(values, mask, aggregation="token_mean", count=half).item() == 2.0
    assert aggregate(values, mask, aggregation="sequence_mean", count=half).item() == 3.0


def test_a_term_is_averaged_in_its_own_way_where_it_has_one():
    values = torch.tensor([[1.0, 2.0, 3.0], [10.0, 99.0, 99.0]])
    mask = ragged([3, 1], 3)
    plain = Term(name="x", coef=1.0, per_token=values, mask=mask)
    own = replace(plain, aggregation="token_mean")
    assert term_mean(plain, aggregation="sequence_mean", count=count(mask)).item() == 6.0
    assert term_mean(own, aggregation="sequence_mean", count=count(mask)).item() == 4.0


def test_select_above_quantile_interpolates_keeps_ties_and_never_hides_a_nan():
    row = torch.tensor([[4.0, 1.0, 3.0, 2.0, 9.0]])
    mask = ragged([4], 5)
    # Quantile 0.6 of 1, 2, 3, 4 is 1 + 0.6 * 3 = 2.8; the 9 is padding.
    found = select_above_quantile(row, mask, fraction=0.4)
    assert found.tolist() == [[True, False, True, False, False]]
    assert select_above_quantile(torch.ones(1, 5), mask, fraction=0.2).equal(mask)
    assert not select_above_quantile(row, torch.zeros_like(mask), fraction=0.5).any()
    broken = torch.tensor([[NAN, 1.0, 3.0, 2.0, 0.0]])
    assert select_above_quantile(broken, mask, fraction=0.4).tolist() == [[True, False, True, False, False]]
    assert select_above_quantile(
        torch.ones(2, 0), torch.ones(2, 0, dtype=torch.bool), fraction=0.5
    ).shape == (
        2,
        0,
    )


@pytest.mark.parametrize("aggregation", ["token_mean", "sequence_mean", "sequence_sum"])
def test_aggregate_of_nothing_is_zero_with_zero_gradient_and_a_nan_that_counts_stays(aggregation):
    values = torch.full((2, 3), NAN, requires_grad=True)
    empty = torch.zeros(2, 3, dtype=torch.bool)
    loss = aggregate(values, empty, aggregation=aggregation, count=count(empty))
    loss.backward()
    assert loss.item() == 0.0 and values.grad.eq(0).all()
    full = ~empty
    assert math.isnan(aggregate(values, full, aggregation=aggregation, count=count(full)).item())


def test_aggregate_refuses_an_unknown_aggregation():
    mask = ragged([1], 1)
    with pytest.raises(FovealError, match="'mean'.*'token_mean', 'sequence_mean' or 'sequence_sum'"):
        aggregate(torch.ones(1, 1), mask, aggregation="mean", count=count(mask))


@pytest.mark.parametrize("aggregation", ["token_mean", "sequence_mean", "sequence_sum"])
@settings(deadline=None, max_examples=60)
@given(case=ragged_cases(), seed=st.integers(0, 99))
def test_aggregate_equals_a_loop_and_does_not_depend_on_the_split_into_rows(aggregation, case, seed):
    values, mask = case
    whole = count(mask)
    expected = looped_mean(values, mask, aggregation)
    assert aggregate(values, mask, aggregation=aggregation, count=whole).item() == pytest.approx(
        expected, abs=1e-12
    )
    order = torch.randperm(len(values), generator=torch.Generator().manual_seed(seed))
    parts = torch.tensor_split(order, [len(order) // 3, len(order) // 2])
    shares = [aggregate(values[i], mask[i], aggregation=aggregation, count=whole).item() for i in parts]
    assert sum(shares) == pytest.approx(expected, abs=1e-12)
    counts = [count(mask[i]) for i in parts]
    assert sum(c.tokens for c in counts) == whole.tokens
    assert sum(c.sequences for c in counts) == whole.sequences


@pytest.mark.parametrize(
    ("ratio", "advantage", "dual", "loss", "slope"),
    [
        (1.0, 2.0, None, -2.0, -2.0),
        (1.1, 2.0, None, -2.2, -2.2),
        (1.5, 2.0, None, -2.6, 0.0),
        (0.5, 2.0, None, -1.0, -1.0),
        (0.5, -2.0, None, 1.6, 0.0),
        (1.5, -2.0, None, 3.0, 3.0),
        (4.0, -2.0, None, 8.0, 8.0),
        (4.0, -2.0, 3.0, 6.0, 0.0),
        (4.0, 2.0, 3.0, -2.6, 0.0),
        (1.5, 0.0, 3.0, 0.0, 0.0),
    ],
)
def test_clipped_surrogate_by_hand_with_its_slope(ratio, advantage, dual, loss, slope):
    moved = numbers(math.log(ratio), grad=True)
    found = clipped_surrogate(moved, numbers(advantage), clip_low=0.2, clip_high=0.3, dual_clip=dual)
    found.backward()
    assert found.item() == pytest.approx(loss, abs=1e-12)
    assert moved.grad.item() == pytest.approx(slope, abs=1e-12)


@settings(deadline=None, max_examples=60)
@given(
    st.floats(-3, 3),
    st.floats(-3, 3),
    st.floats(0.0, 0.9),
    st.floats(0.0, 2.0),
    st.one_of(st.none(), st.floats(1.01, 5)),
)
def test_clipped_surrogate_equals_the_textbook_form(moved, advantage, low, high, dual):
    ratio = math.exp(moved)
    expected = max(-advantage * ratio, -advantage * min(max(ratio, 1 - low), 1 + high))
    if dual is not None and advantage < 0:
        expected = min(expected, -advantage * dual)
    found = clipped_surrogate(
        numbers(moved), numbers(advantage), clip_low=low, clip_high=high, dual_clip=dual
    )
    assert found.item() == pytest.approx(expected, rel=1e-12, abs=1e-12)


def test_clipped_surrogate_passes_gradcheck_away_from_kinks():
    moved = numbers(-0.5, -0.1, 0.1, 0.15, 0.5, 1.3, grad=True)
    for sign in (1.0, -1.0):
        advantages = sign * numbers(1.0, 2.0, 0.5, 1.5, 1.0, 0.7)
        assert torch.autograd.gradcheck(
            lambda x, a=advantages: clipped_surrogate(x, a, clip_low=0.2, clip_high=0.3, dual_clip=3.0),
            (moved,),
        )


@pytest.mark.parametrize("far", [1e4, -1e4])
@pytest.mark.parametrize("advantage", [1.0, -1.0])
def test_extreme_log_ratios_stay_finite_and_get_no_gradient(far, advantage):
    logprobs = torch.tensor([far], requires_grad=True)
    loss = clipped_surrogate(
        log_ratio(logprobs, torch.zeros(1)), torch.tensor([advantage]), clip_low=0.2, clip_high=0.2
    )
    loss.backward()
    assert loss.isfinite().all() and logprobs.grad.item() == 0.0


def test_clipped_tokens_are_exactly_those_without_gradient():
    moved = torch.linspace(-2, 2, 41, dtype=torch.float64).repeat(2).requires_grad_()
    advantages = torch.cat([torch.ones(41), -torch.ones(41)]).double()
    bounds = {"clip_low": 0.2, "clip_high": 0.28, "dual_clip": 3.0}
    clipped_surrogate(moved, advantages, **bounds).sum().backward()
    found = clipped_tokens(moved.detach(), advantages, **bounds)
    assert torch.equal(moved.grad == 0, found.high | found.low | found.dual)
    assert found.high.any() and found.low.any() and found.dual.any()


def test_kl_estimates_by_hand():
    p, q = numbers(-1.0), numbers(-1.5)
    k = -0.5
    assert kl_estimate(p, q, estimator="k1").item() == 0.5
    assert kl_estimate(p, q, estimator="abs").item() == 0.5
    assert kl_estimate(p, q, estimator="k2").item() == 0.125
    assert kl_estimate(p, q, estimator="k3").item() == pytest.approx(math.exp(k) - k - 1, abs=1e-15)
    with pytest.raises(FovealError, match="'k4' is unknown"):
        kl_estimate(p, q, estimator="k4")


def test_k1_and_unclamped_k3_have_the_exact_kl_as_their_mean_over_the_policy():
    noise = torch.Generator().manual_seed(3)
    log_p, log_q = torch.randn(2, 7, generator=noise, dtype=torch.float64).log_softmax(-1)
    exact = exact_kl(log_p, log_q).item()
    for values in (kl_estimate(log_p, log_q, estimator="k1"), k3(log_p, log_q, value_limit=None)):
        assert (log_p.exp() * values).sum().item() == pytest.approx(exact, abs=1e-12)
    looped = sum(math.exp(p) * (p - q) for p, q in zip(log_p.tolist(), log_q.tolist(), strict=True))
    assert exact == pytest.approx(looped, abs=1e-14)


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3", "abs"])
def test_kl_estimates_pass_gradcheck_in_both_branches(estimator):
    p, q = numbers(-1.0, -0.2, -3.0, grad=True), numbers(-1.7, -0.9, -2.1, grad=True)
    assert torch.autograd.gradcheck(lambda a, b: kl_estimate(a, b, estimator=estimator), (p, q))


def test_k3_has_opposite_gradients_in_its_branches_and_none_beyond_its_clamps():
    p, q = numbers(-1.0, -3.0, -30.0, grad=True), numbers(-2.0, 0.0, 0.0, grad=True)
    values = kl_estimate(p, q, estimator="k3")
    values.sum().backward()
    assert values.tolist()[1:] == [10.0, 10.0]
    assert p.grad.tolist() == pytest.approx([1 - math.exp(-1.0), 0.0, 0.0], abs=1e-15)
    assert torch.equal(p.grad, -q.grad)


@pytest.mark.parametrize("gap", [1e4, -1e4])
def test_k3_of_extreme_gaps_is_at_its_bound(gap):
    assert kl_estimate(torch.tensor([0.0]), torch.tensor([gap]), estimator="k3").item() == 10.0


def test_exact_kl_and_entropy_pass_gradcheck_and_are_zero_for_equal_and_certain_distributions():
    noise = torch.Generator().manual_seed(4)
    a, b = (torch.randn(3, 4, generator=noise, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(lambda x, y: exact_kl(x.log_softmax(-1), y.log_softmax(-1)), (a, b))
    assert torch.autograd.gradcheck(lambda x: entropy(x.log_softmax(-1)), (a,))
    assert exact_kl(a.log_softmax(-1), a.log_softmax(-1)).eq(0).all()
    assert entropy(torch.zeros(8).log_softmax(-1)).item() == pytest.approx(math.log(8), abs=1e-6)
    assert entropy(torch.tensor([0.0, -INF])).item() == 0.0


def test_exact_kl_and_entropy_count_excluded_tokens_as_nothing_with_finite_gradients():
    logits = numbers(1.0, -INF, 0.3, grad=True)
    other = numbers(0.2, -INF, 0.9, grad=True)
    log_p, log_q = logits.log_softmax(-1), other.log_softmax(-1)
    (exact_kl(log_p, log_q) + entropy(log_p)).backward()
    assert logits.grad.isfinite().all() and other.grad.isfinite().all()
    kept = torch.tensor([0, 2])
    expected = exact_kl(logits.detach()[kept].log_softmax(-1), other.detach()[kept].log_softmax(-1))
    assert exact_kl(log_p, log_q).item() == pytest.approx(expected.item(), abs=1e-15)
    assert exact_kl(numbers(0.0, -INF), numbers(-INF, 0.0)).item() == INF


def test_scatter_tokens_puts_values_in_row_major_order_and_back():
    mask = torch.tensor([[False, True], [True, True]])
    values = numbers(1.0, 2.0, 3.0, grad=True)
    placed = scatter_tokens(values, mask)
    assert placed.tolist() == [[0.0, 1.0], [2.0, 3.0]]
    (placed * torch.tensor([[9.0, 4.0], [5.0, 6.0]])).sum().backward()
    assert values.grad.tolist() == [4.0, 5.0, 6.0]
    assert scatter_tokens(numbers(), torch.zeros(2, 2, dtype=torch.bool)).eq(0).all()


@pytest.mark.parametrize("rounding", ["floor", "ceil"])
@settings(deadline=None, max_examples=60)
@given(case=ragged_cases(), fraction=st.floats(0.01, 1.0))
def test_select_top_equals_a_loop(rounding, case, fraction):
    scores, eligible = case
    found = select_top(scores, eligible, fraction=fraction, rounding=rounding)
    for row, allowed, picked in zip(scores.tolist(), eligible.tolist(), found.tolist(), strict=True):
        places = [t for t, ok in enumerate(allowed) if ok]
        wanted = max(1, getattr(math, rounding)(len(places) * fraction))
        best = sorted(places, key=lambda t, row=row: -row[t])[:wanted]
        assert [t for t, ok in enumerate(picked) if ok] == sorted(best)


def test_select_top_rounds_as_asked_takes_all_ties_and_none_of_an_empty_row():
    row = torch.tensor([[5.0, 4.0, 3.0]])
    everything = torch.ones(1, 3, dtype=torch.bool)
    assert select_top(row, everything, fraction=0.5, rounding="floor").tolist() == [[True, False, False]]
    assert select_top(row, everything, fraction=0.5, rounding="ceil").tolist() == [[True, True, False]]
    assert select_top(torch.ones(1, 3), everything, fraction=0.4).all()
    assert not select_top(row, ~everything, fraction=1.0).any()
    assert select_top(torch.ones(2, 0), torch.ones(2, 0, dtype=torch.bool), fraction=0.5).shape == (2, 0)


@pytest.mark.parametrize("aggregation", ["token_mean", "sequence_mean", "sequence_sum"])
@settings(deadline=None, max_examples=60)
@given(case=ragged_cases(), seed=st.integers(0, 99))
def test_spread_weights_turn_a_mean_over_the_mask_into_one_over_the_selection(aggregation, case, seed):
    values, mask = case
    selected = mask & (torch.rand(mask.shape, generator=torch.Generator().manual_seed(seed)) < 0.5)
    weights = spread_weights(selected, mask, aggregation=aggregation)
    found = aggregate(values * weights, mask, aggregation=aggregation, count=count(mask))
    assert found.item() == pytest.approx(looped_mean(values, selected, aggregation), abs=1e-5)
