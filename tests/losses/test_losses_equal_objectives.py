"""A plain loss and the objective that the trainer runs: one number with one gradient, for every method."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from foveal import losses
from foveal.objectives import REGISTRY
from foveal.objectives.extension import build_objective
from foveal.types import Objective, Term
from objective_batches import Case, gradients, make_case, measure, prepared, total_loss

VIEWS = ("clean", "removed", "preserved", "noised")
BASE = {"type": "dapo", "clip_high": 0.3, "dual_clip": 3.0, "kl_coef": 0.05, "entropy_bonus_coef": 0.02}
SURROGATE = {"clip_low": 0.1, "clip_high": 0.15, "kl_coef": 0.1, "kl_estimator": "k2"}
SURROGATES = ("grpo", "dapo", "dr_grpo", "rloo", "reinforce_pp", "gspo", "cispo")

CASES: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in REGISTRY),
    *((name, SURROGATE | {"entropy_bonus_coef": 0.03}) for name in SURROGATES),
    *((name, {"base": BASE}) for name in ("papo", "cppo", "vppo", "noisy_rollout", "dvrp")),
    ("grpo", {"dual_clip": 1.2, "aggregation": "sequence_sum", "horizon": 7}),
    ("papo", {"kl_prcp_coef": 0.3, "removed_gradient": True, "entropy_coef": 0.1, "sft_coef": 0.2}),
    ("papo", {"kl_prcp_coef": 0.3, "removed_gradient": True, "estimator": "exact"}),
    ("papo", {"kl_prcp_coef": 0.3, "weighting": "acc_weighted", "kl_prcp_clip": 0.2, "token_fraction": 0.5}),
    ("papo", {"entropy_kind": "full", "entropy_coef": 0.1, "removed_entropy_coef": 0.2}),
    ("papo", {"entropy_coef": 0.1, "likelihood_aggregation": "token_mean", "base": "gspo"}),
    ("cppo", {"cpl_coef": 0.4, "tau": 0.7, "gate": False, "score": "relative", "rounding": "ceil"}),
    ("cppo", {"cpl_coef": 0.4, "tau": 0.7, "divergence": "exact"}),
    ("cppo", {"cpl_coef": 0.4, "tau": 0.7, "divergence": "k1", "selection": "all", "k1_limit": 0.3}),
    ("cppo", {"cpl_coef": 0.4, "tau": 0.7, "select_in": "update", "gate": False}),
    ("vppo", {"token_fraction": 0.5, "scale_max": 1.5, "denominator": "selected"}),
    ("vppo", {"base": {"type": "papo", "kl_prcp_coef": 0.2, "base": "cispo"}}),
    ("dvrp", {"sensitivity_coef": 0.3, "robustness_coef": 0.2, "entropy_kind": "full"}),
    ("dvrp", {"sensitivity_coef": 0.3, "views_gradient": False}),
    ("perception_reward", {"coef": 0.7, "on": "all_tokens", "advantage": "leave_one_out", "base": BASE}),
]
IDS = [f"{name}-{index}" for index, (name, _) in enumerate(CASES)]


def tensors(objective: Objective, case: Case, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What a loop of one's own would pass: scored views as numbers, running ones with gradient."""
    now, batch = case.now, case.batch
    scored = batch.scores.views
    runs = {view: now[view] if view in objective.update_views else scored[view] for view in VIEWS}
    every = torch.ones_like(batch.inputs.completion_mask)
    log_probs = {view: _whole(now[view].log_probs_at(every), batch.inputs.completion_mask) for view in VIEWS}
    given: dict[str, Any] = {
        "logprobs": now["clean"].logprobs,
        "old_logprobs": batch.scores.old_logprobs,
        "advantages": objective.advantages(batch.inputs),
        "completion_mask": batch.inputs.completion_mask,
        "ref_logprobs": batch.scores.ref_logprobs,
        "entropy": now["clean"].entropy,
        "correct": batch.inputs.correct,
        "log_probs": log_probs["clean"],
        "perception_rewards": batch.inputs.breakdown["facts"],
        "group_size": 2,
        "segment": batch.inputs.segments["facts"],
    }
    for view in VIEWS[1:]:
        given[f"{view}_logprobs"] = runs[view].logprobs
        given[f"{view}_entropy"] = runs[view].entropy
        given[f"{view}_log_probs"] = log_probs[view]
    if objective.type == "perception_reward":
        given["advantages"] = objective.base.advantages(batch.inputs)  # type: ignore[attr-defined]
    if objective.type == "cppo" and settings.get("select_in") != "update":
        given["perception_tokens"] = losses.perception_tokens(
            scored["clean"].entropy,
            scored["removed"].entropy,
            batch.inputs.completion_mask,
            fraction=objective.perception_fraction,  # type: ignore[attr-defined]
            score=objective.score,  # type: ignore[attr-defined]
            rounding=objective.rounding,  # type: ignore[attr-defined]
        )
        if settings.get("selection") == "all":
            del given["perception_tokens"]
    return given


