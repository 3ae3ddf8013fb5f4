"""What must hold for every objective, on ragged, empty, extreme and broken batches."""

import math
from dataclasses import replace

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from foveal.objectives.cispo import CISPO
from foveal.objectives.cppo import CPPO, perception_tokens
from foveal.objectives.dapo import DAPO
from foveal.objectives.dr_grpo import DrGRPO
from foveal.objectives.dvrp import DVRP
from foveal.objectives.grpo import GRPO
from foveal.objectives.gspo import GSPO
from foveal.objectives.noisy_rollout import NoisyRollout
from foveal.objectives.papo import PAPO
from foveal.objectives.perception_reward import PerceptionReward
from foveal.objectives.reinforce_pp import ReinforcePP
from foveal.objectives.rloo import RLOO
from foveal.objectives.vppo import VPPO
from foveal.types import Objective
from objective_batches import Case, gradients, make_case, prepared, total_loss

OBJECTIVES: dict[str, Objective] = {
    "grpo": GRPO(kl_coef=0.1, dual_clip=3.0),
    "grpo_bonus": GRPO(entropy_bonus_coef=0.1, aggregation="sequence_sum", horizon=5),
    "dapo": DAPO(overlong_buffer=2, max_length=6),
    "papo": PAPO(kl_prcp_coef=0.3, entropy_coef=0.1, removed_entropy_coef=0.1, sft_coef=0.1),
    "papo_gradient": PAPO(kl_prcp_coef=0.3, removed_gradient=True, removed_entropy_coef=0.1),
    "papo_exact": PAPO(kl_prcp_coef=0.3, removed_gradient=True, estimator="exact", entropy_kind="full"),
    "papo_switches": PAPO(
        kl_prcp_coef=0.3, weighting="acc_weighted", token_fraction=0.4, kl_prcp_clip=0.5, base=DAPO()
    ),
    "cppo": CPPO(cpl_coef=0.3),
    "cppo_ours": CPPO(cpl_coef=0.3, preset="ours"),
    "cppo_verl": CPPO(cpl_coef=0.3, preset="verl"),
    "cppo_areal": CPPO(cpl_coef=0.3, preset="areal"),
    "cppo_all": CPPO(cpl_coef=0.3, selection="all", gate=False),
    "dr_grpo": DrGRPO(horizon=6),
    "rloo": RLOO(kl_coef=0.1),
    "reinforce_pp": ReinforcePP(discount=0.9),
    "reinforce_pp_group": ReinforcePP(baseline="group"),
    "gspo": GSPO(),
    "gspo_dual": GSPO(clip_low=0.2, clip_high=0.3, dual_clip=3.0),
    "cispo": CISPO(),
    "cispo_low": CISPO(clip_low=0.2, clip_high=0.2),
    "vppo": VPPO(),
    "vppo_selected": VPPO(denominator="selected", scale_max=1.5, base=DAPO()),
    "noisy_rollout": NoisyRollout(),
    "dvrp": DVRP(noised_view="preserved", sensitivity_coef=0.3, robustness_coef=0.3),
    "dvrp_scored": DVRP(noised_view="preserved", sensitivity_coef=0.3, views_gradient=False),
    "perception_segment": PerceptionReward(),
    "perception_all": PerceptionReward(on="all_tokens", base=PAPO(kl_prcp_coef=0.1)),
    "papo_on_cppo": PAPO(kl_prcp_coef=0.1, base=CPPO(cpl_coef=0.2)),
}
every_objective = pytest.mark.parametrize("name", OBJECTIVES)

REWARD = st.sampled_from([0.0, 0.1, 0.9, 1.0])


@st.composite
def batches(draw: st.DrawFn) -> dict[str, object]:
    """Lengths with empty and one-token completions, groups of 2 to 64, rewards as the papers give them."""
    sizes = draw(st.sampled_from([[2], [2, 3], [5, 2, 2], [64], [8, 4]]))
    rows = sum(sizes)
    return {
        "lengths": draw(st.lists(st.integers(0, 6), min_size=rows, max_size=rows)),
        "groups": [index for index, size in enumerate(sizes) for _ in range(size)],
        "rewards": draw(st.lists(REWARD, min_size=rows, max_size=rows)),
        "seed": draw(st.integers(0, 2**16)),
        "spread": draw(st.sampled_from([0.0, 0.3, 2.0])),
    }


def with_padding_junk(case: Case, junk: float) -> Case:
    """Every tensor that has places outside the mask holds junk there."""
    mask = case.batch.inputs.completion_mask

    def spoil(values: Tensor) -> Tensor:
        return values.masked_fill(~mask, junk)

    scores = case.batch.scores
    views = {
        name: replace(view, logprobs=spoil(view.logprobs), entropy=spoil(view.entropy))
        for name, view in scores.views.items()
    }
    spoilt = replace(
        scores,
        old_logprobs=spoil(scores.old_logprobs),
        ref_logprobs=None if scores.ref_logprobs is None else spoil(scores.ref_logprobs),
        views=views,
    )
    return Case(replace(case.batch, scores=spoilt), case.logits)


@every_objective
@settings(deadline=None, max_examples=15)
@given(given_batch=batches())
def test_loss_is_finite_and_padding_gets_exactly_no_gradient(name: str, given_batch: dict) -> None:
    case = make_case(**given_batch)
    mask = case.batch.inputs.completion_mask
    found = gradients(OBJECTIVES[name], case)
    assert math.isfinite(total_loss(OBJECTIVES[name], prepared(OBJECTIVES[name], case)).item())
    for gradient in found.values():
        assert gradient.isfinite().all() and gradient[~mask].eq(0).all()


