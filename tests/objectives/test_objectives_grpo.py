import math
from dataclasses import replace

import pytest
import torch

from foveal.objectives import REGISTRY
from foveal.objectives.dapo import DAPO, overlong_penalty
from foveal.objectives.grpo import GRPO
from foveal.objectives.terms import aggregate, count
from foveal.spec import ConfigError, FovealError, build_component
from foveal.types import Completion, Group, Problem, Scores
from objective_batches import Case, gradients, make_case, measure, part, prepared, ragged, total_loss

FULL = GRPO(clip_low=0.2, clip_high=0.3, dual_clip=3.0, kl_coef=0.05)


def group(*correct: bool) -> Group:
    completion = Completion(token_ids=(1,), sampled_logprobs=(0.0,), text="", finish="stop")
    return Group(
        problem=Problem(id="p", question="", images=(), answer="1"),
        completions=(completion,) * len(correct),
        rewards=tuple(float(c) for c in correct),
        correct=correct,
    )


def looped_loss(objective: GRPO | DAPO, case: Case) -> float:
    """The method in plain Python, row by row."""
    now = case.now["clean"].logprobs.tolist()
    old, ref = case.batch.scores.old_logprobs.tolist(), case.batch.scores.ref_logprobs.tolist()
    advantages, mask = case.batch.advantages.tolist(), case.batch.inputs.completion_mask.tolist()
    rows = []
    for i, row in enumerate(mask):
        losses = []
        for t, inside in enumerate(row):
            if not inside:
                continue
            a, r = advantages[i][t], math.exp(now[i][t] - old[i][t])
            loss = max(-a * r, -a * min(max(r, 1 - objective.clip_low), 1 + objective.clip_high))
            if a < 0 and objective.dual_clip is not None:
                loss = min(loss, -a * objective.dual_clip)
            k = ref[i][t] - now[i][t]
            losses.append(loss + objective.kl_coef * min(math.exp(k) - k - 1, 10.0))
        if losses:
            rows.append(losses)
    if objective.aggregation == "token_mean":
        return sum(map(sum, rows)) / sum(map(len, rows))
    return sum(sum(row) / len(row) for row in rows) / len(rows)


@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_every_registered_objective_is_built_by_name_and_comes_back_from_its_dump(name):
    objective = build_component(name, REGISTRY, kind="objective")
    assert objective.type == name
    dump = objective.model_dump(mode="json")
    assert build_component(dump, REGISTRY, kind="objective") == objective


@pytest.mark.parametrize("aggregation", ["token_mean", "sequence_mean"])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("lengths", [(5, 2, 4, 1), (6, 6, 6, 6), (1, 0, 3, 6)])
def test_loss_equals_a_loop(aggregation, seed, lengths):
    objective = FULL.model_copy(update={"aggregation": aggregation})
    case = prepared(objective, make_case(lengths, seed=seed, spread=0.8))
    assert total_loss(objective, case).item() == pytest.approx(looped_loss(objective, case), abs=1e-12)


def test_at_the_old_policy_the_gradient_on_a_logprob_is_minus_the_advantage_over_the_count():
    objective = GRPO(aggregation="token_mean")
    case = make_case((2, 1), groups=(0, 0), rewards=(1.0, 0.0), width=2)
    case = prepared(objective, case)
    leaf = case.batch.scores.old_logprobs.clone().requires_grad_()
    stats = replace(case.now["clean"], logprobs=leaf)
    (term,) = objective.terms(case.batch, {"clean": stats})
    aggregate(term.per_token, term.mask, aggregation="token_mean", count=count(term.mask)).backward()
    assert torch.allclose(leaf.grad, -case.batch.advantages / 3, atol=1e-15)
    assert leaf.grad[1, 1] == 0


@pytest.mark.parametrize("objective", [GRPO(), FULL, DAPO()])
def test_padding_gets_exactly_zero_gradient_and_may_hold_anything(objective):
    case = prepared(objective, make_case())
    clean = gradients(objective, case)["clean"]
    outside = ~case.batch.inputs.completion_mask
    assert clean[outside].eq(0).all() and clean[~outside].abs().sum() > 0
    scores = case.batch.scores
    junk = torch.full_like(scores.old_logprobs, float("nan"))
    dirty_scores = Scores(
        old_logprobs=torch.where(outside, junk, scores.old_logprobs),
        ref_logprobs=torch.where(outside, -junk, scores.ref_logprobs),
        views=scores.views,
    )
    dirty = Case(replace(case.batch, scores=dirty_scores), case.logits)
    assert torch.equal(gradients(objective, dirty)["clean"], clean)


