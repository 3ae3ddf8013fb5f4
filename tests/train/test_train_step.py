"""One step on recorded completions: identities between methods, and independence of how a batch is split."""

import copy
import math
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl as modeling

from foveal.objectives.cppo import CPPO
from foveal.objectives.dapo import DAPO
from foveal.objectives.grpo import GRPO
from foveal.objectives.papo import PAPO
from foveal.objectives.vppo import VPPO
from foveal.policy import Policy
from foveal.policy.forward import micro_batches
from foveal.train import graphs as graphs_module
from foveal.train import update as update_module
from foveal.train.rows import mini_batch_rows
from foveal.train.step import StepResult, train_step
from foveal.train.tally import larger
from foveal.types import Aggregation, Batch, Count, Group, Inputs, Objective, Term, TokenStats
from train_cases import METHODS, SPLIT, WHOLE, distance, gradients, inputs_of, moved, record, settings

AGGREGATIONS: tuple[Aggregation, ...] = ("token_mean", "sequence_mean")
BOUND = {torch.float32: 1e-5, torch.float64: 1e-10}


@pytest.fixture(scope="module")
def double(policy: Policy) -> Policy:
    return copy.deepcopy(policy).double()


@pytest.fixture
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where transformers computes in float32 whatever the model's type, let it keep float64."""

    def norm(module: Any, x: Tensor) -> Tensor:
        scale: Tensor = module.weight * torch.rsqrt(
            x.square().mean(-1, keepdim=True) + module.variance_epsilon
        )
        return scale * x

    def turn(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, ...]:
        cos, sin = cos.unsqueeze(-2), sin.unsqueeze(-2)
        return tuple(x * cos + modeling.rotate_half(x) * sin for x in (q, k))

    monkeypatch.setattr(modeling.Qwen2_5_VLRMSNorm, "forward", norm)
    monkeypatch.setattr(modeling, "apply_rotary_pos_emb_vision", turn)


@pytest.fixture(scope="module")
def groups(policy: Policy) -> list[Group]:
    return record(policy)


@pytest.fixture(scope="module")
def inputs(policy: Policy, groups: list[Group]) -> Inputs:
    return inputs_of(policy, groups)


@pytest.fixture(scope="module")
def reordered(policy: Policy, groups: list[Group]) -> Inputs:
    return inputs_of(policy, [groups[i] for i in (3, 0, 4, 2, 1)])


def train(
    policy: Policy, inputs: Inputs, objective: Objective, *, steps: int = 2, lr: float = 1e-3
) -> tuple[Policy, list[StepResult]]:
    """A copy of the policy after real optimizer steps."""
    moving = copy.deepcopy(policy)
    optimizer = torch.optim.AdamW(moving.parameters(), lr=lr)
    how = settings(tokens=SPLIT * 3, mini_batches=2)
    return moving, [train_step(moving, None, optimizer, inputs, objective, how) for _ in range(steps)]


def same_bits(a: Policy, b: Policy) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


@pytest.mark.parametrize(
    ("twin", "base"),
    [
        (PAPO(kl_prcp_coef=0), GRPO()),
        (CPPO(cpl_coef=0), GRPO()),
        (DAPO(clip_high=0.2, aggregation="sequence_mean", filter_groups=False), GRPO()),
        (PAPO(base=DAPO(), kl_prcp_coef=0), DAPO()),
    ],
    ids=["papo", "cppo", "dapo", "papo_on_dapo"],
)
def test_method_that_is_switched_off_trains_its_base_bit_for_bit(
    twin: Objective, base: Objective, policy: Policy, inputs: Inputs
) -> None:
    found, found_results = train(policy, inputs, twin)
    wanted, wanted_results = train(policy, inputs, base)
    assert same_bits(found, wanted)
    assert not same_bits(found, policy)
    assert [r.metrics["loss/total"] for r in found_results] == [
        r.metrics["loss/total"] for r in wanted_results
    ]


def test_method_that_is_switched_on_does_not_train_its_base(policy: Policy, inputs: Inputs) -> None:
    wanted, _ = train(policy, inputs, GRPO(), steps=1)
    for twin in (PAPO(kl_prcp_coef=1e-3), CPPO(cpl_coef=1e-3)):
        found, _ = train(policy, inputs, twin, steps=1)
        assert not same_bits(found, wanted)


