"""PAPO's switches beyond the main term: weights, token choice, clipping, schedule, SFT, averages."""

import math
import tomllib
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from foveal.config import dump
from foveal.objectives.cppo import CPPO
from foveal.objectives.dapo import DAPO
from foveal.objectives.extension import build_objective
from foveal.objectives.grpo import GRPO
from foveal.objectives.papo import PAPO
from foveal.objectives.terms import count, term_mean
from foveal.objectives.vppo import VPPO
from foveal.spec import ConfigError
from foveal.types import Batch, Inputs, Term
from objective_batches import Case, make_case, prepared, total_loss

REWARDS = (1.0, 0.0, 0.9, 0.1)
"""Right, wrong, right, wrong."""


def term(objective: PAPO, case: Case, name: str) -> Term:
    return next(t for t in objective.terms(case.batch, case.now) if t.name == name)


def looped_kl(case: Case) -> list[list[float]]:
    """k3 of every completion token, row by row."""
    now = case.now["clean"].logprobs.tolist()
    removed = case.batch.scores.views["removed"].logprobs.tolist()
    lengths = case.batch.inputs.lengths.tolist()
    ks = [[removed[i][t] - now[i][t] for t in range(n)] for i, n in enumerate(lengths)]
    return [[min(math.exp(k) - k - 1, 10.0) for k in row] for row in ks]


def looped_quantile(values: list[float], q: float) -> float:
    ranked = sorted(values)
    place = q * (len(ranked) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ranked) - 1)
    return ranked[low] + (place - low) * (ranked[high] - ranked[low])


@pytest.mark.parametrize("wrong", [0.0, 0.1, 0.7])
@pytest.mark.parametrize("fraction", [1.0, 0.5, 0.2])
@pytest.mark.parametrize("clip", [None, 0.2, 0.01])
def test_what_is_paid_is_weighted_then_chosen_then_clamped_as_in_a_loop(wrong, fraction, clip):
    mode = (
        {"weighting": "correct_only"} if wrong == 0 else {"weighting": "acc_weighted", "wrong_weight": wrong}
    )
    objective = PAPO(kl_prcp_coef=1.0, token_fraction=fraction, kl_prcp_clip=clip, **mode)
    case = prepared(objective, make_case((5, 3, 6, 1), rewards=REWARDS))
    found = term(objective, case, "kl_prcp").per_token
    for i, row in enumerate(looped_kl(case)):
        weighted = [value * (1.0 if REWARDS[i] > 0.5 else wrong) for value in row]
        threshold = looped_quantile(weighted, 1 - fraction)
        for t, value in enumerate(weighted):
            paid = value if value >= threshold - 1e-12 else 0.0
            paid = paid if clip is None else min(max(paid, 0.0), clip)
            assert found[i, t].item() == pytest.approx(paid, abs=1e-9), (i, t)
    assert not found[~case.batch.inputs.completion_mask].any()


def test_tokens_that_are_not_paid_stay_in_the_denominator():
    case = make_case((4, 2), rewards=(1.0, 0.0), groups=(0, 0))
    paid = PAPO(kl_prcp_coef=1.0, token_fraction=0.3)
    found = term(paid, prepared(paid, case), "kl_prcp")
    assert int(found.mask.sum()) == 6 and int((found.per_token > 0).sum()) < 6