def _whole(rows: Tensor, mask: Tensor) -> Tensor:
    return rows.reshape(*mask.shape, -1)


def plain(name: str, settings: Mapping[str, Any], objective: Objective, case: Case) -> losses.Loss:
    function: Callable[..., losses.Loss] = getattr(losses, name)
    wanted = inspect.signature(function).parameters
    given = {key: value for key, value in tensors(objective, case, settings).items() if key in wanted}
    return function(**given, **settings)


@pytest.mark.parametrize(("name", "settings"), CASES, ids=IDS)
@pytest.mark.parametrize("seed", [0, 1])
def test_loss_and_gradients_equal_those_of_the_objective(
    name: str, settings: dict[str, Any], seed: int
) -> None:
    objective = build_objective({"type": name, **settings})
    case = prepared(objective, make_case(views=VIEWS, seed=seed, spread=0.6))
    found = plain(name, settings, objective, case).loss
    assert found.item() == pytest.approx(total_loss(objective, case).item(), abs=1e-12)
    wanted = gradients(objective, make_case(views=VIEWS, seed=seed, spread=0.6))
    gradient = torch.autograd.grad(found, list(case.logits.values()), allow_unused=True)
    moved = 0.0
    for view, own in zip(case.logits, gradient, strict=True):
        own = torch.zeros_like(wanted[view]) if own is None else own
        assert torch.allclose(own, wanted[view], rtol=0, atol=1e-12), view
        moved += float(own.abs().sum())
    assert moved > 0


@pytest.mark.parametrize(("name", "settings"), CASES, ids=IDS)
def test_measures_have_the_trainers_names_and_values(name: str, settings: dict[str, Any]) -> None:
    objective = build_objective({"type": name, **settings})
    case = prepared(objective, make_case(views=VIEWS, spread=0.6))
    found = plain(name, settings, objective, case).measures
    terms: list[Term] = objective.terms(case.batch, case.now)
    assert {f"loss/{term.name}" for term in terms} <= found.keys()
    total = sum(value.item() for key, value in found.items() if key.startswith("loss/"))
    assert total == pytest.approx(total_loss(objective, case).item(), abs=1e-12)
    assert all(value.dim() == 0 and not value.requires_grad for value in found.values())
    for key in ("policy/clip_fraction", "policy/entropy", "policy/approx_kl"):
        first = next(m for m in objective.measures(case.batch, case.now) if m.name == key)
        mean = first.per_token[first.mask].mean().item() if bool(first.mask.any()) else 0.0
        assert found[key].item() == pytest.approx(mean, abs=1e-12)


