"""CPPO's objective and functions against both variants of its code."""

from dataclasses import replace

import pytest
import torch

from foveal.objectives.cppo import CPPO, contrastive_loss, perception_tokens
from foveal.objectives.grpo import GRPO
from foveal.objectives.terms import aggregate, count, kl_estimate
from foveal.types import Batch, ViewScores
from golden.golden_cases import Case, batch_of, cases, close, forward, mask_of, micro_loss, tensor


def selects_among_completion_tokens(case: Case) -> bool:
    """The official code also looks at padding, which matters where the entropy rises there."""
    inputs = case["inputs"]
    rises = tensor(inputs["entropy_changing"]) > tensor(inputs["entropy"])
    on = case["settings"].get("use_vision_cpl_loss") and case["settings"]["cpl_use_vision_mask"]
    return bool(on) and not (rises & ~mask_of(inputs["response_mask"])).any()


def cppo_as_configured(case: Case) -> bool:
    chosen = case["settings"]
    plain = chosen["loss_agg_mode"] == "token-mean" and chosen["entropy_coeff"] == 0
    return selects_among_completion_tokens(case) and plain and chosen["kl_loss_type"] == "low_var_kl"


def verl_cppo(case: Case, *, select_in: str) -> tuple[CPPO, Batch]:
    chosen, inputs = case["settings"], case["inputs"]
    objective = CPPO(
        base=GRPO(
            clip_low=chosen["clip_ratio_low"],
            clip_high=chosen["clip_ratio_high"],
            dual_clip=chosen["clip_ratio_c"],
            kl_coef=chosen["kl_loss_coef"] if chosen["use_kl_loss"] else 0.0,
            aggregation="token_mean",
        ),
        cpl_coef=chosen["cpl_loss_coef"],
        tau=chosen["cpl_tau"],
        perception_fraction=chosen["cpl_vision_top_percent"],
        score="relative",
        rounding="floor",
        gate=chosen["cpl_use_advantage_gating"],
        select_in=select_in,
    )
    scores = {
        "clean": ViewScores(logprobs=tensor(inputs["log_probs"]), entropy=tensor(inputs["entropy"])),
        "removed": ViewScores(
            logprobs=tensor(inputs["log_probs_changing"]), entropy=tensor(inputs["entropy_changing"])
        ),
    }
    return objective, objective.prepare(batch_of(inputs, scores))


@cases("cppo_verl", selects_among_completion_tokens)
def test_cppo_verl_perception_tokens(case: Case) -> None:
    _, batch = verl_cppo(case, select_in="scoring")
    found = batch.selections["contrastive_perception"]
    assert torch.equal(found, mask_of(case["expected"]["perception_mask"]))


@cases("cppo_verl", cppo_as_configured)
@pytest.mark.parametrize("select_in", ["scoring", "update"])
def test_cppo_verl(case: Case, select_in: str) -> None:
    inputs, expected = case["inputs"], case["expected"]
    objective, batch = verl_cppo(case, select_in=select_in)
    clean, preserved, removed = (
        tensor(inputs[f"log_probs{suffix}"], grad=True) for suffix in ("", "_preserving", "_changing")
    )
    if case["settings"]["on_policy"]:
        batch = replace(batch, scores=replace(batch.scores, old_logprobs=clean.detach()))
    now = {
        "clean": forward(clean, tensor(inputs["entropy"])),
        "preserved": forward(preserved),
        "removed": forward(removed, tensor(inputs["entropy_changing"])),
    }
    loss = micro_loss(objective, batch, now, slice(None)) / case["settings"]["gradient_accumulation"]
    loss.backward()
    tolerance = 1e-6 if select_in == "update" else 2e-8
    close(loss, expected["loss"], tolerance=tolerance)
    close(clean.grad, expected["grad_log_probs"], tolerance=tolerance)
    close(preserved.grad, expected["grad_log_probs_preserving"], tolerance=tolerance)
    close(removed.grad, expected["grad_log_probs_changing"], tolerance=tolerance)


def runs_of_ones(mask: list[int], starts: list[int]) -> list[list[int]]:
    """Places of each run of ones within each packed sequence: one row of a batch each."""
    runs: list[list[int]] = []
    for place, inside in enumerate(mask):
        if inside and (not runs or runs[-1][-1] != place - 1 or place in starts):
            runs.append([])
        if inside:
            runs[-1].append(place)
    return runs


@cases("cppo_areal", lambda c: c["settings"]["cpl_use_vision_mask"])
def test_cppo_areal(case: Case) -> None:
    inputs, chosen, expected = case["inputs"], case["settings"], case["expected"]
    runs = runs_of_ones(inputs["loss_mask"], inputs["cu_seqlens"]) or [[]]
    width = max(1, *map(len, runs))
    places = torch.tensor([run + [0] * (width - len(run)) for run in runs])
    mask = torch.tensor([[t < len(run) for t in range(width)] for run in runs])
    tokens = perception_tokens(
        tensor(inputs["entropy"])[places],
        tensor(inputs["entropy_changing"])[places],
        mask,
        fraction=chosen["cpl_vision_top_percent"],
        score="relative",
        rounding="ceil",
    )
    if chosen["cpl_use_advantage_gating"]:
        tokens = tokens & (tensor(inputs["advantages"])[places] > 0)
    selected = torch.zeros(len(inputs["loss_mask"]), dtype=torch.bool)
    selected[places[tokens]] = True
    assert torch.equal(selected, mask_of(expected["perception_mask"]))
    names = ("log_probs", "log_probs_preserving", "log_probs_changing")
    leaves = {name: tensor(inputs[name], grad=True) for name in names}
    clean, preserved, removed = (leaf[places] for leaf in leaves.values())
    kls = [kl_estimate(clean, other, estimator="k1").clamp(-10, 10) for other in (preserved, removed)]
    per_token = contrastive_loss(kls[0], kls[1], tau=chosen["cpl_tau"])
    loss = aggregate(per_token, tokens, aggregation="token_mean", count=count(tokens))
    loss.backward()
    close(loss, expected["cpl_loss"], tolerance=2e-8)
    for name, leaf in leaves.items():
        close(leaf.grad, expected[f"grad_{name}"], tolerance=2e-8)