@pytest.mark.parametrize(
    "switch", [{"weighting": "correct_only"}, {"token_fraction": 0.4}, {"kl_prcp_clip": 0.05}]
)
def test_tokens_that_are_not_paid_get_exactly_no_gradient_in_either_branch(switch):
    objective = PAPO(base=GRPO(), kl_prcp_coef=1.0, removed_gradient=True, **switch)
    # Equal rewards: the surrogate is silent, and what is right is still known.
    case = prepared(objective, make_case((5, 3, 6, 2), rewards=(0.0,) * 4))
    right = torch.tensor([True, False, False, True])
    case = Case(replace(case.batch, inputs=replace(case.batch.inputs, correct=right)), case.logits)
    case = Case(objective.prepare(case.batch), case.logits)
    clean, removed = case.now["clean"].logprobs, case.now["removed"].logprobs
    kl = (removed - clean).exp() - (removed - clean) - 1
    # A k3 value above 10 is cut off and has no gradient.
    paid = case.batch.inputs.completion_mask & (kl < 10)
    if "weighting" in switch:
        paid &= right.unsqueeze(-1)
    elif "token_fraction" in switch:
        paid &= term(objective, case, "kl_prcp").per_token > 0
    else:
        paid &= kl < 0.05
    gradients = torch.autograd.grad(
        total_loss(objective, case), [case.logits["clean"], case.logits["removed"]]
    )
    for gradient in gradients:
        assert gradient[~paid].eq(0).all()
        assert gradient[paid].abs().sum(-1).gt(0).all()


@pytest.mark.parametrize("kind", ["k1", "abs", "k2", "k3"])
def test_gradcheck_of_all_switches_together(kind):
    objective = PAPO(
        kl_prcp_coef=0.3,
        estimator=kind,
        removed_gradient=True,
        weighting="acc_weighted",
        token_fraction=0.6,
        kl_prcp_clip=3.0,
        entropy_coef=0.05,
        removed_entropy_coef=0.04,
        sft_coef=0.02,
    )
    case = prepared(objective, make_case((4, 2, 3, 1), width=4, rewards=REWARDS, spread=0.6))

    def loss(clean, removed):
        return total_loss(objective, Case(case.batch, {**case.logits, "clean": clean, "removed": removed}))

    assert torch.autograd.gradcheck(loss, (case.logits["clean"], case.logits["removed"]), eps=1e-7, atol=1e-6)


def test_gamma_falls_linearly_from_its_coefficient_and_the_entropy_terms_follow():
    objective = PAPO(
        kl_prcp_coef=0.02,
        final_coef=0.004,
        schedule="linear_decay",
        decay_fraction=0.5,
        entropy_coef=0.03,
        removed_entropy_coef=0.05,
    )
    gammas = [objective.at(step, steps=8).kl_prcp_coef for step in range(8)]
    assert gammas == pytest.approx([0.02, 0.016, 0.012, 0.008, 0.004, 0.004, 0.004, 0.004])
    half = objective.at(2, steps=8)
    assert half.entropy_coef == pytest.approx(0.03 * 0.6)
    assert half.removed_entropy_coef == pytest.approx(0.05 * 0.6)
    apart = objective.model_copy(update={"entropy_follows": False}).at(2, steps=8)
    assert (apart.kl_prcp_coef, apart.entropy_coef) == pytest.approx((0.012, 0.03))
    assert PAPO(kl_prcp_coef=0.02).at(7, steps=8) == PAPO(kl_prcp_coef=0.02)


@pytest.mark.parametrize(("share", "falling"), [(0.25, 2), (0.5, 4), (1.0, 8), (0.01, 1)])
def test_gamma_falls_over_the_share_of_the_steps_that_is_asked_for(share, falling):
    objective = PAPO(kl_prcp_coef=0.02, schedule="linear_decay", decay_fraction=share)
    gammas = [objective.at(step, steps=8).kl_prcp_coef for step in range(9)]
    assert gammas == pytest.approx([0.02 * max(0.0, 1 - step / falling) for step in range(9)])


def test_a_schedule_that_has_reached_zero_needs_the_removed_view_no_more():
    objective = PAPO(kl_prcp_coef=0.02, schedule="linear_decay", entropy_coef=0.03, removed_entropy_coef=0.03)
    assert objective.at(0, steps=10).views == ("clean", "removed")
    assert objective.at(5, steps=10).views == ("clean",)
    case = prepared(objective, make_case())
    assert torch.equal(total_loss(objective.at(5, steps=10), case), total_loss(GRPO(), case))


