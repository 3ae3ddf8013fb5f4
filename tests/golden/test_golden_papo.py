"""The library against values of PAPO's code; each test reads the settings of its cases, whatever they are."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from foveal.advantages import (
    broadcast,
    discounted_returns,
    group_moments,
    group_normalised,
    keeps_group,
    leave_one_out,
    reinforce_plus_plus,
    whiten,
)
from foveal.compat.advantages import papo_gae, papo_reinforce_plus_plus, remax
from foveal.compat.averages import papo_average, papo_variance, papo_whiten
from foveal.compat.kl import official_kl
from foveal.compat.schedules import adaptive_coefficient
from foveal.objectives.papo import PAPO
from foveal.objectives.schedules import linear_decay
from foveal.objectives.terms import aggregate, clipped_surrogate, log_ratio
from foveal.perturbations.occlude import PatchMask
from foveal.spec import FovealError
from foveal.train.sampling import gather_groups
from foveal.types import Aggregation, Count, PerturbationContext
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

AGGREGATIONS: dict[str, Aggregation] = {"token": "token_mean", "seq": "sequence_mean"}
FORMAT_WEIGHT = 0.1
CONSTANT = ("coef", "init", "value")
"""Parts of the names that a fixed schedule's coefficient goes by."""


@cases("papo_advantages")
def test_papo_advantages(case: Case) -> None:
    estimator, inputs, expected = case["settings"]["estimator"], case["inputs"], case["expected"]
    mask = mask_of(inputs["response_mask"])
    if estimator == "reinforce_plus_plus":
        check_reinforce_plus_plus(case, mask)
        return
    if estimator == "gae":
        check_gae(case, mask)
        return
    scores, groups = tensor(inputs["token_level_rewards"]).sum(-1), torch.tensor(inputs["group_index"])
    how = {"epsilon": case["settings"].get("eps", 1e-6)}
    for name in ("advantages", "returns"):
        found = broadcast(outcome(case, scores, groups), mask)
        close_advantages(found, expected[name], scores, groups, **how)
    single = case.get("expected_f32", {}).get("advantages")
    if single is not None:
        found = broadcast(outcome(case, scores.float(), groups), mask)
        assert found.dtype == torch.float32
        close_advantages(found, single, scores.float(), groups, tolerance=SINGLE, **how)
    if estimator != "remax":
        assert not outcome(case, scores, groups)[group_moments(scores, groups).equal].any()


def outcome(case: Case, scores: Tensor, groups: Tensor) -> Tensor:
    """One advantage a completion."""
    chosen = case["settings"]
    if chosen["estimator"] in ("grpo", "dapo"):
        return group_normalised(scores, groups, epsilon=chosen.get("eps", 1e-6))
    if chosen["estimator"] == "rloo":
        return leave_one_out(scores, groups)
    if chosen["estimator"] == "remax":
        return remax(scores, tensor(case["inputs"]["reward_baselines"], dtype=scores.dtype))
    raise LookupError(f"no estimator {chosen['estimator']!r}")


def check_reinforce_plus_plus(case: Case, mask: Tensor) -> None:
    """The library's own value, on the mask and without holes in it; and the official one everywhere."""
    inputs, gamma = case["inputs"], case["settings"].get("gamma", 1.0)
    rewards, expected = tensor(inputs["token_level_rewards"]), case["expected"]
    found = papo_reinforce_plus_plus(rewards, mask, gamma=gamma)
    close(found.advantages, expected["advantages"], tolerance=ADVANTAGES)
    close(found.returns, expected["returns"])
    contiguous = bool((mask[:, :-1] | ~mask[:, 1:]).all())
    if contiguous and mask.sum() > 1:
        returns = discounted_returns(rewards, mask, gamma=gamma)
        close(returns[mask], np.asarray(expected["returns"])[mask.numpy()])
        on_mask = np.asarray(expected["advantages"])[mask.numpy()]
        if returns[mask].amax() > returns[mask].amin():
            close(whiten(returns, mask)[mask], on_mask, tolerance=whitening_tolerance(returns, mask))
        places = torch.arange(mask.shape[-1])
        if not rewards[places < mask.sum(-1, keepdim=True) - 1].any():
            totals = (rewards * mask).sum(-1)
            found = reinforce_plus_plus(totals, mask, gamma=gamma)
            close(found[mask], on_mask, tolerance=whitening_tolerance(returns, mask))
    single = case.get("expected_f32", {}).get("advantages")
    if single is not None:
        found = papo_reinforce_plus_plus(rewards.float(), mask, gamma=gamma)
        close(found.advantages, single, tolerance=SINGLE)


