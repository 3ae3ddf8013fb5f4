import math
from dataclasses import replace

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from foveal.objectives.cispo import CISPO
from foveal.objectives.dapo import DAPO
from foveal.objectives.dependency import dependency_scale, most_dependent
from foveal.objectives.grpo import GRPO
from foveal.objectives.gspo import GSPO
from foveal.objectives.papo import PAPO
from foveal.objectives.vppo import VPPO
from foveal.spec import FovealError
from foveal.types import Objective, ViewScores
from objective_batches import (
    Case,
    gradients,
    is_bit_for_bit,
    make_case,
    measure,
    part,
    prepared,
    ragged,
    total_loss,
)

LENGTHS = (5, 2, 4, 1)
OFF = {"token_fraction": 1.0, "scale_min": 1.0}


def dependencies(case: Case) -> list[list[float]]:
    old = case.batch.scores.old_logprobs.tolist()
    removed = case.batch.scores.views["removed"].logprobs.tolist()
    mask = case.batch.inputs.completion_mask.tolist()
    found = []
    for i, row in enumerate(mask):
        gaps = [removed[i][t] - old[i][t] for t, inside in enumerate(row) if inside]
        found.append([min(math.exp(k) - k - 1, 10.0) for k in gaps])
    return found


def weights_by_loop(case: Case, *, fraction: float, least: float) -> list[list[float]]:
    """The official code in plain Python, on one micro-batch that is the whole batch."""
    each = dependencies(case)
    means = [sum(row) / len(row) for row in each]
    shares = [(m - min(means)) / (max(means) - min(means)) for m in means]
    most = least + (1 - least) / (sum(shares) / len(shares))
    found = []
    for row, share in zip(each, shares, strict=True):
        chosen = sorted(row, reverse=True)[: math.ceil(len(row) * fraction)]
        found.append([(least + share * (most - least)) * (d >= min(chosen)) for d in row])
    return found


@pytest.mark.parametrize("base", [GRPO(aggregation="token_mean"), GRPO(), DAPO(), CISPO(), GSPO()])
@pytest.mark.parametrize("seed", range(3))
def test_the_surrogate_is_multiplied_as_in_a_loop_and_dropped_tokens_stay_in_the_mean(
    base: Objective, seed: int
) -> None:
    objective, case = VPPO(base=base), make_case(LENGTHS, seed=seed, spread=0.5)
    done = prepared(objective, case)
    mask = case.batch.inputs.completion_mask
    wanted = [w for row in weights_by_loop(case, fraction=0.4, least=0.9) for w in row]
    assert done.batch.weights["surrogate"][mask].tolist() == pytest.approx(wanted)
    assert done.batch.weights["surrogate"][~mask].eq(0).all()
    (weighted,) = objective.terms(done.batch, case.now)
    (bare,) = base.terms(replace(done.batch, weights={}), case.now)
    assert torch.equal(weighted.mask, mask)
    assert torch.allclose(weighted.per_token, bare.per_token * done.batch.weights["surrogate"])


def test_scaling_the_loss_is_scaling_the_advantage() -> None:
    base = GRPO(dual_clip=3.0)
    case = prepared(VPPO(base=base, token_fraction=1.0), make_case(LENGTHS, spread=1.5))
    scaled = replace(
        case.batch, advantages=case.batch.advantages * case.batch.weights["surrogate"], weights={}
    )
    wanted = total_loss(base, Case(scaled, case.logits))
    assert total_loss(VPPO(base=base, token_fraction=1.0), case).item() == pytest.approx(wanted.item())


