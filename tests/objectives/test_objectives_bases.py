"""Dr.GRPO, RLOO, REINFORCE++, GSPO and CISPO: hand numbers, loops, gradients, identities."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from foveal.objectives.cispo import CISPO
from foveal.objectives.dr_grpo import DrGRPO
from foveal.objectives.grpo import GRPO
from foveal.objectives.gspo import GSPO
from foveal.objectives.papo import PAPO
from foveal.objectives.reinforce_pp import ReinforcePP
from foveal.objectives.rloo import RLOO
from foveal.spec import ConfigError
from foveal.types import Objective
from objective_batches import Case, gradients, make_case, measure, prepared, total_loss

LENGTHS = (5, 2, 4, 1)


def rows_of(case: Case) -> list[list[tuple[float, float, float]]]:
    """(log-probability now, old one, advantage) of each token of each completion."""
    now, old = case.now["clean"].logprobs.tolist(), case.batch.scores.old_logprobs.tolist()
    advantages, mask = case.batch.advantages.tolist(), case.batch.inputs.completion_mask.tolist()
    return [
        [(now[i][t], old[i][t], advantages[i][t]) for t, inside in enumerate(row) if inside]
        for i, row in enumerate(mask)
    ]


def clipped(ratio: float, advantage: float, low: float, high: float) -> float:
    return max(-advantage * ratio, -advantage * min(max(ratio, 1 - low), 1 + high))


@pytest.mark.parametrize("horizon", [None, 8])
def test_dr_grpo_equals_a_loop_without_division_by_spread_or_length(horizon: int | None) -> None:
    objective = DrGRPO(horizon=horizon)
    case = prepared(objective, make_case(LENGTHS, spread=0.6))
    assert case.batch.advantages[:, 0].tolist() == pytest.approx([0.5, -0.5, 0.4, -0.4])
    sums = [sum(clipped(math.exp(n - o), a, 0.2, 0.2) for n, o, a in row) for row in rows_of(case)]
    assert total_loss(objective, case).item() == pytest.approx(sum(sums) / 4 / (horizon or 1), abs=1e-12)


def test_dr_grpo_is_grpo_with_two_switches_bit_for_bit() -> None:
    case = make_case(LENGTHS, dtype=torch.float32, spread=0.6)
    other = GRPO(advantage="group_mean", aggregation="sequence_sum")
    assert torch.equal(gradients(DrGRPO(), case)["clean"], gradients(other, case)["clean"])


def test_dr_grpo_gives_each_token_the_same_weight_whatever_the_length() -> None:
    case = make_case((6, 1, 3, 2), rewards=(1.0, 0.0, 1.0, 0.0), spread=0.0)
    prepared_case = prepared(DrGRPO(), case)
    logprobs = case.now["clean"].logprobs.detach().requires_grad_()
    now = {"clean": replace(case.now["clean"], logprobs=logprobs)}
    (term,) = DrGRPO().terms(prepared_case.batch, now)
    (term.per_token[term.mask].sum() / 4).backward()
    assert logprobs.grad is not None
    assert logprobs.grad[term.mask].abs().tolist() == pytest.approx([0.125] * 12)


def test_rloo_compares_with_the_mean_of_the_others() -> None:
    case = make_case((3, 3, 3, 2), groups=(0, 0, 0, 1), rewards=(1.0, 0.0, 0.5, 0.9))
    found = RLOO().advantages(case.batch.inputs)[:, 0].tolist()
    assert found == pytest.approx([1.0 - 0.25, 0.0 - 0.75, 0.5 - 0.5, 0.0])


def test_rloo_has_the_gradient_of_reinforce_on_its_first_update() -> None:
    case = make_case(LENGTHS, spread=0.0)
    advantages = RLOO().advantages(case.batch.inputs)
    mask = case.batch.inputs.completion_mask
    wanted = torch.autograd.grad(
        -(advantages * case.now["clean"].logprobs)[mask].sum() / len(LENGTHS), case.logits["clean"]
    )[0]
    assert torch.allclose(gradients(RLOO(), case)["clean"], wanted, atol=1e-12)


def test_reinforce_pp_whitens_returns_over_all_tokens_of_the_batch() -> None:
    case = make_case((2, 1, 3, 1), rewards=(1.0, 0.0, 0.5, 0.0))
    found = ReinforcePP(discount=0.5).advantages(case.batch.inputs)
    returns = [0.5, 1.0, 0.0, 0.125, 0.25, 0.5, 0.0]
    mean = sum(returns) / 7
    deviation = math.sqrt(sum((r - mean) ** 2 for r in returns) / 6 + 1e-8)
    mask = case.batch.inputs.completion_mask
    assert found[mask].tolist() == pytest.approx([(r - mean) / deviation for r in returns])
    assert found[~mask].eq(0).all()


def test_reinforce_pp_keeps_a_group_of_equal_rewards_only_when_asked() -> None:
    case = make_case((2, 2, 2, 2), rewards=(1.0, 0.0, 0.9, 0.9))
    assert ReinforcePP().advantages(case.batch.inputs)[2:].eq(0).all()
    kept = ReinforcePP(keep_equal_groups=True).advantages(case.batch.inputs)
    assert (kept[2:, 0] > 0).all()
    same = ReinforcePP(keep_equal_groups=True).advantages(make_case(rewards=(0.9,) * 4).batch.inputs)
    assert same.eq(0).all()


def test_reinforce_pp_baseline_scales_the_groups_own_gaps_by_one_number() -> None:
    case = make_case((3, 1, 2, 2), rewards=(1.0, 0.0, 0.9, 0.1))
    found = ReinforcePP(baseline="group").advantages(case.batch.inputs)
    scale = math.sqrt((4 * 0.25 + 4 * 0.16) / 8 + 1e-8)
    assert found[:, 0].tolist() == pytest.approx([0.5 / scale, -0.5 / scale, 0.4 / scale, -0.4 / scale])


@pytest.mark.parametrize("settings", [{}, {"clip_low": 0.2, "clip_high": 0.3}])
def test_gspo_equals_a_loop_over_sequence_ratios(settings: dict[str, float]) -> None:
    objective = GSPO(**settings)
    case = prepared(objective, make_case(LENGTHS, spread=0.6))
    values = []
    for row in rows_of(case):
        ratio = math.exp(sum(n - o for n, o, _ in row) / len(row))
        values.append(clipped(ratio, row[0][2], objective.clip_low, objective.clip_high))
    assert total_loss(objective, case).item() == pytest.approx(sum(values) / 4, abs=1e-12)


def test_gspo_has_the_gradient_of_its_sequence_form() -> None:
    objective = GSPO(clip_low=0.2, clip_high=0.2)
    case = prepared(objective, make_case(LENGTHS, spread=0.2))
    mask, old = case.batch.inputs.completion_mask, case.batch.scores.old_logprobs
    change = torch.where(mask, case.now["clean"].logprobs - old, 0.0).sum(-1) / mask.sum(-1)
    ratio, advantage = change.exp(), case.batch.advantages[:, 0]
    loss = torch.maximum(-advantage * ratio, -advantage * ratio.clamp(0.8, 1.2)).mean()
    wanted = torch.autograd.grad(loss, case.logits["clean"])[0]
    assert torch.allclose(gradients(objective, case)["clean"], wanted, atol=1e-12)


def test_gspo_counts_all_tokens_of_a_clipped_completion_and_gives_them_no_gradient() -> None:
    case = make_case((4, 3, 2, 1), rewards=(1.0, 0.0, 1.0, 0.0), spread=0.0)
    old = case.batch.scores.old_logprobs.clone()
    old[0] -= torch.tensor([0.04, 0.0, 0.0, 0.0, 0.0, 0.0])  # s = e^0.01: beyond 1 + 4e-4, by one token alone
    case = Case(replace(case.batch, scores=replace(case.batch.scores, old_logprobs=old)), case.logits)
    case = prepared(GSPO(), case)
    assert measure(GSPO(), case, "policy/clip_high_fraction") == pytest.approx(4 / 10)
    assert measure(GRPO(), case, "policy/clip_high_fraction") == 0.0
    gradient = gradients(GSPO(), case)["clean"]
    assert gradient[0].eq(0).all() and gradient[1, :3].abs().sum() > 0


@pytest.mark.parametrize("settings", [{}, {"clip_low": 0.2, "clip_high": 0.1}])
def test_cispo_equals_a_loop_and_its_gradient_never_vanishes(settings: dict[str, float]) -> None:
    objective = CISPO(**settings)
    case = prepared(objective, make_case(LENGTHS, spread=0.8))
    low, high = 1 - objective.clip_low, 1 + objective.clip_high
    values = [-min(max(math.exp(n - o), low), high) * a * n for row in rows_of(case) for n, o, a in row]
    assert total_loss(objective, case).item() == pytest.approx(sum(values) / sum(LENGTHS), abs=1e-12)
    logprobs = case.now["clean"].logprobs.detach().requires_grad_()
    (term,) = objective.terms(case.batch, {"clean": replace(case.now["clean"], logprobs=logprobs)})
    term.per_token[term.mask].sum().backward()
    assert logprobs.grad is not None
    wanted = [-min(max(math.exp(n - o), low), high) * a for row in rows_of(case) for n, o, a in row]
    assert logprobs.grad[term.mask].tolist() == pytest.approx(wanted)
    assert logprobs.grad[~term.mask].eq(0).all() and logprobs.grad[term.mask].ne(0).all()


def test_cispo_counts_bounded_weights_whatever_the_sign_of_the_advantage() -> None:
    case = make_case((1, 1, 1, 1), rewards=(1.0, 0.0, 0.0, 1.0), spread=0.0)
    old = case.batch.scores.old_logprobs.clone()
    old[:, 0] -= torch.tensor([2.0, 2.0, -2.0, 0.1], dtype=old.dtype)
    case = Case(replace(case.batch, scores=replace(case.batch.scores, old_logprobs=old)), case.logits)
    bounded = CISPO(clip_low=0.5)
    assert measure(CISPO(), prepared(CISPO(), case), "policy/clip_fraction") == 0.5
    assert measure(CISPO(), prepared(CISPO(), case), "policy/clip_high_fraction") == 0.5
    assert measure(bounded, prepared(bounded, case), "policy/clip_fraction") == 0.75


@pytest.mark.parametrize(
    # CISPO's weight is a constant of the gradient: it is checked where the weight is one.
    "objective",
    [DrGRPO(), RLOO(), ReinforcePP(), CISPO(clip_low=0.0, clip_high=0.0)],
)
def test_gradcheck(objective: Objective) -> None:
    case = prepared(objective, make_case((3, 1, 0, 2), width=3, spread=0.05))

    def loss(logits: Tensor) -> Tensor:
        return total_loss(objective, Case(case.batch, {"clean": logits})).reshape(())

    assert torch.autograd.gradcheck(loss, (case.logits["clean"].detach().requires_grad_(),))


@pytest.mark.parametrize("base", [DrGRPO(), RLOO(), ReinforcePP(), GSPO(), CISPO()])
def test_it_may_be_the_base_of_papo(base: Objective) -> None:
    case = make_case(LENGTHS)
    off = PAPO(base=base, kl_prcp_coef=0.0)
    assert torch.equal(total_loss(off, prepared(off, case)), total_loss(base, prepared(base, case)))
    on = PAPO(base=base, kl_prcp_coef=0.1)
    assert [term.name for term in on.terms(prepared(on, case).batch, case.now)] == ["surrogate", "kl_prcp"]


@pytest.mark.parametrize(
    ("method", "field"),
    [
        (RLOO, {"advantage": "group_std"}),
        (ReinforcePP, {"advantage": "group_std"}),
        (ReinforcePP, {"discount": 1.1}),
        (CISPO, {"dual_clip": 3.0}),
        (GSPO, {"clip_low": 1.0}),
    ],
)
def test_what_has_no_meaning_for_a_method_is_refused(
    method: type[Objective], field: dict[str, object]
) -> None:
    with pytest.raises(ConfigError):
        method(**field)
