"""PAPO's whole loss, micro-batch by micro-batch, against the official actor."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from foveal.compat.kl import NAMES
from foveal.compat.losses import papo_micro_loss
from foveal.objectives.grpo import GRPO
from foveal.objectives.papo import KL_PRCP, PAPO
from foveal.train.rows import select
from foveal.types import Batch, TokenStats, ViewScores
from golden.golden_cases import (
    OWN_FOLDER,
    SINGLE,
    Case,
    batch_of,
    cases,
    close,
    close_tightly,
    forward,
    load_cases,
    tensor,
)


def objective_of(chosen: Case) -> PAPO:
    """The settings of a case; gamma as it is at this step, the entropy terms following it."""
    objective = PAPO(
        base=GRPO(
            clip_low=chosen["clip_ratio_low"],
            clip_high=chosen["clip_ratio_high"],
            dual_clip=chosen["clip_ratio_dual"],
            kl_coef=chosen["kl_coef"] if chosen["has_ref"] and chosen["use_kl_loss"] else 0.0,
            kl_estimator=NAMES[chosen["kl_penalty"]],
            aggregation={"token": "token_mean", "seq": "sequence_mean"}[chosen["loss_avg_mode"]],
        ),
        kl_prcp_coef=chosen["kl_prcp_coef"] if chosen["use_kl_prcp"] else 0.0,
        estimator=NAMES[chosen["kl_prcp_penalty"]],
        removed_gradient=chosen["recompute_aug"],
        token_fraction=chosen["kl_prcp_token_level_mask_top_p"]
        if chosen["use_kl_prcp_token_level_mask"]
        else 1.0,
        kl_prcp_clip=chosen["kl_prcp_clipping"] if chosen["use_kl_prcp_clipping"] else None,
        entropy_coef=chosen["ori_entropy_loss_coef"] if chosen["use_ori_entropy_loss"] else 0.0,
        removed_entropy_coef=chosen["aug_entropy_loss_coef"] if chosen["use_aug_entropy_loss"] else 0.0,
        sft_coef=chosen["sft_loss_coef"] if chosen["use_sft_loss"] else 0.0,
        likelihood_aggregation="token_mean",
    )
    if not chosen["use_kl_prcp"]:
        return objective
    return objective.annealed(chosen.get("kl_prcp_coef_now", chosen["kl_prcp_coef"]))


def prepared(case: Case, removed: Tensor, *, dtype: torch.dtype) -> Batch:
    """The batch with the case's own weights of completions, and which of them are right."""
    inputs, chosen = case["inputs"], case["settings"]
    scored = ViewScores(logprobs=removed.detach(), entropy=torch.zeros_like(removed))
    batch = batch_of(inputs, {"removed": scored}, dtype=dtype)
    right = torch.tensor(chosen.get("correctness_mult_mask", [0.0] * len(removed))) > 0
    batch = replace(batch, inputs=replace(batch.inputs, correct=right))
    if "kl_prcp_weighting" not in chosen:
        return batch
    weights = tensor(chosen["kl_prcp_weighting"], dtype=dtype).unsqueeze(-1).expand_as(removed)
    return replace(batch, weights={KL_PRCP: weights})


def rows_of(size: int, micro: int) -> tuple[Tensor, ...]:
    """The rows of each micro-batch: the official split counts size // micro of them."""
    return torch.arange(size).chunk(max(1, size // micro))


def losses_of(case: Case, *, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """The loss of each micro-batch, and both branches' log-probabilities as leaves."""
    inputs, chosen = case["inputs"], case["settings"]
    logprobs = tensor(inputs["log_probs"], grad=True, dtype=dtype)
    removed = tensor(inputs.get("aug_log_probs", inputs["log_probs"]), grad=True, dtype=dtype)
    objective, batch = objective_of(chosen), prepared(case, removed, dtype=dtype)
    losses = []
    for rows in rows_of(len(logprobs), chosen.get("micro_batch_size", len(logprobs))):
        now: dict[str, TokenStats] = {"clean": forward(logprobs[rows]), "removed": forward(removed[rows])}
        terms = objective.terms(select(batch, rows), now)
        losses.append(papo_micro_loss(terms, mode=chosen["loss_avg_mode"]))
    return torch.stack(losses), logprobs, removed


@cases("papo_actor")
def test_papo_actor(case: Case) -> None:
    expected: Any = case["expected"]
    losses, logprobs, removed = losses_of(case, dtype=torch.float64)
    losses.mean().backward()
    close_tightly(losses, expected["micro_losses"])
    close_tightly(losses.mean(), expected["loss"])
    close_tightly(logprobs.grad, expected["grad_log_probs"])
    found = torch.zeros_like(removed) if removed.grad is None else removed.grad
    close_tightly(found, expected.get("grad_aug_log_probs", torch.zeros_like(removed)))


@cases("papo_actor", lambda case: "expected_f32" in case)
def test_papo_actor_in_float32(case: Case) -> None:
    losses, _, _ = losses_of(case, dtype=torch.float32)
    close(losses.mean(), case["expected_f32"]["loss"], tolerance=SINGLE)


@pytest.mark.parametrize("name", ["kl_prcp_weighting", "correctness_mult_mask", "kl_prcp_coef_now"])
def test_a_setting_that_is_given_changes_the_value(name: str) -> None:
    # The settings are read: without the optional one the official value is missed. That holds for the cases
    # in this folder alone: elsewhere a weight may be 1, or a coefficient the one it starts at.
    given = [case for case in load_cases("papo_actor", folder=OWN_FOLDER) if name in case["settings"]]
    assert given
    for case in given:
        dropped = {**case, "settings": {k: v for k, v in case["settings"].items() if k != name}}
        losses, _, _ = losses_of(dropped, dtype=torch.float64)
        same = case["settings"].get("correctness_mult_mask") == [0.0] * len(case["inputs"]["log_probs"])
        assert same or abs(float(losses.mean()) - case["expected"]["loss"]) > 1e-6
