"""CPPO's perception tokens, loss and gradients against both official codes."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from foveal.compat.averages import EPSILON, cppo_average
from foveal.compat.kl import NAMES
from foveal.compat.losses import cppo_micro_loss
from foveal.objectives.cppo import CONTRASTIVE_PERCEPTION, CPPO
from foveal.objectives.grpo import GRPO
from foveal.objectives.terms import aggregate, count
from foveal.types import Batch, Term, TokenStats, ViewScores
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

SelectIn = Literal["scoring", "update"]
PLACES = ("log_probs", "log_probs_preserving", "log_probs_changing")


def verl_objective(chosen: Case, *, select_in: SelectIn) -> CPPO:
    """The settings of a case; the verl variant's own choices."""
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
        select_in=select_in,
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


def verl_terms(
    case: Case, *, dtype: torch.dtype, select_in: SelectIn
) -> tuple[list[Term], Batch, dict[str, Tensor]]:
    """The terms of the micro-batch, its batch, and the leaves by their official names."""
    inputs, chosen = case["inputs"], case["settings"]
    leaves = {name: tensor(inputs[name], grad=True, dtype=dtype) for name in (*PLACES, "entropy")}
    objective = verl_objective(chosen, select_in=select_in)
    batch = verl_batch(case, objective, dtype=dtype)
    if chosen["on_policy"]:
        old = leaves["log_probs"].detach()
        batch = replace(batch, scores=replace(batch.scores, old_logprobs=old))
    now: dict[str, TokenStats] = {
        "clean": forward(leaves["log_probs"], leaves["entropy"]),
        "preserved": forward(leaves["log_probs_preserving"]),
        "removed": forward(leaves["log_probs_changing"], tensor(inputs["entropy_changing"], dtype=dtype)),
    }
    return objective.terms(batch, now), batch, leaves


def verl_loss(terms: list[Term], chosen: Case) -> Tensor:
    return cppo_micro_loss(terms, mode=chosen["loss_agg_mode"], accumulation=chosen["gradient_accumulation"])


def check_leaves(leaves: Mapping[str, Tensor], expected: Any) -> None:
    for name, leaf in leaves.items():
        found = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
        close_tightly(found, expected[f"grad_{name}"])


@cases("cppo_verl")
def test_cppo_verl(case: Case) -> None:
    expected: Any = case["expected"]
    terms, batch, leaves = verl_terms(case, dtype=torch.float64, select_in="scoring")
    loss = verl_loss(terms, case["settings"])
    loss.backward()
    close_tightly(loss, expected["loss"])
    check_leaves(leaves, expected)
    if "perception_mask" in expected:
        assert torch.equal(batch.selections[CONTRASTIVE_PERCEPTION], mask_of(expected["perception_mask"]))


@cases("cppo_verl", lambda case: "expected_f32" in case)
def test_cppo_verl_in_float32(case: Case) -> None:
    terms, _, _ = verl_terms(case, dtype=torch.float32, select_in="scoring")
    close(verl_loss(terms, case["settings"]), case["expected_f32"]["loss"], tolerance=SINGLE)


def is_spread(case: Case) -> bool:
    """Whether choosing in the update has the official value: a token mean that counts no padded place, which
    that way lie outside the mask."""
    tokens, chosen = mask_of(case["inputs"]["response_mask"]), case["expected"].get("perception_mask")
    padded = chosen is not None and bool((mask_of(chosen) & ~tokens).any())
    return case["settings"]["loss_agg_mode"] == "token-mean" and not padded


def spread_mean(term: Term, chosen: Any) -> Tensor:
    """The library's mean over all tokens of a term that was spread over them from the chosen ones, made the
    official one: a sum over the chosen divided by their number + 1e-8."""
    size = float(mask_of(chosen).sum())
    mean = aggregate(term.per_token, term.mask, aggregation="token_mean", count=count(term.mask))
    return mean * size / (size + EPSILON)


@cases("cppo_verl", is_spread)
def test_cppo_verl_choosing_in_the_update_as_its_preset_does(case: Case) -> None:
    chosen, expected = case["settings"], case["expected"]
    terms, batch, leaves = verl_terms(case, dtype=torch.float64, select_in="update")
    loss = verl_loss([term for term in terms if term.name != CONTRASTIVE_PERCEPTION], chosen)
    for term in terms:
        if term.name == CONTRASTIVE_PERCEPTION:
            assert torch.equal(term.mask, batch.inputs.completion_mask)
            assert term.per_token[~mask_of(expected["perception_mask"])].eq(0).all()
            mean = spread_mean(term, expected["perception_mask"])
            loss = loss + term.coef * mean / chosen["gradient_accumulation"]
    loss.backward()
    close_tightly(loss, expected["loss"])
    check_leaves(leaves, expected)


def runs_of_ones(mask: list[int], starts: list[int]) -> list[list[int]]:
    """Places of each run of ones within each packed sequence: one row of a batch each."""
    runs: list[list[int]] = []
    for place, inside in enumerate(mask):
        if inside and (not runs or runs[-1][-1] != place - 1 or place in starts):
            runs.append([])
        if inside:
            runs[-1].append(place)
    return runs


def areal_objective(chosen: Case, *, select_in: SelectIn) -> CPPO:
    return CPPO(
        preset="areal",
        cpl_coef=1.0,
        tau=chosen["cpl_tau"],
        perception_fraction=chosen["cpl_vision_top_percent"],
        selection="entropy" if chosen["cpl_use_vision_mask"] else "all",
        gate=chosen["cpl_use_advantage_gating"],
        select_in=select_in,
    )


@cases("cppo_areal")
@pytest.mark.parametrize("select_in", ["scoring", "update"])
def test_cppo_areal(case: Case, select_in: SelectIn) -> None:
    inputs, expected = case["inputs"], case["expected"]
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
    objective = areal_objective(case["settings"], select_in=select_in)
    batch = objective.prepare(batch_of(shaped, scores))
    now: dict[str, TokenStats] = {
        "clean": forward(ragged("log_probs"), ragged("entropy")),
        "preserved": forward(ragged("log_probs_preserving")),
        "removed": forward(ragged("log_probs_changing"), ragged("entropy_changing")),
    }
    term = next(t for t in objective.terms(batch, now) if t.name == CONTRASTIVE_PERCEPTION)
    wanted = torch.tensor(rows) & mask_of(expected["perception_mask"])[places]
    assert wanted.sum() == mask_of(expected["perception_mask"]).sum()
    if select_in == "update":
        loss = spread_mean(term, expected["perception_mask"])
        assert term.per_token[~wanted].eq(0).all()
    else:
        loss = cppo_average(term.per_token, term.mask, mode="token-mean")
        assert torch.equal(batch.selections[CONTRASTIVE_PERCEPTION], wanted)
    loss.backward()
    close_tightly(loss, expected["cpl_loss"])
    for name, leaf in leaves.items():
        close_tightly(leaf.grad, expected[f"grad_{name}"])