def test_a_nan_on_a_token_that_counts_reaches_the_loss():
    case = prepared(FULL, make_case())
    old = case.batch.scores.old_logprobs.clone()
    old[0, 0] = float("nan")
    case = Case(replace(case.batch, scores=replace(case.batch.scores, old_logprobs=old)), case.logits)
    assert total_loss(FULL, case).isnan()


@pytest.mark.parametrize("objective", [FULL, DAPO(kl_coef=0.1), GRPO(advantage="group_mean")])
def test_terms_have_the_names_and_masks_that_were_announced(objective):
    case = prepared(objective, make_case())
    masks = objective.masks(case.batch)
    terms = objective.terms(case.batch, case.now)
    assert [term.name for term in terms] == list(masks)
    assert all(torch.equal(term.mask, masks[term.name]) for term in terms)


@pytest.mark.parametrize("objective", [FULL, DAPO(kl_coef=0.1)])
@pytest.mark.parametrize("split", [[[0], [1], [2], [3]], [[3, 1], [0, 2]], [[2, 0, 3, 1]]])
def test_split_and_order_of_rows_do_not_change_loss_or_gradient(objective, split):
    case = prepared(objective, make_case((5, 2, 0, 1), spread=0.8))
    counts = {name: count(mask) for name, mask in objective.masks(case.batch).items()}
    whole = total_loss(objective, case)
    parts = sum(total_loss(objective, part(case, rows), counts) for rows in split)
    assert parts.item() == pytest.approx(whole.item(), abs=1e-14)
    (a,), (b,) = (torch.autograd.grad(x, case.logits["clean"]) for x in (whole, parts))
    assert (a - b).norm() <= 1e-12 * a.norm()


def test_reference_policy_is_asked_for_only_with_a_coefficient_and_missed_with_a_clear_error():
    assert not GRPO().uses_reference and not DAPO().uses_reference and FULL.uses_reference
    case = prepared(FULL, make_case())
    case = Case(replace(case.batch, scores=replace(case.batch.scores, ref_logprobs=None)), case.logits)
    with pytest.raises(FovealError, match="kl_coef 0.05 needs.*reference policy.*set objective.kl_coef = 0"):
        FULL.terms(case.batch, case.now)
    assert [term.name for term in GRPO().terms(case.batch, case.now)] == ["surrogate"]


def test_advantages_of_an_all_equal_group_are_exactly_zero_and_its_gradient_too():
    case = make_case(rewards=(0.9, 0.9, 1.0, 0.0), dtype=torch.float32)
    assert GRPO().advantages(case.batch.inputs)[:2].eq(0).all()
    found = gradients(GRPO(), case)["clean"]
    assert found[:2].eq(0).all() and found[2].abs().sum() > 0


def test_group_mean_advantages_are_not_divided():
    inputs = make_case((2, 1, 1, 1), width=2).batch.inputs
    found = GRPO(advantage="group_mean").advantages(inputs)
    assert found.tolist()[:2] == [[0.5, 0.5], [-0.5, 0.0]]


def test_measures_by_hand():
    objective = GRPO(clip_low=0.2, clip_high=0.2, dual_clip=3.0)
    case = make_case((3, 3), groups=(0, 0), rewards=(1.0, 0.0), width=3)
    case = prepared(objective, case)
    moved = torch.tensor([[0.5, 0.1, -0.5], [0.5, 1.5, -0.5]]).double()
    stats = replace(case.now["clean"], logprobs=case.batch.scores.old_logprobs + moved)
    case = Case(case.batch, case.logits)
    found = {
        term.name: term.per_token[term.mask].mean().item()
        for term in objective.measures(case.batch, {"clean": stats})
    }
    assert found["policy/clip_fraction"] == pytest.approx(2 / 6)
    assert found["policy/clip_high_fraction"] == pytest.approx(1 / 6)
    assert found["policy/dual_clip_fraction"] == pytest.approx(1 / 6)
    assert found["policy/approx_kl"] == pytest.approx((moved.exp() - 1 - moved).mean().item())
    assert found["policy/entropy"] == pytest.approx(stats.entropy.mean().item())