def test_scaling_lowers_gamma_alone_also_in_the_base():
    objective = PAPO(kl_prcp_coef=0.04, entropy_coef=0.03, base=CPPO(cpl_coef=0.02, removed_view="blurred"))
    found = objective.scaled(0.5)
    assert (found.kl_prcp_coef, found.entropy_coef, found.base.cpl_coef) == (0.02, 0.03, 0.01)
    assert objective.kl_prcp_coef == 0.04


class Best(GRPO):
    """A base that looks at completions of positive advantage alone."""

    type: str = "best"

    @property
    def score_views(self) -> tuple[str, ...]:
        return ("clean", "removed")

    def score_rows(self, view: str, inputs: Inputs) -> Tensor:
        return (self.advantages(inputs) > 0).any(-1)

    def rows(self, view: str, batch: Batch) -> Tensor:
        return (batch.advantages > 0).any(-1)


@pytest.mark.parametrize(
    ("switches", "scored", "run"),
    [
        ({"kl_prcp_coef": 0.02}, [True, True, True, False], [True, True, True, False]),
        ({"removed_entropy_coef": 0.02}, [True, True, True, False], [True, True, True, False]),
        ({"entropy_coef": 0.02}, [True, False, False, False], [True, True, True, False]),
        ({"sft_coef": 0.02}, [True, False, False, False], [True, False, True, False]),
        ({}, [True, False, False, False], [True, False, False, False]),
    ],
)
def test_completions_that_the_base_leaves_out_are_seen_by_the_terms_that_want_them(switches, scored, run):
    objective = PAPO(base=Best(), **{"kl_prcp_coef": 0.0, **switches})
    case = prepared(objective, make_case((5, 2, 4, 0), rewards=(1.0, 0.0, 0.9, 0.9)))
    assert objective.score_rows("removed", case.batch.inputs).tolist() == scored
    assert objective.score_rows("clean", case.batch.inputs).tolist() == [True, False, False, False]
    assert objective.rows("clean", case.batch).tolist() == run


@pytest.mark.parametrize("aggregation", ["token_mean", "sequence_mean", "sequence_sum"])
def test_sft_is_the_mean_negative_log_likelihood_of_right_completions(aggregation):
    base = GRPO(aggregation=aggregation)
    objective = PAPO(base=base, kl_prcp_coef=0.0, sft_coef=0.5)
    case = prepared(objective, make_case((5, 2, 4, 1), rewards=REWARDS))
    logprobs = case.now["clean"].logprobs.tolist()
    right = [[-logprobs[0][t] for t in range(5)], [-logprobs[2][t] for t in range(4)]]
    wanted = {
        "token_mean": sum(map(sum, right)) / 9,
        "sequence_mean": sum(sum(row) / len(row) for row in right) / 2,
        "sequence_sum": sum(map(sum, right)) / 2,
    }[aggregation]
    added = total_loss(objective, case) - total_loss(base, case)
    assert added.item() == pytest.approx(0.5 * wanted, abs=1e-12)


def test_without_a_right_completion_sft_is_exactly_zero_with_zero_gradient():
    objective = PAPO(base=GRPO(), kl_prcp_coef=0.0, sft_coef=1.0)
    case = prepared(objective, make_case(rewards=(0.1, 0.0, 0.1, 0.0)))
    base = prepared(GRPO(), make_case(rewards=(0.1, 0.0, 0.1, 0.0)))
    assert torch.equal(total_loss(objective, case), total_loss(GRPO(), base))


def test_likelihood_terms_can_be_averaged_over_tokens_whatever_the_base_does():
    on = {"kl_prcp_coef": 0.1, "entropy_coef": 0.2, "removed_entropy_coef": 0.1, "sft_coef": 0.3}
    objective = PAPO(base=GRPO(), likelihood_aggregation="token_mean", **on)
    case = prepared(objective, make_case((5, 2, 4, 1), rewards=REWARDS))
    kinds = {t.name: t.aggregation for t in objective.terms(case.batch, case.now)}
    assert kinds == {
        "surrogate": None,
        "kl_prcp": None,
        "entropy": "token_mean",
        "removed_entropy": "token_mean",
        "sft": "token_mean",
    }
    own = term(objective, case, "entropy")
    mask = own.mask
    mean = term_mean(own, aggregation="sequence_mean", count=count(mask))
    assert mean.item() == pytest.approx(-case.now["clean"].logprobs[mask].mean().item())