def test_split_of_the_tests_really_splits(inputs: Inputs) -> None:
    parts = micro_batches(inputs, tokens=SPLIT)
    owners = [set(inputs.prompt_index[part].tolist()) for part in parts]
    assert len(parts) > len(inputs.prompts)
    assert any(sum(owner in found for found in owners) > 1 for owner in range(len(inputs.prompts)))
    assert len(micro_batches(inputs, tokens=WHOLE)) == 1


@pytest.mark.usefixtures("wide")
@pytest.mark.parametrize("kind", AGGREGATIONS)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_gradients_do_not_depend_on_split_or_order(
    method: str,
    kind: Aggregation,
    dtype: torch.dtype,
    policy: Policy,
    double: Policy,
    inputs: Inputs,
    reordered: Inputs,
) -> None:
    objective, running = METHODS[method](kind), double if dtype == torch.float64 else policy
    whole = gradients(running, inputs, objective, tokens=WHOLE)
    assert distance(gradients(running, inputs, objective, tokens=SPLIT), whole) < BOUND[dtype]
    assert distance(gradients(running, reordered, objective, tokens=SPLIT), whole) < BOUND[dtype]


@pytest.mark.parametrize("kind", AGGREGATIONS)
@pytest.mark.parametrize("method", METHODS)
def test_sgd_steps_do_not_depend_on_split(
    method: str, kind: Aggregation, policy: Policy, inputs: Inputs
) -> None:
    objective = METHODS[method](kind)
    whole = moved(policy, inputs, objective, tokens=WHOLE, steps=5)
    assert distance(moved(policy, inputs, objective, tokens=SPLIT, steps=5), whole) < 1e-5


def double_first_micro_batch(patch: pytest.MonkeyPatch) -> None:
    """One micro-batch's loss counts twice."""
    right, calls = graphs_module.sum_terms, [0]

    def wrong(terms: list[Term], counts: dict[str, Count], objective: Objective) -> Tensor:
        calls[0] += 1
        return right(terms, counts, objective) * (2 if calls[0] == 1 else 1)

    patch.setattr(graphs_module, "sum_terms", wrong)


def halve_every_count(patch: pytest.MonkeyPatch) -> None:
    """The denominators of a split batch are half of the right ones, as with a forgotten second rank."""
    right = update_module.count

    def wrong(mask: Tensor) -> Count:
        found = right(mask)
        return Count(tokens=found.tokens / 2, sequences=found.sequences / 2)

    patch.setattr(update_module, "count", wrong)


def count_in_micro_batches(patch: pytest.MonkeyPatch) -> None:
    """The denominators of the micro-batch instead of the mini-batch."""
    right = graphs_module.sum_terms

    def wrong(terms: list[Term], counts: dict[str, Count], objective: Objective) -> Tensor:
        return right(terms, {term.name: update_module.count(term.mask) for term in terms}, objective)

    patch.setattr(graphs_module, "sum_terms", wrong)