@pytest.mark.parametrize("aggregation", ["token_mean", "sequence_mean"])
def test_the_entropy_bonus_is_paid_for_the_entropy_of_completion_tokens(aggregation):
    plain = GRPO(aggregation=aggregation)
    paid = GRPO(aggregation=aggregation, entropy_bonus_coef=0.3)
    case = prepared(plain, make_case())
    entropy, mask = case.now["clean"].entropy, case.batch.inputs.completion_mask
    mean = aggregate(entropy, mask, aggregation=aggregation, count=count(mask))
    added = total_loss(paid, case) - total_loss(plain, case)
    assert added.item() == pytest.approx(-0.3 * mean.item(), abs=1e-12)
    (slope,) = torch.autograd.grad(added, case.logits["clean"])
    moved = Case(case.batch, {**case.logits, "clean": case.logits["clean"].detach() - 0.5 * slope})
    assert (moved.now["clean"].entropy[mask].mean() > entropy[mask].mean()).item()


def test_measures_see_completion_tokens_only():
    case = prepared(FULL, make_case((2, 0, 1, 0), width=4))
    expected = case.now["clean"].entropy[ragged([2, 0, 1, 0], 4)].mean().item()
    assert measure(FULL, case, "policy/entropy") == pytest.approx(expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dapo_with_equal_clips_sequence_mean_and_no_filter_is_grpo_bit_for_bit(dtype):
    dapo = DAPO(clip_high=0.2, aggregation="sequence_mean", filter_groups=False)
    grpo = GRPO()
    case = make_case((5, 2, 4, 1), dtype=dtype, spread=0.8)
    assert torch.equal(dapo.advantages(case.batch.inputs), grpo.advantages(case.batch.inputs))
    losses = [total_loss(o, prepared(o, case)) for o in (dapo, grpo)]
    assert torch.equal(*losses)
    assert torch.equal(gradients(dapo, case)["clean"], gradients(grpo, case)["clean"])
    assert [dapo.keeps(g) for g in (group(True), group(False), group(True, False))] == [True] * 3


def test_dapo_keeps_groups_that_are_neither_all_right_nor_all_wrong():
    kept = [group(*pattern) for pattern in [(True, False), (True,) * 63 + (False,), (False, False, True)]]
    dropped = [group(*pattern) for pattern in [(True, True), (False, False), (False,) * 100 + (True,)]]
    assert all(DAPO().keeps(g) for g in kept) and not any(DAPO().keeps(g) for g in dropped)
    assert not DAPO(filter_low=0.5).keeps(group(True, False)), "the bound itself is outside"
    assert all(DAPO(filter_groups=False).keeps(g) for g in kept + dropped)


def test_dapo_filters_on_right_answers_or_on_rewards_as_asked():
    equal, badly_formatted = group(True, False), group(True, True)
    equal = replace(equal, rewards=(1.0, 1.0))
    badly_formatted = replace(badly_formatted, rewards=(1.0, 0.9))
    for objective, kept in ((DAPO(), equal), (DAPO(filter_on="reward"), badly_formatted)):
        assert [objective.keeps(g) for g in (equal, badly_formatted)] == [
            g is kept for g in (equal, badly_formatted)
        ]


def test_overlong_penalty_by_hand():
    lengths = torch.tensor([0, 15, 16, 18, 20, 25])
    found = overlong_penalty(lengths, max_length=20, buffer=5, factor=0.5)
    assert found.tolist() == pytest.approx([0.0, 0.0, -0.1, -0.3, -0.5, -0.5])


def test_dapo_shapes_rewards_by_all_tokens_of_a_completion_before_comparing_them():
    inputs = make_case((4, 2, 4, 1), rewards=(1.0, 1.0, 0.0, 1.0)).batch.inputs
    inputs = replace(inputs, lengths=torch.tensor([10, 2, 4, 1]))
    objective = DAPO(overlong_buffer=5, max_length=10)
    assert objective.shaped_rewards(inputs).tolist() == [0.0, 1.0, 0.0, 1.0]
    assert objective.advantages(inputs)[0, 0] < 0 < objective.advantages(inputs)[1, 0]
    assert DAPO().advantages(inputs)[:2].eq(0).all()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"overlong_buffer": 5}, "overlong_buffer 5 needs a max_length"),
        ({"overlong_buffer": 5, "max_length": 4}, "got 4; set max_length"),
        ({"filter_low": 0.9, "filter_high": 0.1}, "filter_low 0.9 is not below filter_high 0.1"),
        ({"clip_low": 1.0}, "less than 1"),
        ({"dual_clip": 1.0}, "greater than 1"),
    ],
)
def test_dapo_refuses_settings_that_cannot_work(fields, message):
    with pytest.raises(ConfigError, match=message):
        DAPO(**fields)
