"""Where gradient flows on a real (tiny) model: which views get any; unused places get exactly none."""

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from foveal.objectives.cispo import CISPO
from foveal.objectives.cppo import CPPO
from foveal.objectives.dvrp import DVRP
from foveal.objectives.extension import Extension
from foveal.objectives.grpo import GRPO
from foveal.objectives.gspo import GSPO
from foveal.objectives.noisy_rollout import NoisyRollout
from foveal.objectives.papo import PAPO
from foveal.objectives.perception_reward import PerceptionReward
from foveal.objectives.rloo import RLOO
from foveal.objectives.vppo import VPPO
from foveal.policy import Policy, load_policy
from foveal.policy.forward import PackedRow
from foveal.train.rows import mini_batch_rows, select
from foveal.train.settings import StepSettings
from foveal.train.step import prepare, score, train_step
from foveal.train.tally import Tally
from foveal.train.update import accumulate
from foveal.types import Batch, Inputs, Objective, Term, TokenStats, ViewName, ViewScores
from train_cases import WHOLE, distance, inputs_of, record, settings

CLEAN, REMOVED, PRESERVED = "clean", "removed", "preserved"
BASE = GRPO(aggregation="token_mean")


@dataclass
class Seen:
    """The states that went into the head under a view, with the gradient that came back."""

    states: Tensor
    row: PackedRow


@dataclass
class Spy:
    """Keeps the last hidden states of every forward with gradient: they feed the head and nothing else."""

    found: dict[ViewName, Seen] = field(default_factory=dict)

    def watch(self, policy: Policy, patch: pytest.MonkeyPatch) -> "Spy":
        run = policy._states

        def states(inputs: Inputs, view: ViewName, row: PackedRow) -> Tensor:
            out = run(inputs, view, row)
            if out.requires_grad:
                out.retain_grad()
                self.found[view] = Seen(out, row)
            return out

        patch.setattr(policy, "_states", states)
        return self

    def tokens(self, view: ViewName, size: torch.Size) -> Tensor:
        """Bool [B, T]: completion tokens whose predicting state got gradient under a view."""
        reached = torch.zeros(size[0] * size[1], dtype=torch.bool)
        if view in self.found and self.found[view].states.grad is not None:
            seen = self.found[view]
            touched = seen.states.grad.abs().sum(-1) > 0
            reached[seen.row.place] = touched[seen.row.predict]
        return reached.view(size)


@pytest.fixture(scope="module")
def inputs(policy: Policy) -> Inputs:
    """Two groups with pictures; the second one's rewards are all equal, and one of it is right. Facts are
    stated by the first letters, and no two completions of a group state equally many rightly."""
    facts = {"breakdown": {"facts": (0.0, 0.5, 1.0, 0.25)}, "segments": {"facts": ((0, 3),) * 4}}
    groups = [replace(group, **facts) for group in record(policy)[:2]]
    groups[1] = replace(groups[1], rewards=(0.5,) * 4, correct=(False, True, False, False))
    return inputs_of(policy, groups)


def backward(
    policy: Policy, inputs: Inputs, objective: Objective, patch: pytest.MonkeyPatch
) -> tuple[Spy, Batch]:
    how = settings(tokens=WHOLE)
    batch = prepare(inputs, score(inputs, policy, None, objective, how), objective)
    spy = Spy().watch(policy, patch)
    policy.zero_grad(set_to_none=True)
    tally = Tally.of(inputs)
    (rows,) = mini_batch_rows(inputs, 1)
    accumulate(policy, select(batch, rows), objective, how, tally=tally, rows=rows)
    return spy, batch


def every(batch: Batch) -> Tensor:
    return batch.inputs.completion_mask


def nothing(batch: Batch) -> Tensor:
    return torch.zeros_like(batch.inputs.completion_mask)


def advantaged(batch: Batch) -> Tensor:
    return batch.inputs.completion_mask & (batch.advantages != 0)


def perceived(batch: Batch) -> Tensor:
    return batch.selections["contrastive_perception"]


def right(batch: Batch) -> Tensor:
    return batch.inputs.completion_mask & batch.inputs.correct.unsqueeze(-1)


def visual(batch: Batch) -> Tensor:
    return batch.selections["visual_tokens"] & (batch.advantages != 0)


def answered(batch: Batch) -> Tensor:
    return BASE.advantages(batch.inputs) != 0


def marked(batch: Batch) -> Tensor:
    return batch.inputs.segments["facts"]


def either(*parts: Callable[[Batch], Tensor]) -> Callable[[Batch], Tensor]:
    return lambda batch: torch.stack([part(batch) for part in parts]).any(0)


