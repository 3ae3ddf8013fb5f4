"""PAPO's objective against the loss and gradients of its actor, micro-batch by micro-batch."""

import torch

from foveal.objectives.grpo import GRPO
from foveal.objectives.papo import PAPO
from foveal.types import ViewScores
from golden.golden_cases import Case, batch_of, cases, close, forward, mask_of, micro_loss, tensor

ESTIMATORS = {"low_var_kl": "k3", "kl": "k1", "mse": "k2", "abs": "abs"}
AGGREGATIONS = {"token": "token_mean", "seq": "sequence_mean"}


def no_empty_row(mask: list[list[int]]) -> bool:
    return bool(mask_of(mask).any(-1).all())


def papo_as_configured(case: Case) -> bool:
    """No token masks, clipping, weights, schedules, SFT; sequence means without entropy or empty rows."""
    chosen = case["settings"]
    if any(chosen[f"use_{name}"] for name in ("kl_prcp_token_level_mask", "kl_prcp_clipping", "sft_loss")):
        return False
    if "kl_prcp_weighting" in chosen or "kl_prcp_coef_now" in chosen or chosen["kl_prcp_penalty"] == "abs":
        return False
    if chosen["has_ref"] and chosen["kl_penalty"] != "low_var_kl":
        return False
    entropies = chosen["use_aug_entropy_loss"] or chosen["use_ori_entropy_loss"]
    means = no_empty_row(case["inputs"]["response_mask"]) and not entropies
    return chosen["loss_avg_mode"] == "token" or means


@cases("papo_actor", papo_as_configured)
def test_papo_actor(case: Case) -> None:
    inputs, chosen, expected = case["inputs"], case["settings"], case["expected"]
    objective = PAPO(
        base=GRPO(
            clip_low=chosen["clip_ratio_low"],
            clip_high=chosen["clip_ratio_high"],
            dual_clip=chosen["clip_ratio_dual"],
            kl_coef=chosen["kl_coef"] if chosen["has_ref"] and chosen["use_kl_loss"] else 0.0,
            aggregation=AGGREGATIONS[chosen["loss_avg_mode"]],
        ),
        kl_prcp_coef=chosen["kl_prcp_coef"] if chosen["use_kl_prcp"] else 0.0,
        estimator=ESTIMATORS[chosen["kl_prcp_penalty"]],
        removed_gradient=chosen["recompute_aug"],
        entropy_coef=chosen["ori_entropy_loss_coef"] if chosen["use_ori_entropy_loss"] else 0.0,
        removed_entropy_coef=chosen["aug_entropy_loss_coef"] if chosen["use_aug_entropy_loss"] else 0.0,
    )
    logprobs = tensor(inputs["log_probs"], grad=True)
    removed = tensor(inputs.get("aug_log_probs", inputs["log_probs"]), grad=True)
    constant = ViewScores(logprobs=removed.detach(), entropy=torch.zeros_like(removed))
    batch = batch_of(inputs, {"removed": constant})
    now = {"clean": forward(logprobs), "removed": forward(removed)}
    size = chosen.get("micro_batch_size", len(logprobs))
    losses = [micro_loss(objective, batch, now, slice(i, i + size)) for i in range(0, len(logprobs), size)]
    torch.stack(losses).mean().backward()
    close(torch.stack(losses), expected["micro_losses"], tolerance=2e-8)
    close(logprobs.grad, expected["grad_log_probs"], tolerance=2e-8)
    if "grad_aug_log_probs" in expected:
        found = torch.zeros_like(removed) if removed.grad is None else removed.grad
        close(found, expected["grad_aug_log_probs"], tolerance=2e-8)