@pytest.mark.parametrize("base", [GRPO(kl_coef=0.1), DAPO(), PAPO(kl_prcp_coef=0.1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_switched_off_it_is_its_base_bit_for_bit(base: Objective, dtype: torch.dtype) -> None:
    objective, case = VPPO(base=base, **OFF), make_case(LENGTHS, dtype=dtype, spread=0.8)
    assert is_bit_for_bit(objective, base, case)


def test_gradient_reaches_the_kept_tokens_of_the_clean_view_alone() -> None:
    objective, case = VPPO(), make_case(LENGTHS)
    kept = prepared(objective, case).batch.selections["visual_tokens"]
    found = gradients(objective, case)
    assert objective.score_views == ("removed",) and objective.update_views == ("clean",)
    assert torch.equal(found["clean"].abs().sum(-1) > 0, kept)
    assert kept.sum(-1).tolist() == [2, 1, 2, 1]
    assert found["removed"].eq(0).all() and found["preserved"].eq(0).all()


def test_other_terms_of_the_base_keep_all_tokens() -> None:
    objective = VPPO(base=GRPO(kl_coef=0.5))
    case = make_case(LENGTHS, rewards=(0.9,) * 4)
    assert torch.equal(
        gradients(objective, case)["clean"].abs().sum(-1) > 0, case.batch.inputs.completion_mask
    )


def test_the_mean_over_kept_tokens_is_larger_by_the_share_that_was_dropped() -> None:
    every, kept = (VPPO(base=GRPO(aggregation="token_mean"), denominator=how) for how in ("all", "selected"))
    case = make_case(LENGTHS)
    tokens = int(prepared(every, case).batch.selections["visual_tokens"].sum())
    assert tokens == 6
    wanted = total_loss(every, prepared(every, case)).item() * sum(LENGTHS) / tokens
    assert total_loss(kept, prepared(kept, case)).item() == pytest.approx(wanted)


def test_what_a_base_keeps_and_how_it_scales_stays_in_force() -> None:
    inner = VPPO(denominator="selected", removed_view="preserved")
    outer, case = VPPO(denominator="selected", base=inner), make_case(LENGTHS)
    one, other = (prepared(o, case).batch for o in (inner, VPPO(denominator="selected")))
    both = prepared(outer, case).batch
    wanted = one.selections["surrogate"] & other.selections["surrogate"]
    assert both.selections["surrogate"].equal(wanted)
    assert 0 < int(wanted.sum()) < int(other.selections["surrogate"].sum())
    assert both.weights["surrogate"].allclose(one.weights["surrogate"] * other.weights["surrogate"])


@pytest.mark.parametrize("aggregation", ["token_mean", "sequence_mean"])
def test_each_mini_batch_is_averaged_over_its_own_kept_tokens(aggregation: str) -> None:
    objective = VPPO(base=GRPO(aggregation=aggregation), denominator="selected")
    case = prepared(objective, make_case((6, 1, 1, 1), spread=0.8))
    (bare,) = GRPO().terms(replace(case.batch, weights={}, selections={}), case.now)
    values = bare.per_token * case.batch.weights["surrogate"]
    kept = case.batch.selections["visual_tokens"]
    for rows in ([0, 1], [2, 3]):
        found = total_loss(objective, part(case, rows))
        if aggregation == "token_mean":
            wanted = values[rows][kept[rows]].mean()
        else:
            wanted = torch.stack([values[i][kept[i]].mean() for i in rows]).mean()
        assert found.item() == pytest.approx(wanted.item())


def test_without_pictures_nothing_is_dropped_or_scaled() -> None:
    case = make_case(LENGTHS, dtype=torch.float32)
    clean = ViewScores(logprobs=case.batch.scores.old_logprobs, entropy=torch.zeros(4, 6))
    blind = replace(case.batch, scores=replace(case.batch.scores, views={"removed": clean}))
    case = Case(blind, case.logits)
    weight = prepared(VPPO(), case).batch.weights["surrogate"]
    assert torch.equal(weight, case.batch.inputs.completion_mask.float())


def test_a_fixed_upper_factor_goes_to_the_completion_that_depends_most() -> None:
    dependency = torch.tensor([[0.1, 0.3], [1.0, 0.0], [0.6, 0.0], [0.0, 0.0]])
    mask = torch.tensor([[True, True], [True, False], [True, False], [False, False]])
    found = dependency_scale(dependency, mask, least=0.8, most=1.2)
    assert found.tolist() == pytest.approx([0.8, 1.2, 1.0, 1.0])


@settings(deadline=None, max_examples=100)
@given(
    rows=st.lists(st.lists(st.sampled_from([0.0, 0.0, 0.0, 0.5, 2.0]), max_size=9), min_size=1, max_size=5),
    fraction=st.floats(0.05, 1.0),
)
def test_exactly_the_wanted_number_of_tokens_is_kept_and_none_that_depends_less(
    rows: list[list[float]], fraction: float
) -> None:
    mask = ragged([len(row) for row in rows], 9)
    dependency = torch.full((len(rows), 9), 99.0)
    for i, row in enumerate(rows):
        dependency[i, : len(row)] = torch.tensor(row)
    kept = most_dependent(dependency, mask, fraction=fraction)
    assert not (kept & ~mask).any()
    for i, row in enumerate(rows):
        chosen = [value for value, inside in zip(row, kept[i].tolist(), strict=False) if inside]
        left = [value for value, inside in zip(row, kept[i].tolist(), strict=False) if not inside]
        wanted = len(row) if len(set(row)) < 2 else math.ceil(len(row) * fraction - 1e-9)
        assert len(chosen) == wanted
        assert not left or not chosen or min(chosen) >= max(left)


@settings(deadline=None, max_examples=60)
@given(
    rows=st.lists(st.lists(st.floats(0, 10, width=32), min_size=0, max_size=5), min_size=1, max_size=64),
    least=st.floats(0.01, 1.0),
    most=st.none() | st.floats(1.0, 3.0),
)
def test_factors_are_positive_and_without_an_upper_bound_their_mean_is_one(
    rows: list[list[float]], least: float, most: float | None
) -> None:
    mask = ragged([len(row) for row in rows], 5)
    dependency = torch.zeros(len(rows), 5, dtype=torch.float64)
    for i, row in enumerate(rows):
        dependency[i, : len(row)] = torch.tensor(row, dtype=torch.float64)
    found = dependency_scale(dependency, mask, least=least, most=most)
    used = mask.any(-1)
    assert (found > 0).all() and found[~used].eq(1).all()
    if used.any():
        assert found[used].min() >= min(least, 1) - 1e-12
        if most is None:
            assert found[used].mean().item() == pytest.approx(1.0)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**16), size=st.integers(2, 16))
def test_no_advantage_ever_changes_its_sign(seed: int, size: int) -> None:
    rewards = [float(n % 3 == 0) for n in range(size)]
    case = make_case([3] * size, groups=[0] * size, rewards=rewards, seed=seed)
    batch = prepared(VPPO(), case).batch
    kept = batch.selections["visual_tokens"]
    assert torch.equal(
        (batch.advantages * batch.weights["surrogate"]).sign()[kept], batch.advantages.sign()[kept]
    )


def test_gradcheck() -> None:
    objective = VPPO()
    case = prepared(objective, make_case((3, 1, 0, 2), width=3, spread=0.05))

    def loss(logits: Tensor) -> Tensor:
        return total_loss(objective, Case(case.batch, {"clean": logits})).reshape(())

    assert torch.autograd.gradcheck(loss, (case.logits["clean"].detach().requires_grad_(),))


def test_measures_say_how_many_tokens_are_kept_and_how_they_are_scaled() -> None:
    case = prepared(VPPO(), make_case(LENGTHS))
    assert measure(VPPO(), case, "perception/token_fraction") == pytest.approx(6 / 12)
    weight, kept = case.batch.weights["surrogate"], case.batch.selections["visual_tokens"]
    assert measure(VPPO(), case, "perception/advantage_scale") == pytest.approx(float(weight[kept].mean()))
    assert measure(VPPO(), case, "kl_prcp") > 0


def test_the_preset_has_the_papers_base_and_penalty() -> None:
    found = VPPO(preset="7b")
    assert (found.token_fraction, found.scale_min) == (0.4, 0.9)
    assert isinstance(found.base, PAPO) and isinstance(found.base.base, DAPO)
    assert (found.base.kl_prcp_coef, found.base.entropy_coef, found.base.base.clip_high) == (0.0, 0.06, 0.28)
    case = make_case(LENGTHS)
    names = [term.name for term in found.terms(prepared(found, case).batch, case.now)]
    assert names == ["surrogate", "entropy"]


def test_a_batch_that_was_not_scored_under_the_view_is_told_of() -> None:
    case = make_case(LENGTHS, views=("clean",))
    with pytest.raises(FovealError, match=r"vppo needs the view 'removed'.*\[perturbations.removed\]"):
        prepared(VPPO(), case)
