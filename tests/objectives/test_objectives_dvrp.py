import math

import pytest
import torch
from torch import Tensor

from foveal.objectives.dapo import DAPO
from foveal.objectives.dvrp import DVRP
from foveal.objectives.grpo import GRPO
from foveal.objectives.papo import PAPO
from foveal.objectives.terms import kl_estimate, masked_mean
from foveal.spec import FovealError
from foveal.types import Objective
from objective_batches import Case, gradients, is_bit_for_bit, make_case, measure, prepared, total_loss

VIEWS = ("clean", "removed", "noised")
OFF = {"sensitivity_coef": 0.0, "robustness_coef": 0.0, "views_entropy_coef": 0.0}
LENGTHS = (5, 2, 0, 1)


def case_of(**changes: object) -> Case:
    return make_case(LENGTHS, views=VIEWS, **changes)


@pytest.mark.parametrize("views_gradient", [True, False])
@pytest.mark.parametrize("kind", ["sampled", "full"])
def test_loss_equals_a_loop_over_the_four_terms(views_gradient: bool, kind: str) -> None:
    base = GRPO(aggregation="token_mean")
    objective = DVRP(
        base=base,
        sensitivity_coef=0.3,
        robustness_coef=0.2,
        views_entropy_coef=0.07,
        entropy_kind=kind,
        views_gradient=views_gradient,
    )
    case = prepared(objective, case_of())
    views = case.now if views_gradient else case.batch.scores.views
    clean, total, count = case.now["clean"].logprobs.tolist(), 0.0, 0
    for i, row in enumerate(case.batch.inputs.completion_mask.tolist()):
        for t, inside in enumerate(row):
            if not inside:
                continue
            count += 1
            for view, coef in (("removed", -0.3), ("noised", 0.2)):
                gap = views[view].logprobs[i, t].item() - clean[i][t]
                total += coef * min(math.exp(gap) - gap - 1, 10.0)
                entropy = -views[view].logprobs[i, t] if kind == "sampled" else views[view].entropy[i, t]
                total += 0.07 * entropy.item()
    wanted = total_loss(base, case).item() + total / count
    assert total_loss(objective, case).item() == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("base", [GRPO(), DAPO(), PAPO(kl_prcp_coef=0.1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_with_all_coefficients_zero_it_is_its_base_bit_for_bit(base: Objective, dtype: torch.dtype) -> None:
    objective, case = DVRP(base=base, **OFF), case_of(dtype=dtype, spread=0.8)
    assert is_bit_for_bit(objective, base, case)


def test_views_are_run_or_scored_as_configured() -> None:
    running, scored = DVRP(), DVRP(views_gradient=False)
    assert (running.score_views, running.update_views) == ((), VIEWS)
    assert (scored.score_views, scored.update_views) == (("removed", "noised"), ("clean",))
    named = DVRP(robustness_coef=0.0, views_entropy_coef=0.0, removed_view="blurred", noised_view="grainy")
    assert named.views == ("clean", "blurred")
    case = case_of()
    for view in VIEWS:
        assert torch.equal(running.rows(view, case.batch), torch.tensor([True, True, False, True]))
    for view in ("removed", "noised"):
        assert torch.equal(
            scored.score_rows(view, case.batch.inputs), torch.tensor([True, True, False, True])
        )


def test_gradient_reaches_all_three_views_or_the_clean_one_alone() -> None:
    mask = case_of().batch.inputs.completion_mask
    found = gradients(DVRP(), case_of())
    assert all(torch.equal(gradient.abs().sum(-1) > 0, mask) for gradient in found.values())
    scored = gradients(DVRP(views_gradient=False), case_of())
    assert scored["removed"].eq(0).all() and scored["noised"].eq(0).all()
    assert torch.equal(scored["clean"].abs().sum(-1) > 0, mask)


@pytest.mark.parametrize(
    ("coef", "name", "rises"),
    [("sensitivity_coef", "kl_prcp", True), ("robustness_coef", "noised_kl", False)],
)
def test_one_step_moves_each_divergence_the_right_way(coef: str, name: str, rises: bool) -> None:
    objective = DVRP(**{**OFF, coef: 1.0})
    case = prepared(objective, case_of(rewards=(0.9,) * 4))

    def mean(of: Case) -> float:
        (term,) = [t for t in objective.terms(of.batch, of.now) if t.name == name]
        return float(masked_mean(term.per_token, term.mask).detach())

    moved = {view: (case.logits[view] - 0.01 * g).detach() for view, g in gradients(objective, case).items()}
    assert (mean(Case(case.batch, moved)) > mean(case)) is rises


def test_entropies_of_both_views_fall_in_one_step() -> None:
    objective = DVRP(**{**OFF, "views_entropy_coef": 1.0}, entropy_kind="full")
    case = prepared(objective, case_of(rewards=(0.9,) * 4))
    moved = {view: (case.logits[view] - 0.01 * g).detach() for view, g in gradients(objective, case).items()}
    after, mask = Case(case.batch, moved).now, case.batch.inputs.completion_mask
    for view in ("removed", "noised"):
        assert after[view].entropy[mask].sum() < case.now[view].entropy[mask].sum()
    assert torch.equal(moved["clean"], case.logits["clean"])


def test_gradcheck() -> None:
    objective = DVRP(sensitivity_coef=0.3, robustness_coef=0.3)
    case = prepared(objective, make_case((3, 1, 0, 2), width=3, spread=0.05, views=VIEWS))

    def loss(*logits: Tensor) -> Tensor:
        return total_loss(objective, Case(case.batch, dict(zip(VIEWS, logits, strict=True)))).reshape(())

    inputs = tuple(case.logits[view].detach().requires_grad_() for view in VIEWS)
    assert torch.autograd.gradcheck(loss, inputs)


def test_scaled_lowers_what_is_paid_for_and_nothing_that_bounds_it() -> None:
    found = DVRP(base=PAPO(kl_prcp_coef=0.2)).scaled(0.5)
    assert isinstance(found, DVRP) and isinstance(found.base, PAPO)
    assert (found.sensitivity_coef, found.robustness_coef, found.views_entropy_coef) == (0.005, 0.01, 0.05)
    assert found.base.kl_prcp_coef == 0.1


def test_a_missing_view_is_told_of() -> None:
    case = prepared(GRPO(), make_case(LENGTHS, views=("clean", "removed")))
    with pytest.raises(FovealError, match=r"dvrp needs the view 'noised'.*diffusion_noise"):
        DVRP().terms(case.batch, case.now)


@pytest.mark.parametrize("preset", ["g", "d"])
def test_presets_have_no_reference_and_the_published_coefficients(preset: str) -> None:
    found = DVRP(preset=preset)
    assert not found.uses_reference and isinstance(found.base, DAPO if preset == "d" else GRPO)
    assert (found.sensitivity_coef, found.views_entropy_coef) == (0.01, 0.05)


def test_kl_prcp_is_measured_as_plain_k3_whatever_the_estimator() -> None:
    case = make_case(views=VIEWS)
    mask = case.batch.inputs.completion_mask
    now = {view: stats.logprobs.detach()[mask] for view, stats in case.now.items()}
    wanted = kl_estimate(now["clean"], now["removed"], estimator="k3").mean().item()
    for fields in ({"estimator": "k1"}, {"estimator": "k3"}, {"sensitivity_coef": 0.0}):
        objective = DVRP(**fields)
        assert measure(objective, prepared(objective, case), "kl_prcp") == pytest.approx(wanted)
