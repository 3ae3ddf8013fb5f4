import math
from dataclasses import replace

import pytest
import torch

from foveal.objectives import REGISTRY
from foveal.objectives.cppo import CPPO
from foveal.objectives.dapo import DAPO
from foveal.objectives.grpo import GRPO
from foveal.objectives.papo import PAPO
from foveal.objectives.terms import aggregate, count, exact_kl, masked_mean
from foveal.spec import ConfigError, FovealError, build_component
from objective_batches import Case, gradients, make_case, measure, part, prepared, total_loss

BASES = [GRPO(), GRPO(kl_coef=0.05, aggregation="token_mean"), DAPO()]
ALL_ON = {"kl_prcp_coef": 0.3, "entropy_coef": 0.07, "removed_entropy_coef": 0.05}


def kl_prcp(objective: PAPO, case: Case) -> float:
    found = {term.name: term for term in objective.terms(case.batch, case.now)}["kl_prcp"]
    return float(masked_mean(found.per_token, found.mask))


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_with_all_coefficients_zero_it_is_its_base_bit_for_bit(base, dtype):
    papo = PAPO(base=base, kl_prcp_coef=0.0)
    case = make_case(dtype=dtype, spread=0.8)
    assert papo.score_views == base.score_views and papo.update_views == base.update_views
    assert list(papo.masks(case.batch)) == list(base.masks(case.batch))
    assert torch.equal(total_loss(papo, prepared(papo, case)), total_loss(base, prepared(base, case)))
    for view, expected in gradients(base, case).items():
        assert torch.equal(gradients(papo, case)[view], expected)
    names = [[term.name for term in o.measures(case.batch, case.now)] for o in (papo, base)]
    assert names[0] == names[1]


@pytest.mark.parametrize("aggregation", ["token_mean", "sequence_mean"])
@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_loss_equals_a_loop_over_the_added_terms(aggregation, estimator):
    base = GRPO(aggregation=aggregation)
    objective = PAPO(base=base, estimator=estimator, **ALL_ON)
    case = prepared(objective, make_case((5, 2, 0, 1)))
    now = case.now["clean"].logprobs.tolist()
    removed = case.batch.scores.views["removed"].logprobs.tolist()
    rows = []
    for i, row in enumerate(case.batch.inputs.completion_mask.tolist()):
        values = []
        for t, inside in enumerate(row):
            if inside:
                k = removed[i][t] - now[i][t]
                kl = {"k1": -k, "k2": k * k / 2, "k3": min(math.exp(k) - k - 1, 10.0)}[estimator]
                values.append(-0.3 * kl - 0.07 * now[i][t] - 0.05 * removed[i][t])
        if values:
            rows.append(values)
    if aggregation == "token_mean":
        added = sum(map(sum, rows)) / sum(map(len, rows))
    else:
        added = sum(sum(row) / len(row) for row in rows) / len(rows)
    expected = total_loss(base, case).item() + added
    assert total_loss(objective, case).item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_equal_views_give_exactly_zero_kl_prcp_and_no_gradient_from_it(seed):
    objective = PAPO(kl_prcp_coef=1.0)
    case = prepared(objective, make_case(seed=seed, spread=0.0, dtype=torch.float32))
    clean = case.batch.scores.views["clean"]
    views = {**case.batch.scores.views, "removed": clean}
    same = Case(replace(case.batch, scores=replace(case.batch.scores, views=views)), case.logits)
    assert kl_prcp(objective, same) == 0.0
    assert torch.equal(gradients(objective, same)["clean"], gradients(GRPO(), same)["clean"])


def test_without_removed_gradient_the_removed_view_is_scored_and_gets_none():
    objective = PAPO(**ALL_ON)
    assert objective.score_views == ("removed",) and objective.update_views == ("clean",)
    assert objective.views == ("clean", "removed")
    found = gradients(objective, make_case())
    assert found["removed"].eq(0).all() and found["clean"].abs().sum() > 0