def test_presets_are_the_published_settings_and_explicit_keys_win():
    small = PAPO(preset="g_3b")
    assert (small.kl_prcp_coef, small.entropy_coef) == (0.02, 0.0)
    assert (small.base.clip_low, small.base.clip_high, small.base.dual_clip) == (0.2, 0.3, 3.0)
    assert (small.base.kl_coef, small.aggregation) == (0.01, "token_mean")
    large = PAPO(preset="g_7b")
    assert (large.kl_prcp_coef, large.entropy_coef, large.removed_entropy_coef) == (0.02, 0.05, 0.05)
    free = PAPO(preset="g_no_ref")
    assert (free.kl_prcp_coef, free.entropy_coef, free.base.kl_coef) == (0.01, 0.03, 0.0)
    dapo = PAPO(preset="d")
    assert isinstance(dapo.base, DAPO) and (dapo.base.clip_high, dapo.base.kl_coef) == (0.28, 0.0)
    mine = PAPO(preset="g_3b", kl_prcp_coef=0.005, base={"clip_high": 0.25})
    assert (mine.kl_prcp_coef, mine.base.clip_high, mine.base.kl_coef) == (0.005, 0.25, 0.01)
    assert PAPO(preset="g_3b", base="grpo").base == small.base
    nested = VPPO(preset="7b", base={"base": {"clip_high": 0.3}})
    assert (nested.base.entropy_coef, nested.base.base.clip_high, nested.base.base.type) == (
        0.06,
        0.3,
        "dapo",
    )
    other = PAPO(preset="g_3b", base={"type": "dapo"})
    assert isinstance(other.base, DAPO) and other.base.clip_high == 0.28
    assert PAPO.model_validate(small.model_dump()) == small


@pytest.mark.parametrize("base", [GRPO(), {"type": "grpo", "dual_clip": None}])
def test_what_a_preset_did_not_fill_in_is_not_filled_in_when_the_config_is_read_again(base):
    objective = PAPO(preset="g_3b", base=base)
    assert (objective.base.dual_clip, objective.preset) == (None, None)
    again = build_objective(tomllib.loads(dump(objective)))
    assert again == objective and again.base.dual_clip is None


def test_an_unknown_preset_is_refused_with_the_known_ones():
    with pytest.raises(Exception, match=r"papo has no preset '3b'; known: g_3b, g_7b.*objective\.preset"):
        PAPO(preset="3b")
    with pytest.raises(Exception, match=r"papo has no preset \['g_3b'\]"):
        PAPO(preset=["g_3b"])


def test_a_schedule_that_could_never_reach_its_end_is_refused():
    with pytest.raises(ConfigError, match=r"scales kl_prcp_coef, which is 0.*set kl_prcp_coef"):
        PAPO(schedule="linear_decay", kl_prcp_coef=0.0, final_coef=0.01)


def test_no_papo_holds_a_papo_and_no_cppo_a_cppo_however_deep() -> None:
    for table in ({"type": "papo", "base": {"type": "papo"}}, {"type": "cppo", "base": {"type": "cppo"}}):
        with pytest.raises(ConfigError, match=r"holds another \w+: .*objective.base.type"):
            build_objective(table)
    between = {"type": "noisy_rollout", "base": {"type": "papo"}}
    with pytest.raises(ConfigError, match="papo holds another papo"):
        build_objective({"type": "papo", "base": between})
    assert build_objective({"type": "cppo", "base": {"type": "papo"}}).type == "cppo"
