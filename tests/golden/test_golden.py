"""The library against values of the official codes (`data/README.md`); `FOVEAL_GOLDEN`: another folder."""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from foveal.advantages import broadcast, group_centred, group_normalised
from foveal.objectives.cppo import CPPO, contrastive_loss, perception_tokens
from foveal.objectives.dapo import DAPO, overlong_penalty
from foveal.objectives.grpo import GRPO
from foveal.objectives.papo import PAPO
from foveal.objectives.terms import aggregate, clipped_surrogate, count, exact_kl, kl_estimate, log_ratio
from foveal.perturbations.occlude import PatchMask
from foveal.types import Batch, Objective, PerturbationContext, Scores, TokenStats, ViewScores
from objective_batches import make_case

FOLDER = Path(os.environ.get("FOVEAL_GOLDEN") or Path(__file__).parent / "data")

EXACT = 1e-9
"""Relative; the official denominators hold an extra 1e-8, which is added where it matters."""

ESTIMATORS = {"low_var_kl": "k3", "k3": "k3", "kl": "k1", "k1": "k1", "mse": "k2", "k2": "k2", "abs": "abs"}
TOKEN_MEANS = {"token": "token_mean", "token-mean": "token_mean"}
SEQUENCE_MEANS = {"seq": "sequence_mean", "seq-mean-token-mean": "sequence_mean"}
AGGREGATIONS = {**TOKEN_MEANS, **SEQUENCE_MEANS}

Case = Mapping[str, Any]


def cases(file: str, wanted: Callable[[Case], bool] = lambda case: True) -> pytest.MarkDecorator:
    """The cases of a file that the library has the method for."""
    path = FOLDER / f"{file}.json"
    found = json.loads(path.read_text())["cases"] if path.is_file() else []
    return pytest.mark.parametrize("case", [pytest.param(c, id=c["id"]) for c in found if wanted(c)])


def tensor(values: Any, *, grad: bool = False) -> Tensor:
    return torch.tensor(values, dtype=torch.float64, requires_grad=grad)


def mask_of(values: Any) -> Tensor:
    return torch.tensor(values).bool()


def no_empty_row(mask: Any) -> bool:
    return all(any(row) for row in mask)


def close(found: Tensor | float, expected: Any, *, tolerance: float = EXACT) -> None:
    actual = found.detach().numpy() if isinstance(found, Tensor) else found
    np.testing.assert_allclose(actual, np.asarray(expected), rtol=tolerance, atol=tolerance)


def forward(logprobs: Tensor, entropy: Tensor | None = None) -> TokenStats:
    def refuse(mask: Tensor) -> Tensor:
        raise AssertionError("sampled estimates need no full distributions")

    known = torch.zeros_like(logprobs) if entropy is None else entropy
    return TokenStats(logprobs=logprobs, entropy=known, log_probs_at=refuse)


def batch_of(inputs: Mapping[str, Any], views: Mapping[str, ViewScores]) -> Batch:
    mask = mask_of(inputs["response_mask"])
    rows, width = mask.shape
    empty = make_case([0] * rows, width=width, groups=[0] * rows, rewards=[0.0] * rows).batch.inputs
    ref = tensor(inputs["ref_log_probs"]) if "ref_log_probs" in inputs else None
    return Batch(
        inputs=replace(empty, completion_mask=mask, lengths=mask.sum(-1)),
        scores=Scores(old_logprobs=tensor(inputs["old_log_probs"]), ref_logprobs=ref, views=views),
        advantages=tensor(inputs["advantages"]),
    )


def micro_loss(objective: Objective, batch: Batch, now: Mapping[str, TokenStats], rows: slice) -> Tensor:
    """The loss of some rows alone, averaged over these rows as the official codes do."""
    inputs, scores = batch.inputs, batch.scores
    views = {
        name: ViewScores(logprobs=view.logprobs[rows], entropy=view.entropy[rows])
        for name, view in scores.views.items()
    }
    piece = Batch(
        inputs=replace(inputs, completion_mask=inputs.completion_mask[rows]),
        scores=Scores(
            old_logprobs=scores.old_logprobs[rows],
            ref_logprobs=None if scores.ref_logprobs is None else scores.ref_logprobs[rows],
            views=views,
        ),
        advantages=batch.advantages[rows],
        selections={name: chosen[rows] for name, chosen in batch.selections.items()},
    )
    part = {name: forward(stats.logprobs[rows], stats.entropy[rows]) for name, stats in now.items()}
    terms = objective.terms(piece, part)
    return torch.stack(
        [
            t.coef * aggregate(t.per_token, t.mask, aggregation=objective.aggregation, count=count(t.mask))
            for t in terms
        ]
    ).sum()


@cases("papo_kl", lambda c: c["settings"]["kl_penalty"] != "full")
def test_papo_kl(case: Case) -> None:
    check_kl(case)


@cases("verl_kl")
def test_verl_kl(case: Case) -> None:
    check_kl(case)


@cases("papo_kl", lambda c: c["settings"]["kl_penalty"] == "full")
def test_papo_exact_kl(case: Case) -> None:
    check_kl(case)


def check_kl(case: Case) -> None:
    p, q = (tensor(case["inputs"][name], grad=True) for name in ("log_probs", "ref_log_probs"))
    kind = case["settings"]["kl_penalty"]
    found = exact_kl(p, q) if kind == "full" else kl_estimate(p, q, estimator=ESTIMATORS[kind])
    found.sum().backward()
    close(found, case["expected"]["kl"])
    close(p.grad, case["expected"]["grad_log_probs_of_sum"])
    close(q.grad, case["expected"]["grad_ref_log_probs_of_sum"])