def test_with_removed_gradient_the_removed_view_is_run_in_the_update_and_gets_the_opposite_slope():
    objective = PAPO(kl_prcp_coef=0.3, removed_gradient=True)
    assert objective.score_views == () and objective.update_views == ("clean", "removed")
    case = prepared(objective, make_case())
    clean, removed = (case.now[view].logprobs.detach().requires_grad_() for view in ("clean", "removed"))
    now = {
        "clean": replace(case.now["clean"], logprobs=clean),
        "removed": replace(case.now["removed"], logprobs=removed),
    }
    (term,) = [t for t in objective.terms(case.batch, now) if t.name == "kl_prcp"]
    mean = aggregate(term.per_token, term.mask, aggregation="sequence_mean", count=count(term.mask))
    (term.coef * mean).backward()
    assert torch.allclose(removed.grad, -clean.grad) and clean.grad.abs().sum() > 0
    gap = (removed - clean).detach()
    lengths = case.batch.inputs.completion_mask.sum(-1, keepdim=True)
    unclamped = term.mask & (gap.exp() - gap - 1 < 10)
    expected = torch.where(unclamped, -0.3 * (1 - gap.exp()) / lengths / 4, 0.0)
    assert torch.allclose(clean.grad, expected, atol=1e-12)


def test_removed_entropy_shows_in_the_loss_but_trains_only_with_removed_gradient():
    scored = PAPO(kl_prcp_coef=0.0, removed_entropy_coef=0.5)
    case = make_case()
    assert total_loss(scored, prepared(scored, case)) != total_loss(GRPO(), prepared(GRPO(), case))
    assert torch.equal(gradients(scored, case)["clean"], gradients(GRPO(), case)["clean"])
    running = PAPO(kl_prcp_coef=0.0, removed_entropy_coef=0.5, removed_gradient=True)
    assert gradients(running, case)["removed"].abs().sum() > 0


@pytest.mark.parametrize("kind", ["sampled", "full"])
def test_entropy_terms_are_of_the_kind_asked_for(kind):
    objective = PAPO(removed_gradient=True, entropy_kind=kind, **ALL_ON)
    case = prepared(objective, make_case())
    terms = {term.name: term for term in objective.terms(case.batch, case.now)}
    mask = case.batch.inputs.completion_mask
    for name, view in (("entropy", "clean"), ("removed_entropy", "removed")):
        stats = case.now[view]
        expected = stats.entropy if kind == "full" else -stats.logprobs
        assert torch.equal(terms[name].per_token[mask], expected[mask])


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3", "exact"])
@pytest.mark.parametrize("removed_gradient", [True, False])
def test_one_ascent_step_on_the_term_raises_kl_prcp(estimator, removed_gradient):
    if estimator == "exact" and not removed_gradient:
        return
    objective = PAPO(kl_prcp_coef=1.0, estimator=estimator, removed_gradient=removed_gradient)
    case = prepared(objective, make_case(rewards=(1.0, 1.0, 1.0, 1.0)))

    def mean_kl(of: Case) -> torch.Tensor:
        term = [t for t in objective.terms(of.batch, of.now) if t.name == "kl_prcp"][0]
        return aggregate(term.per_token, term.mask, aggregation="token_mean", count=count(term.mask))

    moved = {
        view: (case.logits[view] - 0.01 * grad).detach() for view, grad in gradients(objective, case).items()
    }
    assert mean_kl(Case(case.batch, moved)) > mean_kl(case)


def test_exact_kl_prcp_is_the_kl_over_the_vocabulary_at_each_token():
    objective = PAPO(estimator="exact", removed_gradient=True)
    case = prepared(objective, make_case())
    (term,) = [t for t in objective.terms(case.batch, case.now) if t.name == "kl_prcp"]
    clean, removed = (case.logits[view].log_softmax(-1) for view in ("clean", "removed"))
    expected = torch.where(case.batch.inputs.completion_mask, exact_kl(clean, removed), 0.0)
    assert torch.allclose(term.per_token, expected, atol=1e-14)