@pytest.mark.parametrize(
    "plant", [double_first_micro_batch, halve_every_count, count_in_micro_batches], ids=lambda f: f.__name__
)
@pytest.mark.parametrize("method", METHODS)
def test_planted_factor_of_two_is_seen_in_gradients(
    method: str,
    plant: Callable[[pytest.MonkeyPatch], None],
    policy: Policy,
    inputs: Inputs,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    objective = METHODS[method]("token_mean")
    whole = gradients(policy, inputs, objective, tokens=WHOLE)
    plant(monkeypatch)
    assert distance(gradients(policy, inputs, objective, tokens=SPLIT), whole) > 0.01


@pytest.mark.parametrize("kind", AGGREGATIONS)
def test_planted_factor_of_two_is_seen_in_sgd_steps(
    kind: Aggregation, policy: Policy, inputs: Inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    objective = METHODS["papo_removed_gradient"](kind)
    whole = moved(policy, inputs, objective, tokens=WHOLE, steps=2)
    halve_every_count(monkeypatch)
    assert distance(moved(policy, inputs, objective, tokens=SPLIT, steps=2), whole) > 0.1


class Broken(GRPO):
    """GRPO whose loss is not finite."""

    def terms(self, batch: Batch, now: dict[str, TokenStats]) -> list[Term]:  # type: ignore[override]
        return [replace(term, per_token=term.per_token * math.inf) for term in super().terms(batch, now)]


def test_update_without_a_finite_gradient_is_skipped_and_counted(policy: Policy, inputs: Inputs) -> None:
    moving, results = train(policy, inputs, Broken(), steps=1)
    assert results[0].metrics["policy/skipped_count"] == 2
    assert same_bits(moving, policy)
    optimizer = torch.optim.AdamW(moving.parameters(), lr=1e-3)
    good = train_step(moving, None, optimizer, inputs, GRPO(), settings())
    assert good.metrics["policy/skipped_count"] == 0
    assert not same_bits(moving, policy)
    assert all(p.isfinite().all() for p in moving.parameters())


def test_optimizer_state_exists_for_every_parameter_after_one_step(
    policy: Policy, groups: list[Group]
) -> None:
    """Without pictures the vision tower has no gradient of its own."""
    blind = inputs_of(policy, [groups[2]])
    moving = copy.deepcopy(policy)
    optimizer = torch.optim.AdamW(moving.parameters(), lr=1e-3, weight_decay=0)
    train_step(moving, None, optimizer, blind, GRPO(), settings())
    assert all("exp_avg" in optimizer.state[p] for p in moving.parameters())
    tower = [p for name, p in moving.named_parameters() if "visual" in name]
    before = [p for name, p in policy.named_parameters() if "visual" in name]
    assert tower and all(torch.equal(x, y) for x, y in zip(tower, before, strict=True))
    assert all(float(p.grad.abs().max()) == 0 for p in tower if p.grad is not None)


def test_gradients_keep_their_memory_and_nothing_of_an_earlier_update(policy: Policy, inputs: Inputs) -> None:
    moving = copy.deepcopy(policy)
    optimizer = torch.optim.SGD(moving.parameters(), lr=0.0)
    how = settings(tokens=SPLIT, mini_batches=2)
    found = []
    for _ in range(2):
        norms = train_step(moving, None, optimizer, inputs, GRPO(), how).metrics["policy/grad_norm"]
        found.append((norms, [p.grad.data_ptr() for p in moving.parameters() if p.grad is not None]))
    assert found[0] == found[1]
    assert len(found[0][1]) == len(list(moving.parameters()))


def test_gradients_are_scaled_down_to_the_clip_norm(policy: Policy, inputs: Inputs) -> None:
    raw = gradients(policy, inputs, GRPO(), tokens=WHOLE)
    norm = math.sqrt(sum(float(g.double().square().sum()) for g in raw))
    for limit in (norm / 4, norm * 4):
        moving = copy.deepcopy(policy)
        optimizer = torch.optim.SGD(moving.parameters(), lr=1.0)
        result = train_step(moving, None, optimizer, inputs, GRPO(), settings(max_grad_norm=limit))
        update = [
            p.detach() - q.detach() for p, q in zip(moving.parameters(), policy.parameters(), strict=True)
        ]
        length = math.sqrt(sum(float(u.double().square().sum()) for u in update))
        assert length == pytest.approx(min(norm, limit), rel=1e-3)
        assert result.metrics["policy/grad_norm"] == pytest.approx(norm, rel=1e-4)


def test_mini_batches_are_whole_groups_and_cover_the_batch(inputs: Inputs) -> None:
    for parts in (1, 2, 3, 5, 9):
        found = mini_batch_rows(inputs, parts)
        assert torch.cat(found).tolist() == list(range(len(inputs.rewards)))
        owners = [set(inputs.prompt_index[rows].tolist()) for rows in found]
        assert sum(map(len, owners)) == len(inputs.prompts)
        assert max(map(len, owners)) - min(map(len, owners)) <= 1


@pytest.mark.parametrize("method", METHODS)
def test_step_changes_nothing_of_its_inputs(method: str, policy: Policy, inputs: Inputs) -> None:
    before = copy.deepcopy(inputs)
    train(policy, inputs, METHODS[method]("token_mean"), steps=1)
    for f in fields(Inputs):
        found, wanted = getattr(inputs, f.name), getattr(before, f.name)
        if isinstance(found, Tensor):
            assert torch.equal(found, wanted), f.name
    for name, view in inputs.vision.items():
        for found, wanted in zip(view.pixels, before.vision[name].pixels, strict=True):
            assert torch.equal(found, wanted)


def test_per_token_values_stand_at_their_tokens_and_nowhere_else(policy: Policy, inputs: Inputs) -> None:
    _, (result,) = train(policy, inputs, METHODS["papo_score"]("token_mean"), steps=1)
    values = result.per_token["kl_prcp"]
    assert torch.equal(values.isfinite(), inputs.completion_mask)
    assert result.metrics["kl_prcp/mean"] == pytest.approx(
        float(values[inputs.completion_mask].mean()), rel=1e-5
    )


LOOKING = ("kl_prcp/mean", "kl_prcp/median", "kl_prcp/variance", "kl_prcp/tail_fraction")
LOOKING += ("perception/information_gain", "perception/entropy_shift")


def looked(policy: Policy, inputs: Inputs, objective: Objective) -> StepResult:
    """A step that moves nothing, so that all methods see the same policy."""
    _, (result,) = train(policy, inputs, objective, steps=1, lr=0.0)
    return result


@pytest.mark.parametrize(
    "objective",
    [
        PAPO(base=CPPO()),
        CPPO(base=PAPO()),
        VPPO(base=PAPO()),
        VPPO(base=CPPO()),
        PAPO(base=VPPO(base=CPPO())),
    ],
    ids=["papo_cppo", "cppo_papo", "vppo_papo", "vppo_cppo", "papo_vppo_cppo"],
)
def test_methods_that_hold_one_another_log_looking_as_papo_alone_does(
    objective: Objective, policy: Policy, inputs: Inputs
) -> None:
    found, wanted = looked(policy, inputs, objective), looked(policy, inputs, PAPO())
    assert torch.equal(found.per_token["kl_prcp"].isfinite(), inputs.completion_mask)
    for name in LOOKING:
        assert found.metrics[name] == pytest.approx(wanted.metrics[name], rel=1e-5), name
    assert found.metrics["kl_prcp/mean"] > 0


@pytest.mark.parametrize(
    "fields",
    [
        {"kl_prcp_clip": 1e-3, "token_fraction": 0.2, "weighting": "correct_only"},
        {"estimator": "k1"},
        {"kl_prcp_coef": 0.0, "removed_entropy_coef": 0.1},
    ],
    ids=["chosen_and_clamped", "k1", "not_paid"],
)
def test_kl_prcp_is_logged_as_plain_k3_whatever_is_paid(
    fields: dict[str, Any], policy: Policy, inputs: Inputs
) -> None:
    found, wanted = looked(policy, inputs, PAPO(**fields)), looked(policy, inputs, PAPO())
    for name in LOOKING:
        assert found.metrics[name] == pytest.approx(wanted.metrics[name], rel=1e-5), name
    assert torch.equal(found.per_token["kl_prcp"].isfinite(), inputs.completion_mask)
    assert torch.allclose(found.per_token["kl_prcp"], wanted.per_token["kl_prcp"], equal_nan=True)
    assert found.metrics.get("loss/kl_prcp", 0.0) != pytest.approx(wanted.metrics["loss/kl_prcp"], rel=0.1)


def test_metrics_do_not_depend_on_split(policy: Policy, inputs: Inputs) -> None:
    found = []
    for tokens in (WHOLE, SPLIT):
        moving = copy.deepcopy(policy)
        optimizer = torch.optim.AdamW(moving.parameters(), lr=0)
        objective = METHODS["cppo"]("token_mean")
        found.append(train_step(moving, None, optimizer, inputs, objective, settings(tokens=tokens)).metrics)
    whole, split = found
    assert split.keys() == whole.keys()
    for name, value in whole.items():
        assert split[name] == pytest.approx(value, rel=1e-3, abs=1e-5), name


def test_largest_value_shows_a_nan_wherever_it_came() -> None:
    assert larger(1.0, 2.0) == 2.0
    assert math.isnan(larger(math.nan, 2.0)) and math.isnan(larger(2.0, math.nan))
