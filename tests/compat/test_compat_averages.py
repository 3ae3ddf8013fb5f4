"""Means and whitening of the official codes, against loops over rows and tokens."""

import math

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from foveal.advantages import whiten
from foveal.compat.averages import (
    cppo_average,
    papo_average,
    papo_variance,
    papo_whiten,
    verl_average,
    verl_whiten,
)
from foveal.objectives.terms import aggregate
from foveal.spec import FovealError
from foveal.types import Count

VERL_MODES = ("token-mean", "seq-mean-token-sum", "seq-mean-token-mean", "seq-mean-token-sum-norm")
VALUES = torch.tensor([[3.0, 1.0, 8.0], [4.0, 9.0, 9.0], [7.0, 7.0, 7.0]], dtype=torch.float64)
MASK = torch.tensor([[True, True, False], [True, False, False], [False, False, False]])


@pytest.mark.parametrize(("mode", "wanted"), [("token", 8 / 3), ("seq", (2 + 4 + 0) / 3)])
def test_papo_average_by_hand_counts_empty_rows_in_seq(mode, wanted):
    assert float(papo_average(VALUES, MASK, mode=mode)) == pytest.approx(wanted, rel=2e-8)


@pytest.mark.parametrize(
    ("mode", "verl", "cppo"),
    [
        ("token-mean", 8 / 3, 8 / 3),
        ("seq-mean-token-sum", (4 + 4) / 2, (4 + 4) / 3),
        ("seq-mean-token-mean", (2 + 4) / 2, (2 + 4) / 3),
        ("seq-mean-token-sum-norm", (4 + 4) / 3, (4 + 4) / 3 / 3),
    ],
)
def test_averages_of_verl_and_cppo_by_hand(mode, verl, cppo):
    assert float(verl_average(VALUES, MASK, mode=mode)) == pytest.approx(verl, rel=2e-8)
    assert float(cppo_average(VALUES, MASK, mode=mode)) == pytest.approx(cppo, rel=2e-8)


@pytest.mark.parametrize(
    ("mode", "verl", "cppo"),
    [
        ("token-mean", 8 / 40 * 2, 8 / (40 * 2)),
        ("seq-mean-token-sum", 8 / 6 * 2, 8 / (6 * 2)),
        ("seq-mean-token-mean", 6 / 6 * 2, 6 / (6 * 2)),
        ("seq-mean-token-sum-norm", 8 / 10, 8 / 10 / (6 * 2)),
    ],
)
def test_counts_of_the_whole_batch_and_ranks_by_hand(mode, verl, cppo):
    given_counts = {"dp_size": 2, "batch_tokens": 40, "batch_rows": 6, "scale": 10}
    assert float(verl_average(VALUES, MASK, mode=mode, **given_counts)) == pytest.approx(verl, rel=2e-8)
    assert float(cppo_average(VALUES, MASK, mode=mode, **given_counts)) == pytest.approx(cppo, rel=2e-8)


@st.composite
def ragged(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor]:
    rows, width = draw(st.integers(1, 4)), draw(st.integers(1, 5))
    cells = draw(st.lists(st.booleans(), min_size=rows * width, max_size=rows * width))
    values = draw(st.lists(st.floats(-9, 9), min_size=rows * width, max_size=rows * width))
    return torch.tensor(values, dtype=torch.float64).view(rows, width), torch.tensor(cells).view(rows, width)


def loop_average(values: torch.Tensor, mask: torch.Tensor, *, mode: str, code: str) -> float:
    rows = [
        [x for x, inside in zip(row, inside_row, strict=True) if inside]
        for row, inside_row in zip(values.tolist(), mask.tolist(), strict=True)
    ]
    tokens = sum(len(row) for row in rows)
    if mode == "token-mean":
        return sum(map(sum, rows)) / tokens
    divisor = sum(1 for row in rows if row) if code == "verl" else len(rows)
    if mode == "seq-mean-token-mean":
        return sum(sum(row) / len(row) for row in rows if row) / divisor
    if mode == "seq-mean-token-sum":
        return sum(map(sum, rows)) / divisor
    return sum(map(sum, rows)) / mask.shape[1] / (1 if code == "verl" else divisor)


@settings(deadline=None, max_examples=60)
@given(ragged(), st.sampled_from(VERL_MODES))
def test_averages_equal_a_loop_and_have_its_gradient(case, mode):
    values, mask = case
    if not mask.any():
        mask = mask.clone()
        mask[0, 0] = True
    for code, average in (("verl", verl_average), ("cppo", cppo_average)):
        leaf = values.clone().requires_grad_()
        loss = average(leaf, mask, mode=mode)
        assert loss.item() == pytest.approx(loop_average(values, mask, mode=mode, code=code), abs=1e-7)
        loss.backward()
        assert not leaf.grad[~mask].any()
        assert float((leaf.grad * values).sum()) == pytest.approx(loss.item(), abs=1e-9)


def test_library_mean_gives_papos_and_verls_with_their_counts():
    rows = {"papo": 3.0, "verl": 2.0}
    for code, wanted in (
        ("papo", papo_average(VALUES, MASK, mode="seq")),
        ("verl", verl_average(VALUES, MASK, mode="seq-mean-token-mean")),
    ):
        counts = Count(tokens=3.0, sequences=rows[code])
        found = aggregate(VALUES, MASK, aggregation="sequence_mean", count=counts)
        assert float(found) == pytest.approx(float(wanted), rel=2e-8)


@pytest.mark.parametrize("average", [verl_average, cppo_average])
def test_unknown_mode_of_verl_is_named(average):
    with pytest.raises(FovealError, match="'token-sum' is unknown; use 'token-mean'"):
        average(VALUES, MASK, mode="token-sum")


def test_unknown_mode_of_papo_is_named():
    with pytest.raises(FovealError, match="'tokens' is unknown; use 'token' or 'seq'"):
        papo_average(VALUES, MASK, mode="tokens")


def test_papo_whitens_padding_too_and_takes_one_token():
    scale = math.sqrt(7 / 3 + 1e-8)
    found = papo_whiten(VALUES, MASK)
    assert float(papo_variance(VALUES, MASK)) == pytest.approx(7 / 3, rel=1e-7)
    assert float(found[0, 2]) == pytest.approx((8 - 8 / 3) / scale, rel=1e-7)
    one = MASK & (torch.arange(3) == 0) & (torch.arange(3).unsqueeze(-1) == 1)
    assert float(papo_variance(VALUES, one)) == pytest.approx(0.0, abs=1e-12)
    assert torch.allclose(found[MASK], whiten(VALUES, MASK)[MASK], rtol=1e-7)


@pytest.mark.parametrize("tokens", [0, 1])
def test_verl_refuses_to_whiten_less_than_two_tokens(tokens):
    with pytest.raises(FovealError, match=f"the mask has {tokens}; use a larger batch"):
        verl_whiten(VALUES[:1], torch.arange(3).unsqueeze(0) < tokens)
