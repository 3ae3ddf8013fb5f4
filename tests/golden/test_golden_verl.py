"""The library against values of verl's code; each test reads the settings of its cases, whatever they are."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from foveal.advantages import (
    broadcast,
    discounted_returns,
    group_centred,
    group_moments,
    group_normalised,
    leave_one_out,
    on_last_token,
    whiten,
)
from foveal.compat import advantages as compat
from foveal.compat.averages import cppo_average, verl_average
from foveal.compat.kl import NAMES, official_kl
from foveal.compat.lengths import verl_overlong_penalty
from foveal.compat.policy_losses import geometric_mean_loss, gpg_loss, sapo_loss
from foveal.objectives.dapo import DAPO, overlong_penalty
from foveal.objectives.sequence import cispo_loss, gspo_log_ratio
from foveal.objectives.terms import aggregate, clipped_surrogate, kl_estimate, log_ratio, zero_outside
from foveal.types import Aggregation, Count
from golden.golden_cases import (
    ADVANTAGES,
    DENOMINATORS,
    SINGLE,
    Case,
    cases,
    close,
    close_advantages,
    close_tightly,
    mask_of,
    tensor,
    whitening_tolerance,
)
from objective_batches import make_case

AGGREGATIONS: dict[str, Aggregation] = {
    "token-mean": "token_mean",
    "seq-mean-token-mean": "sequence_mean",
    "seq-mean-token-sum": "sequence_sum",
    "seq-mean-token-sum-norm": "sequence_sum",
}
BATCH_SETTINGS = {
    "dp_size": "dp_size",
    "batch_num_tokens": "batch_tokens",
    "global_batch_size": "batch_rows",
    "loss_scale_factor": "scale",
}
"""verl's names of the whole batch's counts, and ours."""

ALWAYS_SEQUENCE_MEAN = ("gspo", "sapo")
"""Losses that verl averages by "seq-mean-token-mean" whatever the setting."""

CLIP_RATIO, CLIP_RATIO_DUAL = 0.2, 3.0
"""verl's defaults."""

VECTORISED, OVERLONG = 2e-6, 1e-6
"""Tolerances of what the official code computes in float32."""


@cases("verl_advantages")
def test_verl_advantages(case: Case) -> None:
    inputs, chosen, expected = case["inputs"], case["settings"], case["expected"]
    mask = mask_of(inputs["response_mask"])
    rewards = tensor(inputs["token_level_rewards"])
    estimator = chosen["estimator"]
    if estimator in ("reinforce_plus_plus", "gae", "remax"):
        check_estimate(case, rewards, mask)
        return
    scores, groups = rewards.sum(-1), torch.tensor(inputs["group_index"])
    how = {"epsilon": chosen.get("eps", 1e-6)}
    how["tolerance"] = VECTORISED if estimator == "grpo_vectorized" else ADVANTAGES
    found = official_advantages(case, scores, groups, mask)
    for name in ("advantages", "returns"):
        close_advantages(found, expected[name], scores, groups, **how)
    own = library_advantages(case, scores, groups)
    if own is not None:
        alone = group_moments(scores, groups).size == 1
        assert not own[group_moments(scores, groups).equal].any()
        wanted = np.where(alone.unsqueeze(-1), 0.0, np.asarray(expected["advantages"]))
        close_advantages(broadcast(own, mask), wanted, scores, groups, **how)


def official_advantages(case: Case, scores: Tensor, groups: Tensor, mask: Tensor) -> Tensor:
    chosen = case["settings"]
    how = {"epsilon": chosen.get("eps", 1e-6), "divide": chosen.get("norm_by_std", True)}
    match chosen["estimator"]:
        case "grpo":
            found = compat.verl_group_normalised(scores, groups, **how)
        case "drgrpo":
            found = compat.verl_group_normalised(scores, groups, divide=False)
        case "grpo_vectorized":
            found = compat.verl_group_vectorised(scores, groups, **how)
        case "grpo_passk":
            found = compat.pass_at_k(scores, groups, **how)
        case "rloo":
            found = compat.verl_leave_one_out(scores, groups)
        case "rloo_vectorized":
            found = leave_one_out(scores, groups)
        case "opo":
            found = compat.opo(scores, groups, mask)
        case "gpg":
            found = compat.verl_gpg_advantage(scores, groups, scale=chosen.get("f_norm", 1.0))
        case "reinforce_plus_plus_baseline":
            return compat.verl_reinforce_plus_plus_baseline(scores, groups, mask)
        case other:
            raise LookupError(f"no estimator {other!r}")
    return broadcast(found, mask)