def first_tokens_shared(wanted: Tensor, inputs: Inputs) -> Tensor:
    """The first tokens of a group are predicted by one state, the prompt's last."""
    found = wanted.clone()
    for prompt in range(len(inputs.prompts)):
        group = inputs.prompt_index == prompt
        found[group, 0] = wanted[group, 0].any()
    return found


FLOWS: dict[str, tuple[Objective, dict[ViewName, Callable[[Batch], Tensor]]]] = {
    "grpo": (BASE, {CLEAN: advantaged}),
    "papo, removed view scored": (PAPO(base=BASE, kl_prcp_coef=0.5), {CLEAN: every}),
    "papo, removed view with gradient": (
        PAPO(base=BASE, kl_prcp_coef=0.5, removed_gradient=True),
        {CLEAN: every, REMOVED: every},
    ),
    "papo, exact": (
        PAPO(base=BASE, kl_prcp_coef=0.5, removed_gradient=True, estimator="exact"),
        {CLEAN: every, REMOVED: every},
    ),
    "papo, right completions alone": (
        PAPO(base=BASE, kl_prcp_coef=0.5, weighting="correct_only", removed_gradient=True),
        {CLEAN: either(advantaged, right), REMOVED: right},
    ),
    "papo, removed entropy that was scored": (
        PAPO(base=BASE, kl_prcp_coef=0.0, removed_entropy_coef=0.5),
        {CLEAN: advantaged},
    ),
    "papo, removed entropy with gradient": (
        PAPO(base=BASE, kl_prcp_coef=0.0, removed_entropy_coef=0.5, removed_gradient=True),
        {CLEAN: advantaged, REMOVED: every},
    ),
    "papo, full entropies": (
        PAPO(
            base=BASE,
            kl_prcp_coef=0.0,
            entropy_coef=0.1,
            removed_entropy_coef=0.5,
            removed_gradient=True,
            entropy_kind="full",
        ),
        {CLEAN: every, REMOVED: every},
    ),
    "papo, sft": (PAPO(base=BASE, kl_prcp_coef=0.0, sft_coef=0.5), {CLEAN: either(advantaged, right)}),
    "cppo": (
        CPPO(base=BASE, cpl_coef=0.5, tau=1.0),
        {CLEAN: either(advantaged, perceived), REMOVED: perceived, PRESERVED: perceived},
    ),
    "cppo, no gate": (
        CPPO(base=BASE, cpl_coef=0.5, tau=1.0, gate=False, perception_fraction=0.2),
        {CLEAN: either(advantaged, perceived), REMOVED: perceived, PRESERVED: perceived},
    ),
    "cppo, exact": (
        CPPO(base=BASE, cpl_coef=0.5, tau=1.0, divergence="exact", gate=False, perception_fraction=0.2),
        {CLEAN: either(advantaged, perceived), REMOVED: perceived, PRESERVED: perceived},
    ),
    "gspo": (GSPO(), {CLEAN: advantaged}),
    "cispo": (CISPO(), {CLEAN: advantaged}),
    "rloo": (RLOO(), {CLEAN: advantaged}),
    "vppo": (VPPO(base=BASE), {CLEAN: visual}),
    "dvrp": (
        DVRP(base=BASE, noised_view=PRESERVED),
        {CLEAN: every, REMOVED: every, PRESERVED: every},
    ),
    "dvrp, both views scored": (
        DVRP(base=BASE, noised_view=PRESERVED, views_gradient=False),
        {CLEAN: every},
    ),
    "dvrp, entropies alone": (
        DVRP(base=BASE, noised_view=PRESERVED, sensitivity_coef=0.0, robustness_coef=0.0),
        {CLEAN: advantaged, REMOVED: every, PRESERVED: every},
    ),
    "noisy rollout": (NoisyRollout(base=BASE), {CLEAN: advantaged}),
    "perception reward on its segment": (PerceptionReward(base=BASE), {CLEAN: either(answered, marked)}),
    "perception reward on all tokens": (
        PerceptionReward(base=BASE, on="all_tokens"),
        {CLEAN: every},
    ),
    "cppo, k1: the clean log-probability cancels": (
        CPPO(base=BASE, cpl_coef=0.5, tau=1.0, divergence="k1", gate=False, perception_fraction=0.2),
        {CLEAN: advantaged, REMOVED: perceived, PRESERVED: perceived},
    ),
}