@pytest.mark.parametrize("removed_gradient", [False, True])
def test_padding_gets_exactly_zero_gradient_in_both_branches_and_may_hold_anything(removed_gradient):
    objective = PAPO(removed_gradient=removed_gradient, **ALL_ON)
    case = prepared(objective, make_case())
    outside = ~case.batch.inputs.completion_mask
    found = gradients(objective, case)
    assert all(grad[outside].eq(0).all() for grad in found.values())
    score = case.batch.scores.views["removed"]
    junk = replace(score, logprobs=torch.where(outside, float("nan"), score.logprobs))
    views = {**case.batch.scores.views, "removed": junk}
    dirty = Case(replace(case.batch, scores=replace(case.batch.scores, views=views)), case.logits)
    assert torch.equal(gradients(objective, dirty)["clean"], found["clean"])


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
@pytest.mark.parametrize("junk", [float("nan"), float("inf"), -1e4])
def test_junk_logprobs_of_the_running_policy_on_padding_get_exactly_zero_gradient(estimator, junk):
    objective = PAPO(base=GRPO(kl_coef=0.1), estimator=estimator, removed_gradient=True, **ALL_ON)
    case = prepared(objective, make_case())
    mask = case.batch.inputs.completion_mask
    leaves = {
        view: torch.where(mask, stats.logprobs.detach(), junk).requires_grad_()
        for view, stats in case.now.items()
    }
    now = {view: replace(stats, logprobs=leaves[view]) for view, stats in case.now.items()}
    terms = objective.terms(case.batch, now)
    parts = [
        t.coef * aggregate(t.per_token, t.mask, aggregation="token_mean", count=count(t.mask)) for t in terms
    ]
    torch.stack(parts).sum().backward()
    for view in ("clean", "removed"):
        grad = leaves[view].grad
        assert grad[~mask].eq(0).all() and grad[mask].isfinite().all() and grad[mask].abs().sum() > 0


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("removed_gradient", [False, True])
def test_split_and_order_of_rows_do_not_change_loss_or_gradient(base, removed_gradient):
    objective = PAPO(base=base, removed_gradient=removed_gradient, **ALL_ON)
    case = prepared(objective, make_case((5, 2, 0, 1), spread=0.8))
    masks = objective.masks(case.batch)
    counts = {name: count(mask) for name, mask in masks.items()}
    terms = objective.terms(case.batch, case.now)
    assert [t.name for t in terms] == list(masks) and all(torch.equal(t.mask, masks[t.name]) for t in terms)
    whole = total_loss(objective, case)
    parts = sum(total_loss(objective, part(case, rows), counts) for rows in [[3], [1, 0], [2]])
    assert parts.item() == pytest.approx(whole.item(), abs=1e-13)
    (a,), (b,) = (torch.autograd.grad(x, case.logits["clean"], retain_graph=True) for x in (whole, parts))
    assert (a - b).norm() <= 1e-12 * a.norm()


def test_rows_of_the_removed_view_are_all_completions_with_tokens_right_or_wrong():
    objective = PAPO(removed_gradient=True)
    batch = prepared(objective, make_case((5, 0, 4, 1))).batch
    assert objective.rows("removed", batch).tolist() == [True, False, True, True]
    assert objective.rows("clean", batch).tolist() == [True, False, True, True]
    assert not objective.rows("noised", batch).any()


def test_it_holds_any_base_cppo_too_and_clean_rows_stay_complete():
    objective = PAPO(base=CPPO(), kl_prcp_coef=0.1, removed_gradient=True)
    case = prepared(objective, make_case())
    names = [term.name for term in objective.terms(case.batch, case.now)]
    assert names == ["surrogate", "contrastive_perception", "kl_prcp"]
    assert objective.update_views == ("clean", "preserved", "removed")
    assert objective.rows("removed", case.batch).all()
    assert objective.rows("preserved", case.batch).tolist() == CPPO().rows("preserved", case.batch).tolist()


