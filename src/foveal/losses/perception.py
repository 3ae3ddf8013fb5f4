"""The perception-aware losses: a base on the clean pictures, and what other views of them add."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from jaxtyping import Bool, Float
from torch import Tensor

from foveal.losses.carriers import (
    Loss,
    Tokens,
    View,
    batch_of,
    configured,
    evaluate,
    reduce,
    require_shape,
)
from foveal.losses.helpers import floating, group_index
from foveal.objectives.cppo import CONTRASTIVE_PERCEPTION, CPPO
from foveal.objectives.dvrp import DVRP
from foveal.objectives.looking import EntropyKind
from foveal.objectives.noisy_rollout import NoisyRollout
from foveal.objectives.papo import PAPO
from foveal.objectives.perception_reward import PerceptionReward
from foveal.objectives.surrogate import Advantage
from foveal.objectives.terms import KL_VALUE_LIMIT, Estimator, Rounding
from foveal.objectives.vppo import VPPO
from foveal.spec import FovealError
from foveal.types import Count, Objective

Base = str | Mapping[str, Any] | Objective
"""The loss that a method adds to: a name ("grpo", "dapo", ...), a table as in a config ({"type": "dapo",
"clip_high": 0.3}), or an objective."""


def papo(
    logprobs: Float[Tensor, "B T"],
    old_logprobs: Float[Tensor, "B T"],
    advantages: Float[Tensor, "B"] | Float[Tensor, "B T"],
    completion_mask: Bool[Tensor, "B T"],
    *,
    removed_logprobs: Float[Tensor, "B T"] | None = None,
    ref_logprobs: Float[Tensor, "B T"] | None = None,
    entropy: Float[Tensor, "B T"] | None = None,
    removed_entropy: Float[Tensor, "B T"] | None = None,
    log_probs: Float[Tensor, "B T V"] | None = None,
    removed_log_probs: Float[Tensor, "B T V"] | None = None,
    correct: Bool[Tensor, "B"] | None = None,
    base: Base = "grpo",
    kl_prcp_coef: float = 0.01,
    estimator: Literal["k1", "abs", "k2", "k3", "exact"] = "k3",
    removed_gradient: bool = False,
    weighting: Literal["all", "correct_only", "acc_weighted"] = "all",
    wrong_weight: float = 0.1,
    token_fraction: float = 1.0,
    kl_prcp_clip: float | None = None,
    entropy_coef: float = 0.0,
    removed_entropy_coef: float = 0.0,
    entropy_kind: EntropyKind = "sampled",
    sft_coef: float = 0.0,
    likelihood_aggregation: Literal["base", "token_mean"] = "base",
    counts: Mapping[str, Count] | None = None,
) -> Loss:
    """PAPO: the base, less `kl_prcp_coef` times KL(policy on the picture || policy on the removed one).

    removed_logprobs [B T]: log-probability of the same tokens with the removed picture, nats. Gradient flows
    into it with `removed_gradient` alone; without, take it once per step (no_grad) and keep it. The entropies
    [B T] are over the vocabulary, nats: for `entropy_kind` "full", otherwise only logged. log_probs,
    removed_log_probs [B T V]: whole log-distributions, for `estimator` "exact". correct [B]: completions that
    are right, for `weighting` and `sft_coef`.
    Other arguments as in `grpo`; keywords: `foveal.objectives.papo.PAPO` has their units and sources.
    """
    settings: dict[str, Any] = {"base": base, "kl_prcp_coef": kl_prcp_coef, "estimator": estimator}
    settings |= {"removed_gradient": removed_gradient, "weighting": weighting, "wrong_weight": wrong_weight}
    settings |= {"token_fraction": token_fraction, "kl_prcp_clip": kl_prcp_clip}
    settings |= {"entropy_coef": entropy_coef, "removed_entropy_coef": removed_entropy_coef}
    settings |= {"entropy_kind": entropy_kind, "sft_coef": sft_coef}
    objective = configured(PAPO, settings | {"likelihood_aggregation": likelihood_aggregation})
    tokens = Tokens(
        method="papo",
        clean=View(logprobs=logprobs, entropy=entropy, log_probs=log_probs),
        old_logprobs=old_logprobs,
        advantages=advantages,
        completion_mask=completion_mask,
        ref_logprobs=ref_logprobs,
        correct=correct,
        others={"removed": _view(removed_logprobs, removed_entropy, removed_log_probs)},
    )
    return evaluate(objective, tokens, counts=counts)


def cppo(
    logprobs: Float[Tensor, "B T"],
    old_logprobs: Float[Tensor, "B T"],
    advantages: Float[Tensor, "B"] | Float[Tensor, "B T"],
    completion_mask: Bool[Tensor, "B T"],
    *,
    preserved_logprobs: Float[Tensor, "B T"] | None = None,
    removed_logprobs: Float[Tensor, "B T"] | None = None,
    perception_tokens: Bool[Tensor, "B T"] | None = None,
    entropy: Float[Tensor, "B T"] | None = None,
    removed_entropy: Float[Tensor, "B T"] | None = None,
    ref_logprobs: Float[Tensor, "B T"] | None = None,
    log_probs: Float[Tensor, "B T V"] | None = None,
    preserved_log_probs: Float[Tensor, "B T V"] | None = None,
    removed_log_probs: Float[Tensor, "B T V"] | None = None,
    base: Base = "grpo",
    cpl_coef: float = 0.01,
    tau: float = 0.1,
    selection: Literal["entropy", "all"] = "entropy",
    perception_fraction: float = 0.5,
    score: Literal["absolute", "relative"] = "absolute",
    rounding: Rounding = "floor",
    candidates: Literal["completion", "all_places"] = "completion",
    gate: bool = True,
    divergence: Estimator | Literal["exact"] = "k3",
    k1_limit: float = KL_VALUE_LIMIT,
    select_in: Literal["scoring", "update"] = "scoring",
    counts: Mapping[str, Count] | None = None,
) -> Loss:
    """CPPO: the base, and on perception tokens a contrast of the preserved with the removed picture.

    preserved_logprobs, removed_logprobs [B T]: log-probabilities of the same tokens under both views, nats,
    with gradient. perception_tokens [B T]: the tokens that the contrast is made on, chosen once per step by
    `foveal.losses.perception_tokens` from the entropies at its start; where it is left out they are chosen
    from `entropy` and `removed_entropy` [B T] (nats, no gradient). `gate` keeps those of positive advantage.
    Other arguments as in `papo`; keywords: `foveal.objectives.cppo.CPPO`.
    """
    settings = {"base": base, "cpl_coef": cpl_coef, "tau": tau, "selection": selection, "gate": gate}
    settings |= {"perception_fraction": perception_fraction, "score": score, "rounding": rounding}
    settings |= {"candidates": candidates, "divergence": divergence, "k1_limit": k1_limit}
    objective = configured(CPPO, settings | {"select_in": select_in})
    tokens = Tokens(
        method="cppo",
        clean=View(logprobs=logprobs, entropy=entropy, log_probs=log_probs),
        old_logprobs=old_logprobs,
        advantages=advantages,
        completion_mask=completion_mask,
        ref_logprobs=ref_logprobs,
        others={
            "preserved": _view(preserved_logprobs, None, preserved_log_probs),
            "removed": _view(removed_logprobs, removed_entropy, removed_log_probs),
        },
    )
    return _contrast(objective, tokens, perception_tokens, counts)


def _contrast(
    objective: CPPO,
    tokens: Tokens,
    chosen: Bool[Tensor, "B T"] | None,
    counts: Mapping[str, Count] | None,
) -> Loss:
    ranks = objective.cpl_coef > 0 and objective.selection == "entropy"
    if chosen is None:
        removed = tokens.others["removed"]
        if ranks and (tokens.clean.entropy is None or removed is None or removed.entropy is None):
            raise FovealError(
                "losses.cppo chooses its perception tokens by the rise in entropy, but entropy or "
                "removed_entropy was not given; pass both, [B T], or the tokens themselves as "
                'perception_tokens, or selection = "all"'
            )
        return evaluate(objective, tokens, counts=counts)
    if objective.select_in == "update":
        raise FovealError(
            'losses.cppo: perception_tokens were given, but select_in = "update" chooses them from the '
            "running entropies; leave one of the two out"
        )
    plain = batch_of(objective, tokens)
    require_shape("cppo", "perception_tokens", chosen, tuple(tokens.clean.logprobs.shape))
    batch = objective.base.prepare(plain)
    allowed = objective.candidate_tokens(plain)
    selections = {**batch.selections, CONTRASTIVE_PERCEPTION: chosen.bool() & allowed}
    return reduce(objective, replace(batch, selections=selections), tokens, counts=counts)


def vppo(
    logprobs: Float[Tensor, "B T"],
    old_logprobs: Float[Tensor, "B T"],
    advantages: Float[Tensor, "B"] | Float[Tensor, "B T"],
    completion_mask: Bool[Tensor, "B T"],
    *,
    removed_logprobs: Float[Tensor, "B T"] | None = None,
    ref_logprobs: Float[Tensor, "B T"] | None = None,
    entropy: Float[Tensor, "B T"] | None = None,
    removed_entropy: Float[Tensor, "B T"] | None = None,
    base: Base = "grpo",
    token_fraction: float = 0.4,
    scale_min: float = 0.9,
    scale_max: float | None = None,
    denominator: Literal["all", "selected"] = "all",
    counts: Mapping[str, Count] | None = None,
) -> Loss:
    """VPPO: the base's surrogate on the tokens that depend on the picture, more in completions that do.

    removed_logprobs [B T]: log-probability of the same tokens with the removed picture at the start of the
    step, nats, constant; it is compared with old_logprobs. The factors of completions are relative to all
    rows given: pass the whole batch of the step, not a micro-batch.
    Other arguments as in `papo`; keywords: `foveal.objectives.vppo.VPPO`.
    """
    settings = {"base": base, "token_fraction": token_fraction, "scale_min": scale_min}
    objective = configured(VPPO, settings | {"scale_max": scale_max, "denominator": denominator})
    tokens = Tokens(
        method="vppo",
        clean=View(logprobs=logprobs, entropy=entropy),
        old_logprobs=old_logprobs,
        advantages=advantages,
        completion_mask=completion_mask,
        ref_logprobs=ref_logprobs,
        others={"removed": _view(removed_logprobs, removed_entropy, None)},
    )
    return evaluate(objective, tokens, counts=counts)


def noisy_rollout(
    logprobs: Float[Tensor, "B T"],
    old_logprobs: Float[Tensor, "B T"],
    advantages: Float[Tensor, "B"] | Float[Tensor, "B T"],
    completion_mask: Bool[Tensor, "B T"],
    *,
    ref_logprobs: Float[Tensor, "B T"] | None = None,
    entropy: Float[Tensor, "B T"] | None = None,
    base: Base = "grpo",
    counts: Mapping[str, Count] | None = None,
) -> Loss:
    """NoisyRollout: the base's loss on the clean pictures; part of each group was sampled from noised ones.

    old_logprobs [B T] must be those of the CLEAN pictures for all completions: score the ones that were
    sampled from noised pictures, do not take what the sampler recorded. All completions of a problem are one
    group for `group_advantages`. Other arguments as in `grpo`.
    """
    tokens = Tokens(
        method="noisy_rollout",
        clean=View(logprobs=logprobs, entropy=entropy),
        old_logprobs=old_logprobs,
        advantages=advantages,
        completion_mask=completion_mask,
        ref_logprobs=ref_logprobs,
    )
    return evaluate(configured(NoisyRollout, {"base": base}), tokens, counts=counts)


def dvrp(
    logprobs: Float[Tensor, "B T"],
    old_logprobs: Float[Tensor, "B T"],
    advantages: Float[Tensor, "B"] | Float[Tensor, "B T"],
    completion_mask: Bool[Tensor, "B T"],
    *,
    removed_logprobs: Float[Tensor, "B T"] | None = None,
    noised_logprobs: Float[Tensor, "B T"] | None = None,
    ref_logprobs: Float[Tensor, "B T"] | None = None,
    entropy: Float[Tensor, "B T"] | None = None,
    removed_entropy: Float[Tensor, "B T"] | None = None,
    noised_entropy: Float[Tensor, "B T"] | None = None,
    base: Base = "grpo",
    sensitivity_coef: float = 0.01,
    robustness_coef: float = 0.01,
    views_entropy_coef: float = 0.05,
    estimator: Estimator = "k3",
    entropy_kind: EntropyKind = "sampled",
    views_gradient: bool = True,
    counts: Mapping[str, Count] | None = None,
) -> Loss:
    """DVRP: the base; away from the removed picture, close to the noised one, and certain under both.

    removed_logprobs, noised_logprobs [B T]: log-probabilities of the same tokens under both views, nats, with
    gradient unless `views_gradient` is False.
    Other arguments as in `papo`; keywords: `foveal.objectives.dvrp.DVRP`.
    """
    settings = {"base": base, "sensitivity_coef": sensitivity_coef, "robustness_coef": robustness_coef}
    settings |= {"views_entropy_coef": views_entropy_coef, "estimator": estimator}
    settings |= {"entropy_kind": entropy_kind, "views_gradient": views_gradient}
    tokens = Tokens(
        method="dvrp",
        clean=View(logprobs=logprobs, entropy=entropy),
        old_logprobs=old_logprobs,
        advantages=advantages,
        completion_mask=completion_mask,
        ref_logprobs=ref_logprobs,
        others={
            "removed": _view(removed_logprobs, removed_entropy, None),
            "noised": _view(noised_logprobs, noised_entropy, None),
        },
    )
    return evaluate(configured(DVRP, settings), tokens, counts=counts)


def perception_reward(
    logprobs: Float[Tensor, "B T"],
    old_logprobs: Float[Tensor, "B T"],
    advantages: Float[Tensor, "B"] | Float[Tensor, "B T"],
    completion_mask: Bool[Tensor, "B T"],
    *,
    perception_rewards: Float[Tensor, "B"],
    group_size: int,
    segment: Bool[Tensor, "B T"] | None = None,
    ref_logprobs: Float[Tensor, "B T"] | None = None,
    entropy: Float[Tensor, "B T"] | None = None,
    base: Base = "grpo",
    coef: float = 0.5,
    on: Literal["all_tokens", "perception_segment"] = "perception_segment",
    advantage: Advantage = "group_std",
    counts: Mapping[str, Count] | None = None,
) -> Loss:
    """A perception reward of its own: the base, with `coef` times a second advantage on the facts' tokens.

    perception_rewards [B]: a reward for what a completion says of the picture, compared within groups of
    `group_size` adjacent rows; NaN counts 0. segment [B T]: the tokens that state the facts, where the second
    advantage goes; a completion without any, and no segment at all, means all tokens.
    Other arguments as in `grpo`; keywords: `foveal.objectives.perception_reward.PerceptionReward`.
    """
    settings = {"base": base, "coef": coef, "on": on, "advantage": advantage}
    objective = configured(PerceptionReward, settings)
    tokens = Tokens(
        method="perception_reward",
        clean=View(logprobs=logprobs, entropy=entropy),
        old_logprobs=old_logprobs,
        advantages=advantages,
        completion_mask=completion_mask,
        ref_logprobs=ref_logprobs,
    )
    batch = batch_of(objective, tokens)
    groups = group_index(perception_rewards, group_size, where="perception_reward")
    require_shape("perception_reward", "perception_rewards", perception_rewards, tuple(logprobs.shape[:1]))
    require_shape("perception_reward", "segment", segment, tuple(logprobs.shape))
    marked = {} if segment is None else {objective.reward: segment.bool()}
    inputs = replace(
        batch.inputs,
        prompt_index=groups,
        breakdown={objective.reward: floating(perception_rewards.detach())},
        segments=marked,
    )
    # The base's own advantage is 0 for rewards that are all equal, as they are here: what is left is added.
    added = objective.advantages(inputs)
    batch = replace(batch, inputs=inputs, advantages=batch.advantages + added.to(batch.advantages))
    return reduce(objective, objective.prepare(batch), tokens, counts=counts)


def _view(
    logprobs: Float[Tensor, "B T"] | None,
    entropy: Float[Tensor, "B T"] | None,
    log_probs: Float[Tensor, "B T V"] | None,
) -> View | None:
    return None if logprobs is None else View(logprobs=logprobs, entropy=entropy, log_probs=log_probs)
