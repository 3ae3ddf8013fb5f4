"""CPPO's perception tokens, loss and gradients against both official codes."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from foveal.compat.averages import cppo_average
from foveal.compat.kl import NAMES
from foveal.compat.losses import cppo_micro_loss
from foveal.objectives.cppo import CONTRASTIVE_PERCEPTION, CPPO
from foveal.objectives.grpo import GRPO
from foveal.types import Batch, TokenStats, ViewScores
from golden.golden_cases import (
    SINGLE,
    Case,
    batch_of,
    cases,
    close,
    close_tightly,
    forward,
    mask_of,
    tensor,
)

PLACES = ("log_probs", "log_probs_preserving", "log_probs_changing")


def verl_objective(chosen: Case) -> CPPO:
    """The settings of a case, tokens chosen from the scores; the verl variant's own choices."""
    estimator = NAMES[chosen["kl_loss_type"]]
    return CPPO(
        preset="verl",
        base=GRPO(
            clip_low=chosen["clip_ratio_low"],
            clip_high=chosen["clip_ratio_high"],
            dual_clip=chosen["clip_ratio_c"],
            kl_coef=chosen["kl_loss_coef"] if chosen["use_kl_loss"] else 0.0,
            kl_estimator=estimator,
            entropy_bonus_coef=chosen["entropy_coeff"],
            aggregation="token_mean",
        ),
        cpl_coef=chosen["cpl_loss_coef"] if chosen["use_vision_cpl_loss"] else 0.0,
        tau=chosen["cpl_tau"],
        perception_fraction=chosen["cpl_vision_top_percent"],
        selection="entropy" if chosen["cpl_use_vision_mask"] else "all",
        gate=chosen["cpl_use_advantage_gating"],
        divergence=estimator,
        k1_limit=None,
        select_in="scoring",
    )


def verl_batch(case: Case, objective: CPPO, *, dtype: torch.dtype) -> Batch:
    """The scored batch with its perception tokens."""
    inputs = case["inputs"]
    scores = {
        view: ViewScores(
            logprobs=tensor(inputs[f"log_probs{suffix}"], dtype=dtype),
            entropy=tensor(inputs[f"entropy{suffix}"], dtype=dtype),
        )
        for view, suffix in (("clean", ""), ("removed", "_changing"))
    }
    return objective.prepare(batch_of(inputs, scores, dtype=dtype))


def verl_loss(case: Case, *, dtype: torch.dtype) -> tuple[Tensor, Batch, dict[str, Tensor]]:
    """The loss of the micro-batch, its batch, and the leaves by their official names."""
    inputs, chosen = case["inputs"], case["settings"]
    leaves = {name: tensor(inputs[name], grad=True, dtype=dtype) for name in (*PLACES, "entropy")}
    objective = verl_objective(chosen)
    batch = verl_batch(case, objective, dtype=dtype)
    if chosen["on_policy"]:
        old = leaves["log_probs"].detach()
        batch = replace(batch, scores=replace(batch.scores, old_logprobs=old))
    now: dict[str, TokenStats] = {
        "clean": forward(leaves["log_probs"], leaves["entropy"]),
        "preserved": forward(leaves["log_probs_preserving"]),
        "removed": forward(leaves["log_probs_changing"], tensor(inputs["entropy_changing"], dtype=dtype)),
    }
    terms = objective.terms(batch, now)
    loss = cppo_micro_loss(terms, mode=chosen["loss_agg_mode"], accumulation=chosen["gradient_accumulation"])
    return loss, batch, leaves


@cases("cppo_verl")
def test_cppo_verl(case: Case) -> None:
    expected: Any = case["expected"]
    loss, batch, leaves = verl_loss(case, dtype=torch.float64)
    loss.backward()
    close_tightly(loss, expected["loss"])
    for name, leaf in leaves.items():
        found = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
        close_tightly(found, expected[f"grad_{name}"])
    if "perception_mask" in expected:
        assert torch.equal(batch.selections[CONTRASTIVE_PERCEPTION], mask_of(expected["perception_mask"]))


@cases("cppo_verl", lambda case: "expected_f32" in case)
def test_cppo_verl_in_float32(case: Case) -> None:
    loss, _, _ = verl_loss(case, dtype=torch.float32)
    close(loss, case["expected_f32"]["loss"], tolerance=SINGLE)


def runs_of_ones(mask: list[int], starts: list[int]) -> list[list[int]]:
    """Places of each run of ones within each packed sequence: one row of a batch each."""
    runs: list[list[int]] = []
    for place, inside in enumerate(mask):
        if inside and (not runs or runs[-1][-1] != place - 1 or place in starts):
            runs.append([])
        if inside:
            runs[-1].append(place)
    return runs


def areal_objective(chosen: Case) -> CPPO:
    return CPPO(
        preset="areal",
        cpl_coef=1.0,
        tau=chosen["cpl_tau"],
        perception_fraction=chosen["cpl_vision_top_percent"],
        selection="entropy" if chosen["cpl_use_vision_mask"] else "all",
        gate=chosen["cpl_use_advantage_gating"],
        select_in="scoring",
    )


@cases("cppo_areal")
def test_cppo_areal(case: Case) -> None:
    inputs, chosen, expected = case["inputs"], case["settings"], case["expected"]
    runs = runs_of_ones(inputs["loss_mask"], inputs["cu_seqlens"]) or [[]]
    width = max(1, *map(len, runs))
    places = torch.tensor([run + [0] * (width - len(run)) for run in runs])
    rows = [[t < len(run) for t in range(width)] for run in runs]
    leaves = {name: tensor(inputs[name], grad=True) for name in PLACES}

    def ragged(name: str) -> Tensor:
        return leaves[name][places] if name in leaves else tensor(inputs[name])[places]

    shaped = {
        "response_mask": rows,
        "old_log_probs": ragged("log_probs").tolist(),
        "advantages": (ragged("advantages") * torch.tensor(rows)).tolist(),
    }
    scores = {
        "clean": ViewScores(logprobs=ragged("log_probs").detach(), entropy=ragged("entropy")),
        "removed": ViewScores(
            logprobs=ragged("log_probs_changing").detach(), entropy=ragged("entropy_changing")
        ),
    }
    objective = areal_objective(chosen)
    batch = objective.prepare(batch_of(shaped, scores))
    now = {
        view: forward(ragged(name))
        for view, name in zip(("clean", "preserved", "removed"), PLACES, strict=True)
    }
    term = next(t for t in objective.terms(batch, now) if t.name == CONTRASTIVE_PERCEPTION)
    loss = cppo_average(term.per_token, term.mask, mode="token-mean")
    loss.backward()
    selected = torch.zeros(len(inputs["loss_mask"]), dtype=torch.bool)
    selected[places[batch.selections[CONTRASTIVE_PERCEPTION]]] = True
    assert torch.equal(selected, mask_of(expected["perception_mask"]))
    close_tightly(loss, expected["cpl_loss"])
    for name, leaf in leaves.items():
        close_tightly(leaf.grad, expected[f"grad_{name}"])