@pytest.mark.parametrize("name", FLOWS)
def test_gradient_reaches_exactly_the_tokens_that_the_method_names(
    name: str, policy: Policy, inputs: Inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    objective, flows = FLOWS[name]
    spy, batch = backward(policy, inputs, objective, monkeypatch)
    size = inputs.completion_mask.shape
    for view in (CLEAN, REMOVED, PRESERVED):
        wanted = first_tokens_shared(flows.get(view, nothing)(batch), inputs)
        found = first_tokens_shared(spy.tokens(view, size), inputs)
        assert torch.equal(found, wanted), view
        assert wanted.any() == (view in flows), "the case must show something"
    assert any(float(p.grad.abs().sum()) > 0 for p in policy.parameters() if p.grad is not None)


@pytest.mark.parametrize("name", FLOWS)
def test_every_state_that_is_there_predicts_a_token(
    name: str, policy: Policy, inputs: Inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    objective, _ = FLOWS[name]
    spy, _ = backward(policy, inputs, objective, monkeypatch)
    assert spy.found
    for seen in spy.found.values():
        used = torch.zeros(len(seen.states), dtype=torch.bool)
        used[seen.row.predict] = True
        assert used.all()
        assert seen.states.grad is not None
        assert len(used) == len(seen.row.prompts) + sum(seen.row.layout.completion_lengths)


def test_a_group_of_equal_rewards_moves_nothing_at_all(policy: Policy, inputs: Inputs) -> None:
    equal = replace(inputs, rewards=torch.full_like(inputs.rewards, 0.9))
    batch = prepare(equal, score(equal, policy, None, BASE, settings()), BASE)
    assert batch.advantages.eq(0).all()
    policy.zero_grad(set_to_none=True)
    tally = Tally.of(inputs)
    (rows,) = mini_batch_rows(equal, 1)
    accumulate(policy, select(batch, rows), BASE, settings(), tally=tally, rows=rows)
    assert all(p.grad is None or p.grad.eq(0).all() for p in policy.parameters())


@pytest.mark.parametrize(
    ("objective", "name", "rises"),
    [
        (PAPO(base=BASE, kl_prcp_coef=1.0), "kl_prcp", True),
        (PAPO(base=BASE, kl_prcp_coef=1.0, removed_gradient=True), "kl_prcp", True),
        (PAPO(base=BASE, kl_prcp_coef=1.0, removed_gradient=True, estimator="exact"), "kl_prcp", True),
        (CPPO(base=BASE, cpl_coef=1.0, tau=1.0, gate=False), "contrastive_perception", False),
        (
            CPPO(base=BASE, cpl_coef=1.0, tau=1.0, gate=False, divergence="exact"),
            "contrastive_perception",
            False,
        ),
    ],
    ids=["papo", "papo-gradient", "papo-exact", "cppo", "cppo-exact"],
)
def test_one_descent_step_raises_kl_prcp_and_lowers_the_contrastive_loss(
    objective: Objective, name: str, rises: bool, tiny_folder: Path, inputs: Inputs
) -> None:
    # Equal rewards leave the perception term alone; a small plain step must move it its own way.
    moving = load_policy(str(tiny_folder))
    equal = replace(inputs, rewards=torch.zeros_like(inputs.rewards))
    optimizer = torch.optim.SGD(moving.parameters(), lr=0.02)
    # The sampled estimators compare with the scores of the step: these must stay those of the start.
    how = settings()
    batch = prepare(equal, score(equal, moving, None, objective, how), objective)
    for p in moving.parameters():
        p.grad = None
    (rows,) = mini_batch_rows(equal, 1)

    def mean() -> float:
        """The term's mean now; its gradient is added."""
        tally = Tally.of(equal)
        accumulate(moving, select(batch, rows), objective, how, tally=tally, rows=rows)
        return -tally.losses[name] if rises else tally.losses[name]

    before = mean()
    optimizer.step()
    after = mean()
    assert math.isfinite(after) and before > 0
    assert after > before if rises else after < before, (before, after)


def test_views_are_computed_only_for_completions_that_can_use_them(
    policy: Policy, inputs: Inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    objective = CPPO(base=BASE, cpl_coef=0.5)
    calls: list[tuple[ViewName, int]] = []
    run = Policy.forward

    def forward(self: Policy, given: Inputs, view: ViewName, **options: object) -> object:
        chosen = options.get("rows")
        calls.append((view, len(given.lengths) if chosen is None else int(chosen.sum())))  # type: ignore[attr-defined]
        return run(self, given, view, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Policy, "forward", forward)
    sampled = replace(settings(), score_old=False)
    optimizer = torch.optim.SGD(policy.parameters(), lr=0.0)
    result = train_step(policy, None, optimizer, inputs, objective, sampled)
    better = int((result.batch.advantages > 0).any(-1).sum())
    chosen = int(result.batch.selections["contrastive_perception"].any(-1).sum())
    assert 0 < chosen <= better < len(inputs.lengths)
    assert calls[:2] == [(CLEAN, better), (REMOVED, better)], "scored: those that the gate lets through"
    paid = int((result.batch.advantages != 0).any(-1).sum())
    assert better < paid < len(inputs.lengths)
    assert dict(calls[2:]) == {CLEAN: paid, PRESERVED: chosen, REMOVED: chosen}


def summed(policy: Policy, inputs: Inputs, objective: Objective, how: StepSettings) -> list[Tensor]:
    """The gradient of one whole batch."""
    policy.zero_grad(set_to_none=True)
    batch = prepare(inputs, score(inputs, policy, None, objective, how), objective)
    (rows,) = mini_batch_rows(inputs, 1)
    accumulate(policy, select(batch, rows), objective, how, tally=Tally.of(inputs), rows=rows)
    return [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in policy.parameters()]


def test_views_that_cppo_does_not_need_change_no_gradient(
    policy: Policy, inputs: Inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    objective = CPPO(base=BASE, cpl_coef=0.5, tau=1.0)
    ran: list[int] = []
    run = Policy.forward

    def forward(self: Policy, given: Inputs, view: ViewName, **options: object) -> object:
        chosen = options.get("rows")
        ran.append(len(given.lengths) if chosen is None else int(chosen.sum()))  # type: ignore[attr-defined]
        return run(self, given, view, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Policy, "forward", forward)
    saved = summed(policy, inputs, objective, settings())
    assert min(ran) < len(inputs.lengths)
    ran.clear()
    computed = summed(policy, inputs, objective, replace(settings(), skip_idle=False))
    assert set(ran) == {len(inputs.lengths)} and len(ran) == 5
    assert distance(saved, computed) < 1e-5


@pytest.mark.parametrize("objective", [BASE, CPPO(base=BASE, cpl_coef=0.5, tau=1.0)], ids=["grpo", "cppo"])
def test_what_the_sampler_recorded_changes_no_gradient(objective: Objective, policy: Policy) -> None:
    recorded = inputs_of(policy, record(policy, entropies=True)[:2])
    found = summed(policy, recorded, objective, replace(settings(), score_old=False))
    assert distance(found, summed(policy, recorded, objective, settings())) < 1e-5


class Rerun(PAPO):
    """PAPO that runs the removed view in the update all the same, and takes no gradient of it."""

    @property
    def update_views(self) -> tuple[ViewName, ...]:
        return (CLEAN, REMOVED)

    def rows(self, view: ViewName, batch: Batch) -> Tensor:
        return batch.inputs.completion_mask.any(-1)

    def terms(self, batch: Batch, now: Mapping[ViewName, TokenStats]) -> list[Term]:
        removed = ViewScores(
            logprobs=now[REMOVED].logprobs.detach(), entropy=now[REMOVED].entropy.detach(), rows=None
        )
        return super().terms(replace(batch, scores=replace(batch.scores, views={REMOVED: removed})), now)


def test_a_removed_view_that_is_scored_once_gives_the_gradient_of_running_it_in_the_update(
    policy: Policy, inputs: Inputs
) -> None:
    scored = summed(policy, inputs, PAPO(base=BASE, kl_prcp_coef=0.5), settings())
    run = summed(policy, inputs, Rerun(base=BASE, kl_prcp_coef=0.5), settings())
    assert distance(scored, run) < 1e-6


@pytest.mark.parametrize("aggregation", ["token_mean", "sequence_mean", "sequence_sum"])
@pytest.mark.parametrize("method", [GRPO, GSPO, CISPO, RLOO, VPPO, NoisyRollout])
def test_completions_without_an_advantage_are_left_out_and_nothing_changes(
    method: type[Objective], aggregation: str, policy: Policy, inputs: Inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = {"base": GRPO(aggregation=aggregation)} if issubclass(method, Extension) else {}
    objective = method(**base) if base else method(aggregation=aggregation)
    ran: list[int] = []
    run = Policy.forward

    def forward(self: Policy, given: Inputs, view: ViewName, **options: object) -> object:
        ran.append(len(given.lengths))
        return run(self, given, view, **options)  # type: ignore[arg-type]

    def gradients(skip: bool) -> list[Tensor]:
        policy.zero_grad(set_to_none=True)
        how = replace(settings(tokens=WHOLE), skip_idle=skip)
        batch = prepare(inputs, score(inputs, policy, None, objective, how), objective)
        tally = Tally.of(inputs)
        (rows,) = mini_batch_rows(inputs, 1)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Policy, "forward", forward)
            accumulate(policy, select(batch, rows), objective, how, tally=tally, rows=rows)
        return [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in policy.parameters()]

    whole, short = gradients(False), gradients(True)
    assert ran == [8, 4]
    size = math.sqrt(sum(float(b.double().square().sum()) for b in whole))
    off = math.sqrt(sum(float((a - b).double().square().sum()) for a, b in zip(short, whole, strict=True)))
    assert size > 0 and off / size < 1e-5


@pytest.mark.parametrize(
    "objective",
    [
        GRPO(entropy_bonus_coef=0.1),
        PAPO(),
        PAPO(kl_prcp_coef=0.0, entropy_coef=0.1),
        DVRP(),
        CPPO(select_in="update"),
    ],
    ids=["entropy_bonus", "papo", "entropy", "dvrp", "cppo_update"],
)
def test_terms_that_take_in_every_completion_leave_none_out(
    objective: Objective, policy: Policy, inputs: Inputs
) -> None:
    batch = prepare(inputs, score(inputs, policy, None, objective, settings()), objective)
    assert objective.needed(batch).all()


def test_a_step_without_any_advantage_runs_nothing_and_moves_as_a_zero_gradient_does(
    policy: Policy, inputs: Inputs
) -> None:
    before = [p.detach().clone() for p in policy.parameters()]
    equal = replace(inputs, rewards=torch.zeros_like(inputs.rewards))
    moved = []
    for skip in (True, False):
        optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-3)
        train_step(policy, None, optimizer, inputs, BASE, settings())
        result = train_step(policy, None, optimizer, equal, BASE, replace(settings(), skip_idle=skip))
        assert result.metrics["loss/surrogate"] == 0.0 and result.updates == 1
        moved.append([p.detach().clone() for p in policy.parameters()])
        with torch.no_grad():
            for parameter, value in zip(policy.parameters(), before, strict=True):
                parameter.copy_(value)
    assert all(a.equal(b) for a, b in zip(*moved, strict=True))
    assert any(not a.equal(b) for a, b in zip(moved[0], before, strict=True))


@pytest.mark.parametrize("objective", [BASE, PAPO()], ids=["grpo", "papo"])
def test_the_entropy_that_is_logged_is_of_all_completions_whatever_the_update_skips(
    objective: Objective, policy: Policy, inputs: Inputs
) -> None:
    rewards = inputs.rewards.clone()
    rewards[: len(rewards) // 2] = 1.0  # half of the groups are idle: GRPO leaves them out
    given = replace(inputs, rewards=rewards)
    before = copy.deepcopy(policy.state_dict())
    found = []
    for skip in (True, False):
        optimizer = torch.optim.SGD(policy.parameters(), lr=1e-9)
        result = train_step(policy, None, optimizer, given, objective, replace(settings(), skip_idle=skip))
        found.append(result.metrics["policy/entropy"])
        policy.load_state_dict(before)
    scored = result.batch.scores.views["clean"].entropy[inputs.completion_mask]
    assert found[0] == found[1] == pytest.approx(scored.mean().item(), abs=1e-6)
    idle = result.per_token["policy/entropy"][: len(rewards) // 2]
    active = result.per_token["policy/entropy"][len(rewards) // 2 :]
    assert abs(float(idle.nanmean()) - float(active.nanmean())) > 1e-4  # a mean over a part would differ


def test_entropies_of_completions_sampled_under_another_view_are_not_the_clean_pictures(
    policy: Policy, inputs: Inputs
) -> None:
    recorded = torch.full_like(inputs.sampled_logprobs, 2.0)
    elsewhere = torch.zeros_like(inputs.correct)
    elsewhere[0] = True
    recorded[0] = 50.0
    given = replace(inputs, sampled_entropies=recorded, sampled_elsewhere=elsewhere)
    how = replace(settings(), score_old=False, parity_limit=math.inf)
    optimizer = torch.optim.SGD(policy.parameters(), lr=0.0)
    result = train_step(policy, None, optimizer, given, BASE, how)
    mask = inputs.completion_mask.double()
    scored = result.batch.scores.views["clean"].entropy[0][inputs.completion_mask[0]].double().sum()
    wanted = (scored + 2.0 * mask[1:].sum()) / mask.sum()
    assert result.metrics["policy/entropy"] == pytest.approx(float(wanted), rel=1e-6)