def test_a_removed_view_that_is_only_scored_is_run_no_more_than_the_base_asks():
    objective = PAPO(base=CPPO(), kl_prcp_coef=0.1)
    batch = prepared(objective, make_case()).batch
    assert objective.score_rows("removed", batch.inputs).all()
    wanted = CPPO().rows("removed", batch)
    assert objective.rows("removed", batch).equal(wanted) and not wanted.all()


def test_the_view_may_have_any_name():
    objective = PAPO(removed_view="donor", **ALL_ON)
    case = make_case(views=("clean", "donor"))
    assert objective.views == ("clean", "donor")
    assert gradients(objective, case)["clean"].abs().sum() > 0


def test_averaging_follows_the_base_and_another_one_is_refused():
    assert PAPO(base={"type": "dapo"}).aggregation == "token_mean"
    assert PAPO().aggregation == "sequence_mean"
    assert PAPO(base="dapo", aggregation="token_mean").aggregation == "token_mean"
    with pytest.raises(
        ConfigError, match="'token_mean' differs from the base's 'sequence_mean'.*objective.base"
    ):
        build_component({"type": "papo", "aggregation": "token_mean"}, REGISTRY, kind="objective")


def test_a_table_with_a_base_comes_back_from_its_dump():
    table = {"type": "papo", "kl_prcp_coef": 0.02, "base": {"type": "dapo", "clip_high": 0.3}}
    objective = build_component(table, REGISTRY, kind="objective")
    dump = objective.model_dump(mode="json")
    assert dump["base"]["type"] == "dapo" and dump["base"]["clip_high"] == 0.3
    assert build_component(dump, REGISTRY, kind="objective") == objective


def test_mistakes_in_the_base_are_named():
    with pytest.raises(ConfigError, match="did you mean 'grpo'"):
        PAPO(base="gropo")
    with pytest.raises(ConfigError, match="'clip_hihg'; did you mean 'clip_high'"):
        PAPO(base={"type": "grpo", "clip_hihg": 0.3})
    with pytest.raises(ConfigError, match="Noise. is not a class derived from foveal.types.Objective"):
        PAPO(base={"type": "foveal.perturbations.noise:Noise"})


def test_exact_without_removed_gradient_and_an_unscored_view_are_refused():
    with pytest.raises(ConfigError, match="'exact' needs.*removed_gradient = true"):
        PAPO(estimator="exact")
    case = prepared(GRPO(), make_case(views=("clean",)))
    with pytest.raises(FovealError, match="'removed'.*not scored.*patch_mask"):
        PAPO().terms(case.batch, case.now)
    with pytest.raises(FovealError, match="'removed'.*not run in the update"):
        PAPO(removed_gradient=True).terms(case.batch, case.now)


def test_keeps_advantages_and_reference_are_those_of_the_base():
    base = DAPO(kl_coef=0.1)
    objective = PAPO(base=base)
    inputs = make_case().batch.inputs
    assert objective.uses_reference and torch.equal(objective.advantages(inputs), base.advantages(inputs))


def test_measures_by_hand():
    objective = PAPO(base=GRPO())
    case = prepared(objective, make_case((3, 1, 2, 2)))
    mask = case.batch.inputs.completion_mask
    now, removed = case.now["clean"], case.batch.scores.views["removed"]
    gain = (now.logprobs - removed.logprobs)[mask]
    kl = ((-gain).exp() + gain - 1).clamp(max=10)
    assert measure(objective, case, "perception/information_gain") == pytest.approx(gain.mean().item())
    paid = {"kl_prcp_clip": 0.01, "token_fraction": 0.2, "estimator": "k1"}
    for fields in ({}, paid, {"kl_prcp_coef": 0.0, "removed_entropy_coef": 0.1}):
        watched = PAPO(base=GRPO(), **fields)
        assert measure(watched, case, "kl_prcp") == pytest.approx(kl.mean().item())
    shift = (removed.entropy - now.entropy)[mask].mean().item()
    assert measure(objective, case, "perception/entropy_shift") == pytest.approx(shift)