@pytest.mark.parametrize("name", [n for n in OBJECTIVES if n != "cppo_verl"])
@settings(deadline=None, max_examples=10)
@given(given_batch=batches(), junk=st.sampled_from([math.nan, math.inf, -math.inf, 1e30]))
def test_what_stands_on_padding_changes_nothing(name: str, given_batch: dict, junk: float) -> None:
    # The verl variant ranks padded places too, on purpose.
    objective, case = OBJECTIVES[name], make_case(**given_batch)
    wanted = total_loss(objective, prepared(objective, case))
    assert torch.equal(total_loss(objective, prepared(objective, with_padding_junk(case, junk))), wanted)


@every_objective
@pytest.mark.parametrize("shift", [1e4, -1e4])
def test_extreme_log_ratios_give_finite_losses_and_gradients(name: str, shift: float) -> None:
    objective, case = OBJECTIVES[name], make_case((5, 2, 4, 1), dtype=torch.float32)
    scores = case.batch.scores
    views = {
        view: replace(found, logprobs=found.logprobs + shift) if view != "clean" else found
        for view, found in scores.views.items()
    }
    far = replace(
        scores,
        old_logprobs=scores.old_logprobs - shift,
        ref_logprobs=scores.ref_logprobs + shift,
        views=views,
    )
    case = Case(replace(case.batch, scores=far), case.logits)
    assert math.isfinite(total_loss(objective, prepared(objective, case)).item())
    assert all(gradient.isfinite().all() for gradient in gradients(objective, case).values())


@every_objective
@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["now", "old"])
def test_a_number_that_is_not_finite_on_a_token_that_counts_is_never_hidden(
    name: str, broken: float, where: str
) -> None:
    objective, case = OBJECTIVES[name], make_case((5, 2, 4, 1))
    case = prepared(objective, case)
    # A token that the surrogate counts: a method may leave others out.
    row, place = objective.masks(case.batch)["surrogate"].nonzero()[0].tolist()
    if where == "old":
        old = case.batch.scores.old_logprobs.clone()
        old[row, place] = broken
        case = Case(replace(case.batch, scores=replace(case.batch.scores, old_logprobs=old)), case.logits)
        assert math.isnan(total_loss(objective, case).item())
        return
    now = dict(case.now)
    logprobs = now["clean"].logprobs.clone()
    logprobs[row, place] = broken
    now["clean"] = replace(now["clean"], logprobs=logprobs)
    terms = objective.terms(case.batch, now)
    assert any(term.per_token[term.mask].isnan().any() for term in terms)


CLIPPED = {
    kind: PAPO(kl_prcp_coef=0.3, estimator=kind, kl_prcp_clip=0.2) for kind in ("k1", "abs", "k2", "k3")
}
READS_REMOVED = [*CLIPPED, "papo", "papo_gradient", "cppo", "cppo_verl", "cppo_areal", "cppo_all"]


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", READS_REMOVED)
def test_a_removed_view_that_is_not_finite_is_never_hidden(name: str, broken: float) -> None:
    objective = CLIPPED.get(name) or OBJECTIVES[name]
    case = make_case((5, 2, 4, 1))
    scored = {
        view: replace(found, logprobs=torch.full_like(found.logprobs, broken)) if view == "removed" else found
        for view, found in case.batch.scores.views.items()
    }
    case = Case(replace(case.batch, scores=replace(case.batch.scores, views=scored)), case.logits)
    case = prepared(objective, case)
    now = dict(case.now)
    now["removed"] = replace(now["removed"], logprobs=torch.full_like(now["removed"].logprobs, broken))
    own = [
        term
        for term in objective.terms(case.batch, now)
        if term.name in ("kl_prcp", "contrastive_perception")
    ]
    assert own and all(term.per_token[term.mask].isnan().any() for term in own)


def test_a_token_whose_entropy_is_not_known_is_not_left_out_of_the_choice() -> None:
    entropy = torch.tensor([[0.1, 0.2, 0.3]])
    removed = torch.tensor([[0.2, math.nan, 0.1]])
    found = perception_tokens(
        entropy, removed, torch.ones(1, 3, dtype=torch.bool), fraction=0.5, score="absolute"
    )
    assert found[0, 1]


@every_objective
@settings(deadline=None, max_examples=10)
@given(size=st.integers(2, 64), reward=REWARD)
def test_a_group_of_equal_rewards_has_exactly_zero_advantage(name: str, size: int, reward: float) -> None:
    case = make_case([3] * size, groups=[0] * size, rewards=[reward] * size, dtype=torch.float32)
    assert OBJECTIVES[name].advantages(case.batch.inputs).eq(0).all()


@pytest.mark.parametrize("base", [GRPO(), DAPO(), GRPO(aggregation="sequence_sum")])
def test_without_advantage_a_base_gives_exactly_zero_gradient(base: Objective) -> None:
    for gradient in gradients(base, make_case(rewards=(0.9,) * 4)).values():
        assert gradient.eq(0).all()


@every_objective
def test_a_saved_objective_is_the_same_objective(name: str) -> None:
    objective = OBJECTIVES[name]
    assert type(objective).model_validate(objective.model_dump()) == objective