@pytest.mark.parametrize("name", list(REGISTRY))
def test_every_method_has_a_function_with_its_fields_and_defaults(name: str) -> None:
    """A field that is added to an objective has to reach its function too."""
    elsewhere = {
        *("type", "preset", "removed_view", "preserved_view", "noised_view"),
        *("filter_groups", "filter_on", "filter_low", "filter_high"),  # groups, before the loss
        *("overlong_buffer", "overlong_factor", "max_length"),  # rewards
        *("baseline", "discount", "keep_equal_groups"),  # reinforce_pp_advantages
        *("schedule", "final_coef", "decay_fraction", "entropy_follows"),  # the caller's coefficient
        *("fraction", "clean_after", "reward"),
    }
    fields = type(build_objective(name)).model_fields
    parameters = inspect.signature(getattr(losses, name)).parameters
    extension = "base" in fields
    for key, field in fields.items():
        if key in elsewhere or (extension and key in ("aggregation", "horizon")):
            continue
        if key == "advantage" and name != "perception_reward":
            continue
        if name == "cispo" and key == "dual_clip":
            continue
        assert key in parameters, f"losses.{name} has no {key}"
        if key != "base":
            assert parameters[key].default == field.default, key


@pytest.mark.parametrize("name", ["grpo", "dapo", "papo", "cppo", "dvrp"])
def test_micro_batches_add_up_to_the_whole(name: str) -> None:
    settings = {"gate": False} if name == "cppo" else {}
    objective = build_objective({"type": name, **settings})
    case = prepared(objective, make_case(views=VIEWS, spread=0.6))
    function = getattr(losses, name)
    given = {
        key: value
        for key, value in tensors(objective, case, settings).items()
        if key in inspect.signature(function).parameters
    }
    whole = function(**given, **settings).loss
    counts = {term: losses.count(mask) for term, mask in objective.masks(case.batch).items()}
    parts = [
        function(**{k: v[rows] for k, v in given.items()}, **settings, counts=counts).loss
        for rows in (slice(0, 1), slice(1, 4))
    ]
    assert sum(parts).item() == pytest.approx(whole.item(), abs=1e-12)
    alone = [
        function(**{k: v[r] for k, v in given.items()}, **settings).loss for r in (slice(0, 1), slice(1, 4))
    ]
    assert abs((sum(alone) / 2 - whole).item()) > 1e-6


def test_cppo_chooses_from_the_entropies_it_is_given() -> None:
    objective = build_objective({"type": "cppo", "cpl_coef": 0.4, "gate": False})
    case = make_case(views=VIEWS, spread=0.0)
    scored = case.batch.scores.views
    case = prepared(objective, case)
    found = losses.cppo(
        case.now["clean"].logprobs,
        case.batch.scores.old_logprobs,
        objective.advantages(case.batch.inputs),
        case.batch.inputs.completion_mask,
        preserved_logprobs=case.now["preserved"].logprobs,
        removed_logprobs=case.now["removed"].logprobs,
        entropy=scored["clean"].entropy,
        removed_entropy=scored["removed"].entropy,
        cpl_coef=0.4,
        gate=False,
    )
    assert found.loss.item() == pytest.approx(total_loss(objective, case).item(), abs=1e-12)
    assert found.measures["perception/token_fraction"].item() == pytest.approx(
        measure(objective, case, "perception/token_fraction"), abs=1e-12
    )


def test_padding_is_not_read() -> None:
    objective = build_objective("papo")
    case = prepared(objective, make_case(views=VIEWS))
    mask = case.batch.inputs.completion_mask
    junk = case.now["clean"].logprobs.masked_fill(~mask, torch.nan)
    clean = case.now["clean"].logprobs
    rest = (case.batch.scores.old_logprobs, torch.tensor([1.0, -1.0, 0.5, -0.5]).double(), mask)
    removed = case.batch.scores.views["removed"].logprobs
    dirty = losses.papo(junk, *rest, removed_logprobs=removed)
    assert dirty.loss.item() == losses.papo(clean, *rest, removed_logprobs=removed).loss.item()
    as_numbers = losses.papo(clean, *rest[:2], mask.long(), removed_logprobs=removed)
    assert as_numbers.loss.item() == dirty.loss.item()
    assert not dirty.loss.isnan()
    lost = replace(case.batch.scores, old_logprobs=rest[0]).old_logprobs.clone()
    lost[0, 0] = torch.nan
    assert losses.papo(clean, lost, *rest[1:], removed_logprobs=removed).loss.isnan()