def check_gae(case: Case, mask: Tensor) -> None:
    inputs, chosen = case["inputs"], case["settings"]
    given = [tensor(inputs["token_level_rewards"]), tensor(inputs["values"])]
    how = {"gamma": chosen.get("gamma", 1.0), "lam": chosen.get("lam", 1.0)}
    found = papo_gae(*given, mask, **how)
    close(found.advantages, case["expected"]["advantages"], tolerance=ADVANTAGES)
    close(found.returns, case["expected"]["returns"])
    single = case.get("expected_f32", {}).get("advantages")
    if single is not None:
        close(papo_gae(*(x.float() for x in given), mask, **how).advantages, single, tolerance=SINGLE)


@cases("papo_policy_loss")
def test_papo_policy_loss(case: Case) -> None:
    expected, mode = case["expected"], case["settings"]["loss_avg_mode"]
    mask = mask_of(case["inputs"]["response_mask"])
    logprobs = tensor(case["inputs"]["log_probs"], grad=True)
    loss = papo_average(surrogate(case, logprobs), mask, mode=mode)
    loss.backward()
    close_tightly(loss, expected["loss"])
    close_tightly(logprobs.grad, expected["grad_log_probs"])
    logprobs.grad = None
    loss = mean(surrogate(case, logprobs), mask, mode=mode)
    loss.backward()
    close(loss, expected["loss"], tolerance=DENOMINATORS)
    close_tightly(logprobs.grad, expected["grad_log_probs"], tolerance=DENOMINATORS)
    if "expected_f32" in case:
        single = surrogate(case, tensor(case["inputs"]["log_probs"], dtype=torch.float32))
        assert single.dtype == torch.float32
        close(papo_average(single, mask, mode=mode), case["expected_f32"]["loss"], tolerance=SINGLE)


def surrogate(case: Case, logprobs: Tensor) -> Tensor:
    inputs, chosen = case["inputs"], case["settings"]
    return clipped_surrogate(
        log_ratio(logprobs, tensor(inputs["old_log_probs"], dtype=logprobs.dtype)),
        tensor(inputs["advantages"], dtype=logprobs.dtype),
        clip_low=chosen["clip_ratio_low"],
        clip_high=chosen["clip_ratio_high"],
        dual_clip=chosen["clip_ratio_dual"],
    )


def mean(values: Tensor, mask: Tensor, *, mode: str) -> Tensor:
    """The library's own mean, over all rows as PAPO has it: the count says what is divided by."""
    counts = Count(tokens=float(mask.sum()), sequences=float(len(mask)))
    return aggregate(values, mask, aggregation=AGGREGATIONS[mode], count=counts)


@cases("papo_kl")
def test_papo_kl(case: Case) -> None:
    name, expected = case["settings"]["kl_penalty"], case["expected"]
    p, q = (tensor(case["inputs"][leaf], grad=True) for leaf in ("log_probs", "ref_log_probs"))
    found = official_kl(p, q, name=name)
    found.sum().backward()
    close(found, expected["kl"])
    close(p.grad, expected["grad_log_probs_of_sum"])
    close(q.grad, expected["grad_ref_log_probs_of_sum"])
    if "expected_f32" in case:
        close(official_kl(p.float(), q.float(), name=name), case["expected_f32"]["kl"], tolerance=SINGLE)


@cases("papo_average")
def test_papo_average(case: Case) -> None:
    chosen, expected = case["settings"], case["expected"]
    epsilon = chosen.get("eps", 1e-8)
    values, mask = tensor(case["inputs"]["values"], grad=True), mask_of(case["inputs"]["mask"])
    loss = papo_average(values, mask, mode=chosen["mode"], epsilon=epsilon)
    loss.backward()
    close(loss, expected["loss"])
    close(values.grad, expected["grad_values"])
    values.grad = None
    loss = mean(values, mask, mode=chosen["mode"])
    loss.backward()
    close(loss, expected["loss"], tolerance=max(DENOMINATORS, 2 * epsilon))
    close_tightly(values.grad, expected["grad_values"], tolerance=max(DENOMINATORS, 2 * epsilon))
    values = values.detach()
    if "masked_mean" in expected:
        close(papo_average(values, mask, mode="token"), expected["masked_mean"])
    if "masked_var" in expected:
        close(papo_variance(values, mask), expected["masked_var"])
    if "masked_whiten" in expected:
        close(papo_whiten(values, mask), expected["masked_whiten"])
        if mask.sum() > 1:
            wanted = np.asarray(expected["masked_whiten"])[mask.numpy()]
            close(whiten(values, mask)[mask], wanted, tolerance=whitening_tolerance(values, mask))


