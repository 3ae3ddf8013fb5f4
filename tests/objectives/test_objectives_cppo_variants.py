"""CPPO's variants: presets, all tokens as an ablation, padded places, estimators, what is not computed."""

import math
import tomllib
from dataclasses import replace

import pytest
import torch

from foveal.config import dump
from foveal.objectives.cppo import CONTRASTIVE_PERCEPTION, CPPO
from foveal.objectives.extension import build_objective
from foveal.objectives.grpo import GRPO
from foveal.objectives.terms import kl_estimate
from objective_batches import Case, make_case, measure, prepared, total_loss


def test_presets_are_the_two_official_codes_and_the_papers_text():
    verl, areal, ours = (CPPO(preset=name) for name in ("verl", "areal", "ours"))
    assert (verl.score, verl.rounding, verl.divergence) == ("relative", "floor", "k3")
    assert (verl.candidates, verl.select_in) == ("all_places", "update")
    assert (verl.cpl_coef, verl.tau, verl.perception_fraction, verl.gate) == (0.01, 0.1, 0.5, True)
    assert (verl.base.clip_high, verl.base.dual_clip, verl.base.kl_coef) == (0.2, 3.0, 0.01)
    assert (areal.score, areal.rounding, areal.divergence, areal.k1_limit) == ("relative", "ceil", "k1", 10.0)
    assert (areal.base.clip_low, areal.base.clip_high, areal.base.kl_coef) == (0.4, 0.4, 0.0)
    assert (ours.score, ours.divergence, ours.select_in, ours.gate) == ("absolute", "exact", "scoring", True)
    assert ours.candidates == "completion"


def test_all_tokens_can_be_chosen_and_then_nothing_is_scored():
    objective = CPPO(selection="all")
    assert objective.score_views == () and objective.update_views == ("clean", "preserved", "removed")
    case = prepared(objective, make_case())
    chosen = case.batch.selections[CONTRASTIVE_PERCEPTION]
    assert torch.equal(chosen, case.batch.inputs.completion_mask & (case.batch.advantages > 0))
    everything = CPPO(selection="all", gate=False)
    assert torch.equal(
        prepared(everything, case).batch.selections[CONTRASTIVE_PERCEPTION], case.batch.inputs.completion_mask
    )


def test_padded_places_count_for_the_verl_variant_alone():
    # Row 0 has one completion token with a small rise and two padded places with a large one.
    case = make_case((1, 3), width=3, groups=(0, 0), rewards=(1.0, 0.0))
    views = dict(case.batch.scores.views)
    rise = torch.tensor([[0.1, 5.0, 4.0], [0.3, 0.2, 0.1]], dtype=torch.float64)
    zero = torch.zeros_like(rise)
    views["clean"] = replace(views["clean"], entropy=zero)
    views["removed"] = replace(views["removed"], entropy=rise)
    case = Case(replace(case.batch, scores=replace(case.batch.scores, views=views)), case.logits)

    def chosen(**fields):
        objective = CPPO(gate=False, perception_fraction=0.34, **fields)
        return prepared(objective, case).batch.selections[CONTRASTIVE_PERCEPTION].tolist()

    assert chosen() == [[True, False, False], [True, False, False]]
    assert chosen(candidates="all_places") == [[False, True, False], [True, False, False]]
    gated = CPPO(candidates="all_places", perception_fraction=1.0)
    assert prepared(gated, case).batch.selections[CONTRASTIVE_PERCEPTION].tolist() == [
        [True, False, False],
        [False, False, False],
    ], "an advantage of 0 on padding closes the gate there"


def test_a_k1_without_a_bound_can_be_written_and_comes_back_from_a_config():
    table = {"type": "cppo", "preset": "verl", "divergence": "k1"}
    objective = build_objective(table)
    assert objective.k1_limit == math.inf
    assert build_objective(tomllib.loads(dump(objective))) == objective
    assert build_objective(tomllib.loads('type = "cppo"\nk1_limit = inf')).k1_limit == math.inf


@pytest.mark.parametrize("estimator", ["k1", "abs", "k2", "k3"])
def test_divergences_take_any_estimator(estimator):
    objective = CPPO(base=GRPO(), cpl_coef=1.0, tau=0.7, divergence=estimator, k1_limit=math.inf)
    case = prepared(objective, make_case())
    chosen = case.batch.selections[CONTRASTIVE_PERCEPTION]
    now = {view: stats.logprobs[chosen] for view, stats in case.now.items()}
    kls = [kl_estimate(now["clean"], now[v], estimator=estimator) for v in ("preserved", "removed")]
    wanted = torch.log1p(torch.exp((kls[0] - kls[1]) / 0.7)).mean()
    added = total_loss(objective, case) - total_loss(objective.base, case)
    assert added.item() == pytest.approx(wanted.item(), abs=1e-12)


@pytest.mark.parametrize("divergence", ["k1", "k2", "k3", "exact"])
def test_divergences_are_logged_as_plain_k3_whatever_the_loss_has(divergence):
    objective = CPPO(divergence=divergence, k1_limit=1e-3)
    case = prepared(objective, make_case())
    chosen = case.batch.selections[CONTRASTIVE_PERCEPTION]
    now = {view: stats.logprobs.detach()[chosen] for view, stats in case.now.items()}
    for view in ("preserved", "removed"):
        wanted = kl_estimate(now["clean"], now[view], estimator="k3").mean().item()
        assert measure(objective, case, f"perception/{view}_kl") == pytest.approx(wanted)


def test_only_completions_that_the_gate_lets_through_are_scored():
    case = make_case(rewards=(1.0, 0.0, 0.5, 0.5))
    inputs = case.batch.inputs
    assert CPPO().score_rows("removed", inputs).tolist() == [True, False, False, False]
    assert CPPO().score_rows("clean", inputs).tolist() == [True, False, False, False]
    assert CPPO(gate=False).score_rows("removed", inputs).all()
    assert not CPPO(cpl_coef=0.0).score_rows("removed", inputs).any()
    assert not CPPO().score_rows("elsewhere", inputs).any()


def test_rows_that_were_not_scored_are_never_chosen_and_measured_nowhere():
    objective = CPPO(perception_fraction=1.0)
    case = make_case(rewards=(1.0, 0.0, 0.5, 0.5))
    rows = objective.score_rows("removed", case.batch.inputs)
    hole = rows.logical_not().unsqueeze(-1)
    views = {
        name: replace(
            view,
            logprobs=view.logprobs.masked_fill(hole, torch.nan),
            entropy=view.entropy.masked_fill(hole, torch.nan),
            rows=rows,
        )
        for name, view in case.batch.scores.views.items()
    }
    partly = Case(replace(case.batch, scores=replace(case.batch.scores, views=views)), case.logits)
    found, wanted = prepared(objective, partly), prepared(objective, case)
    chosen = found.batch.selections[CONTRASTIVE_PERCEPTION]
    assert torch.equal(chosen, wanted.batch.selections[CONTRASTIVE_PERCEPTION])
    measures = {m.name: m for m in objective.measures(found.batch, found.now)}
    for name in ("kl_prcp", "perception/information_gain", "perception/entropy_shift"):
        assert torch.equal(measures[name].mask.any(-1), rows & case.batch.inputs.completion_mask.any(-1))
        assert measures[name].per_token.isfinite().all()


def test_scaling_lowers_lambda_alone():
    assert CPPO(cpl_coef=0.04).scaled(0.25).cpl_coef == 0.01