def averaged_alike(mode: str) -> Callable[[Case], bool]:
    """Token means, and sequence means where no row is empty (the official codes differ on empty rows)."""

    def wanted(case: Case) -> bool:
        chosen = case["settings"][mode]
        mask = case["inputs"].get("response_mask") or case["inputs"]["mask"]
        return chosen in TOKEN_MEANS or (chosen in SEQUENCE_MEANS and no_empty_row(mask))

    return wanted


@cases("papo_policy_loss", averaged_alike("loss_avg_mode"))
def test_papo_policy_loss(case: Case) -> None:
    check_surrogate(case, dual="clip_ratio_dual", mode="loss_avg_mode")


@cases(
    "verl_policy_loss",
    lambda c: c["settings"]["loss"] == "vanilla" and averaged_alike("loss_agg_mode")(c),
)
def test_verl_policy_loss(case: Case) -> None:
    check_surrogate(case, dual="clip_ratio_c", mode="loss_agg_mode")


def check_surrogate(case: Case, *, dual: str, mode: str) -> None:
    inputs, chosen = case["inputs"], case["settings"]
    logprobs, mask = tensor(inputs["log_probs"], grad=True), mask_of(inputs["response_mask"])
    per_token = clipped_surrogate(
        log_ratio(logprobs, tensor(inputs["old_log_probs"])),
        tensor(inputs["advantages"]),
        clip_low=chosen["clip_ratio_low"],
        clip_high=chosen["clip_ratio_high"],
        dual_clip=chosen[dual],
    )
    loss = aggregate(per_token, mask, aggregation=AGGREGATIONS[chosen[mode]], count=count(mask))
    loss.backward()
    close(loss, case["expected"]["loss"], tolerance=2e-8)
    close(logprobs.grad, case["expected"]["grad_log_probs"], tolerance=2e-8)


@cases("papo_average", averaged_alike("mode"))
def test_papo_average(case: Case) -> None:
    check_average(case, case["settings"]["mode"], case["expected"])


@cases(
    "verl_agg_loss",
    lambda c: "dp_size" not in c["settings"] and averaged_alike("loss_agg_mode")(c),
)
@pytest.mark.parametrize("code", ["verl_main", "cppo_recipe"])
def test_verl_agg_loss(case: Case, code: str) -> None:
    check_average(case, case["settings"]["loss_agg_mode"], case["expected"][code])


def check_average(case: Case, mode: str, expected: Mapping[str, Any]) -> None:
    values, mask = tensor(case["inputs"]["values"], grad=True), mask_of(case["inputs"]["mask"])
    loss = aggregate(values, mask, aggregation=AGGREGATIONS[mode], count=count(mask))
    loss.backward()
    close(loss, expected["loss"], tolerance=2e-8)
    close(values.grad, expected["grad_values"], tolerance=2e-8)


@cases("papo_advantages", lambda c: c["settings"]["estimator"] in ("grpo", "dapo"))
def test_papo_advantages(case: Case) -> None:
    check_advantages(case)


def without_singletons(case: Case) -> bool:
    groups = case["inputs"]["group_index"]
    return case["settings"]["estimator"] in ("grpo", "drgrpo") and all(groups.count(g) > 1 for g in groups)


@cases("verl_advantages", without_singletons)
def test_verl_advantages(case: Case) -> None:
    check_advantages(case)


def check_advantages(case: Case) -> None:
    inputs = case["inputs"]
    rewards, groups = tensor(inputs["token_level_rewards"]).sum(-1), torch.tensor(inputs["group_index"])
    estimator = group_centred if case["settings"]["estimator"] == "drgrpo" else group_normalised
    found = broadcast(estimator(rewards, groups), mask_of(inputs["response_mask"]))
    close(found, case["expected"]["advantages"], tolerance=1e-8)


@cases("dapo_overlong")
def test_dapo_overlong(case: Case) -> None:
    chosen, lengths = case["settings"], torch.tensor(case["inputs"]["response_lengths"])
    limit, buffer, factor = (chosen[k] for k in ("max_response_length", "buffer_len", "penalty_factor"))
    penalty = overlong_penalty(lengths, max_length=limit, buffer=buffer, factor=factor)
    close(penalty, case["expected"]["overlong_penalty"], tolerance=1e-6)
    objective = DAPO(overlong_buffer=buffer, overlong_factor=factor, max_length=limit)
    empty = make_case([0] * len(lengths), groups=[0] * len(lengths), rewards=case["inputs"]["scores"])
    shaped = objective.shaped_rewards(replace(empty.batch.inputs, lengths=lengths))
    close(shaped, case["expected"]["total_reward"], tolerance=1e-6)


class LegacyStream:
    """numpy's legacy generator under the name that perturbations use."""

    def __init__(self, seed: int) -> None:
        self._state = np.random.RandomState(seed)

    def random(self, shape: tuple[int, ...]) -> np.ndarray:
        return self._state.random_sample(shape)


@cases("papo_patch_mask")
def test_papo_patch_mask(case: Case) -> None:
    chosen, size = case["settings"], case["inputs"]
    picture = Image.new(chosen["mode"], (size["width"], size["height"]), "white")
    perturb = PatchMask(ratio=chosen["black_prob"], patch=chosen["patch_size"])
    found = perturb(picture, rng=LegacyStream(chosen["numpy_seed"]), context=PerturbationContext())
    black = np.asarray(found)[:: chosen["patch_size"], :: chosen["patch_size"], 0] == 0
    assert black.astype(int).tolist() == case["expected"]["black_patches_row_major"]


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