def library_advantages(case: Case, scores: Tensor, groups: Tensor) -> Tensor | None:
    """The library's own estimator, which differs in groups of one alone, where it has one."""
    chosen = case["settings"]
    name, divide = chosen["estimator"], chosen.get("norm_by_std", True)
    if name == "drgrpo" or (name == "grpo" and not divide):
        return group_centred(scores, groups)
    if name == "grpo":
        return group_normalised(scores, groups, epsilon=chosen.get("eps", 1e-6))
    return leave_one_out(scores, groups) if name == "rloo" else None


def check_estimate(case: Case, rewards: Tensor, mask: Tensor) -> None:
    chosen, expected = case["settings"], case["expected"]
    gamma = chosen.get("gamma", 1.0)
    if chosen["estimator"] == "gae":
        values = tensor(case["inputs"]["values"])
        found = compat.verl_gae(rewards, values, mask, gamma=gamma, lam=chosen.get("lam", 1.0))
    elif chosen["estimator"] == "remax":
        found = compat.verl_remax(rewards, tensor(case["inputs"]["reward_baselines"]), mask)
    else:
        found = compat.verl_reinforce_plus_plus(rewards, mask, gamma=gamma)
        if bool((mask[:, :-1] | ~mask[:, 1:]).all()):
            returns = discounted_returns(rewards, mask, gamma=gamma)
            close(returns[mask], np.asarray(expected["returns"])[mask.numpy()])
            if returns[mask].amax() > returns[mask].amin():
                tolerance = whitening_tolerance(returns, mask)
                close(whiten(returns, mask), expected["advantages"], tolerance=tolerance)
    close(found.advantages, expected["advantages"], tolerance=ADVANTAGES)
    close(found.returns, expected["returns"])


@cases("verl_agg_loss")
@pytest.mark.parametrize("code", ["verl_main", "cppo_recipe"])
def test_verl_agg_loss(case: Case, code: str) -> None:
    chosen, expected = case["settings"], case["expected"][code]
    values, mask = tensor(case["inputs"]["values"], grad=True), mask_of(case["inputs"]["mask"])
    average = verl_average if code == "verl_main" else cppo_average
    loss = average(values, mask, mode=chosen["loss_agg_mode"], **batch_settings(chosen))
    loss.backward()
    close(loss, expected["loss"])
    close(values.grad, expected["grad_values"])
    if mask.any():
        values.grad = None
        how, counts, horizon = library_average(case, mask, code=code)
        loss = aggregate(values, mask, aggregation=how, count=counts, horizon=horizon)
        loss.backward()
        close(loss, expected["loss"], tolerance=DENOMINATORS)
        close_tightly(values.grad, expected["grad_values"], tolerance=DENOMINATORS)


def batch_settings(chosen: Any) -> dict[str, float]:
    return {ours: chosen[name] for name, ours in BATCH_SETTINGS.items() if chosen.get(name) is not None}


def library_average(case: Case, mask: Tensor, *, code: str) -> tuple[Aggregation, Count, int | None]:
    """The library's mean and the denominators under which it is the official one."""
    mode, given = case["settings"]["loss_agg_mode"], batch_settings(case["settings"])
    ranks = given.get("dp_size", 1)
    own_rows = int(mask.any(-1).sum()) if code == "verl_main" else len(mask)
    tokens, rows = given.get("batch_tokens", int(mask.sum())), given.get("batch_rows", own_rows)
    share = 1 / ranks if code == "verl_main" else ranks
    counts, horizon = Count(tokens=tokens * share, sequences=rows * share), None
    if mode == "seq-mean-token-sum-norm":
        horizon = int(given.get("scale", mask.shape[-1]))
        if code == "verl_main":
            counts = replace(counts, sequences=1.0)
    return AGGREGATIONS[mode], counts, horizon


@cases("verl_policy_loss")
def test_verl_policy_loss(case: Case) -> None:
    expected = case["expected"]
    logprobs = tensor(case["inputs"]["log_probs"], grad=True)
    loss = policy_loss(case, logprobs)
    loss.backward()
    close(loss, expected["loss"])
    close(logprobs.grad, expected["grad_log_probs"])
    if "expected_f32" in case:
        single = policy_loss(case, tensor(case["inputs"]["log_probs"], dtype=torch.float32))
        assert single.dtype == torch.float32
        close(single, case["expected_f32"]["loss"], tolerance=SINGLE)