@cases("papo_schedule")
def test_papo_schedule(case: Case) -> None:
    chosen, expected = case["settings"], case["expected"]
    if chosen["type"] == "adaptive":
        values = [chosen["init"]]
        for kl in case["inputs"]["kl"]:
            how = {"target": chosen["target"], "horizon": chosen["horizon"], "steps": chosen["n_steps"]}
            values.append(adaptive_coefficient(values[-1], kl, **how))
        close(np.asarray(values), expected["coef_before_each_update_then_after_last"])
        return
    if chosen["type"] == "fixed":
        check_fixed(chosen, expected)
        return
    if chosen["type"] != "annealing":
        raise LookupError(f"no schedule {chosen['type']!r}")
    steps = max(1, int(chosen["training_steps"] * chosen["annealing_ratio"]))
    assert steps == chosen.get("total_steps", steps)
    wanted = expected["coef_used_at_step_1_2_3"]
    ends = {"start": chosen["start_value"], "end": chosen["end_value"]}
    each = chosen.get("n_steps", 1)
    found = [linear_decay(j * each, steps=steps, **ends) for j in range(len(wanted))]
    close(np.asarray(found), wanted)


def check_fixed(chosen: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """The one coefficient of the settings, whatever its name, at each step and after each update."""
    given = {float(value) for name, value in chosen.items() if any(word in name for word in CONSTANT)}
    if len(given) != 1:
        raise LookupError(f"no single coefficient in {dict(chosen)}")
    objective = PAPO(kl_prcp_coef=given.pop())
    for wanted in map(np.atleast_1d, expected.values()):
        found = [objective.at(step, steps=len(wanted)).kl_prcp_coef for step in range(len(wanted))]
        close(np.asarray(found), wanted)


class LegacyStream:
    """numpy's legacy generator under the name that perturbations use."""

    def __init__(self, seed: int) -> None:
        self._state = np.random.RandomState(seed)

    def random(self, shape: tuple[int, ...]) -> np.ndarray:
        return self._state.random_sample(shape)


@cases("papo_patch_mask")
def test_papo_patch_mask(case: Case) -> None:
    chosen, size = case["settings"], case["inputs"]
    shape = (size["height"], size["width"])
    picture = Image.new("L", shape[::-1], 255).convert(chosen["mode"])
    perturb = PatchMask(ratio=chosen["black_prob"], patch=chosen["patch_size"])
    found = perturb(picture, rng=LegacyStream(chosen["numpy_seed"]), context=PerturbationContext())
    black = (np.asarray(found.convert("RGB")) == 0).all(-1)
    assert black.shape == shape
    side = chosen["patch_size"]
    corners = black[::side, ::side]
    assert corners.astype(int).tolist() == case["expected"]["black_patches_row_major"]
    assert (np.kron(corners, np.ones((side, side)))[: shape[0], : shape[1]] == black).all()


@cases("papo_dynamic_sampling")
def test_papo_dynamic_sampling(case: Case) -> None:
    chosen, expected, batches = case["settings"], case["expected"], case["inputs"]["generated_batches"]

    def keeps(place: tuple[int, int]) -> bool:
        responses = batches[place[0]][place[1]]
        low, high = chosen["filter_low"], chosen["filter_high"]
        values = [filter_metric(response, chosen["filter_key"]) for response in responses]
        return not chosen["online_filtering"] or keeps_group(values, low=low, high=high)

    def gather() -> Any:
        return gather_groups(
            ([(round, group) for group in range(len(batch))] for round, batch in enumerate(batches)),
            keeps=keeps,
            wanted=chosen["rollout_batch_size"],
            limit=chosen["max_try_make_batch"] if chosen["max_try_make_batch"] > 0 else None,
            when_none_kept="keep_all",
            when_short="stop",
        )

    if expected.get("error"):
        with pytest.raises(FovealError, match="rounds of sampling gave"):
            gather()
        return
    found = gather()
    each = [[list(place)] * chosen["n"] for place in found.groups]
    assert [place for group in each for place in group] == expected["kept"]
    assert found.rounds == expected["batches_used"]


def filter_metric(response: Sequence[float], key: str) -> float:
    accuracy, layout = response
    overall = (1 - FORMAT_WEIGHT) * accuracy + FORMAT_WEIGHT * layout
    return {"accuracy": accuracy, "format": layout, "overall": overall}[key]