def policy_loss(case: Case, leaf: Tensor) -> Tensor:
    inputs, chosen = case["inputs"], case["settings"]
    mask = mask_of(inputs["response_mask"])
    advantages = tensor(inputs["advantages"], dtype=leaf.dtype)
    weights = inputs.get("rollout_is_weights")
    weights = None if weights is None else tensor(weights, dtype=leaf.dtype)
    mode = chosen.get("loss_agg_mode", "token-mean")
    if chosen["loss"] in ALWAYS_SEQUENCE_MEAN:
        mode = "seq-mean-token-mean"
    old = tensor(inputs["old_log_probs"], dtype=leaf.dtype)
    if chosen["loss"] == "geo_mean":
        rows = geometric_mean_loss(leaf, old, advantages, mask, weights=weights, **clips(chosen))
        return rows.mean()
    per_token = token_losses(chosen, zero_outside(leaf, mask), zero_outside(old, mask), advantages, mask)
    if weights is not None:
        per_token = per_token * weights
    return verl_average(per_token, mask, mode=mode, **batch_settings(chosen))


def token_losses(chosen: Any, logprobs: Tensor, old: Tensor, advantages: Tensor, mask: Tensor) -> Tensor:
    ratio = log_ratio(logprobs, old)
    match chosen["loss"]:
        case "vanilla":
            dual = chosen.get("clip_ratio_c", CLIP_RATIO_DUAL)
            return clipped_surrogate(ratio, advantages, dual_clip=dual, **bounded(clips(chosen)))
        case "gspo":
            return clipped_surrogate(
                gspo_log_ratio(logprobs, old, mask), advantages, **bounded(clips(chosen))
            )
        case "cispo":
            return cispo_loss(logprobs, ratio, advantages, **clips(chosen))
        case "gpg":
            return gpg_loss(logprobs, advantages)
        case "sapo":
            taus = {"tau_positive": chosen.get("tau_pos", 1.0), "tau_negative": chosen.get("tau_neg", 1.05)}
            return sapo_loss(logprobs, old, advantages, **taus)
        case other:
            raise LookupError(f"no policy loss {other!r}")


def clips(chosen: Any) -> dict[str, float]:
    both = chosen.get("clip_ratio", CLIP_RATIO)
    low, high = chosen.get("clip_ratio_low"), chosen.get("clip_ratio_high")
    return {"clip_low": both if low is None else low, "clip_high": both if high is None else high}


def bounded(bounds: dict[str, float]) -> dict[str, float]:
    """A lower clip of 1 or more is none: the library takes the last number below 1, whose log is -37 nats."""
    return bounds | {"clip_low": min(bounds["clip_low"], 1 - 2**-53)}


@cases("verl_kl")
def test_verl_kl(case: Case) -> None:
    name, expected = case["settings"]["kl_penalty"], case["expected"]
    p, q = (tensor(case["inputs"][leaf], grad=True) for leaf in ("log_probs", "ref_log_probs"))
    found = official_kl(p, q, name=name)
    found.sum().backward()
    close(found, expected["kl"])
    close(p.grad, expected["grad_log_probs_of_sum"])
    close(q.grad, expected["grad_ref_log_probs_of_sum"])
    close(kl_estimate(p, q, estimator=NAMES[name.removesuffix("+")]), expected["kl"])


@cases("dapo_overlong")
def test_dapo_overlong(case: Case) -> None:
    chosen, expected = case["settings"], case["expected"]
    lengths, scores = torch.tensor(case["inputs"]["response_lengths"]), case["inputs"]["scores"]
    limit, buffer, factor = (chosen[k] for k in ("max_response_length", "buffer_len", "penalty_factor"))
    how = {"max_length": limit, "buffer": buffer, "factor": factor}
    official = verl_overlong_penalty(lengths, **how)
    close(official, expected["overlong_penalty"], tolerance=OVERLONG)
    close(torch.tensor(scores) + official, expected["total_reward"], tolerance=OVERLONG)
    assert (official < 0).tolist() == expected["is_overlong"]
    objective = DAPO(overlong_buffer=buffer, overlong_factor=factor, max_length=limit)
    empty = make_case([0] * len(lengths), groups=[0] * len(lengths), rewards=scores)
    shaped = objective.shaped_rewards(replace(empty.batch.inputs, lengths=lengths))
    # Beyond the limit the library stops at -factor, as the paper does.
    within = lengths <= limit
    for found, name in ((overlong_penalty(lengths, **how), "overlong_penalty"), (shaped, "total_reward")):
        close(found[within], np.asarray(expected[name])[within.numpy()], tolerance=OVERLONG)
    mask = torch.arange(max(limit, int(lengths.max()))) < lengths.unsqueeze(-1)
    placed = on_last_token(torch.tensor(expected["total_reward"]), mask)
    assert placed.abs().argmax(-1).tolist() == expected["reward_token_index"]
