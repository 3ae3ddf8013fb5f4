"""The policy-gradient losses: GRPO and its neighbours, on the clean pictures alone."""

from collections.abc import Mapping

from jaxtyping import Bool, Float
from torch import Tensor

from foveal.losses.carriers import Loss, Tokens, View, configured, evaluate
from foveal.objectives.cispo import CISPO
from foveal.objectives.dapo import DAPO
from foveal.objectives.dr_grpo import DrGRPO
from foveal.objectives.grpo import GRPO
from foveal.objectives.gspo import GSPO
from foveal.objectives.reinforce_pp import ReinforcePP
from foveal.objectives.rloo import RLOO
from foveal.objectives.surrogate import Surrogate
from foveal.objectives.terms import Estimator
from foveal.types import Aggregation, Count


def grpo(
    logprobs: Float[Tensor, "B T"],
    old_logprobs: Float[Tensor, "B T"],
    advantages: Float[Tensor, "B"] | Float[Tensor, "B T"],
    completion_mask: Bool[Tensor, "B T"],
    *,
    ref_logprobs: Float[Tensor, "B T"] | None = None,
    entropy: Float[Tensor, "B T"] | None = None,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    dual_clip: float | None = None,
    kl_coef: float = 0.0,
    kl_estimator: Estimator = "k3",
    entropy_bonus_coef: float = 0.0,
    aggregation: Aggregation = "sequence_mean",
    horizon: int | None = None,
    counts: Mapping[str, Count] | None = None,
) -> Loss:
    """GRPO: the clipped surrogate, and a KL to the reference policy where `kl_coef` is above 0.

    L = mean of max(-A r, -A clip(r, 1 - clip_low, 1 + clip_high)) + kl_coef KL(policy, reference)
    - entropy_bonus_coef H, r = exp(logprobs - old_logprobs).

    logprobs, old_logprobs [B T]: log-probability of each token now (with gradient) and when it was
    sampled, nats. completion_mask [B T]: the tokens that count; padding may hold anything.
    advantages [B] or [B T]: constants, from
    `group_advantages`.
    ref_logprobs [B T]: the reference policy's, nats; needed with kl_coef. entropy [B T]: over the vocabulary,
    nats; needed with entropy_bonus_coef, otherwise only logged. counts: see `foveal.losses`.
    Other keywords: `foveal.objectives.grpo.GRPO` has their units and sources.
    """
    settings = {
        "clip_low": clip_low,
        "clip_high": clip_high,
        "dual_clip": dual_clip,
        "kl_coef": kl_coef,
        "kl_estimator": kl_estimator,
        "entropy_bonus_coef": entropy_bonus_coef,
        "aggregation": aggregation,
        "horizon": horizon,
    }
    objective = configured(GRPO, settings)
    clean = View(logprobs=logprobs, entropy=entropy)
    return _loss(objective, clean, old_logprobs, advantages, completion_mask, ref_logprobs, counts)


def dapo(
    logprobs: Float[Tensor, "B T"],
    old_logprobs: Float[Tensor, "B T"],
    advantages: Float[Tensor, "B"] | Float[Tensor, "B T"],
    completion_mask: Bool[Tensor, "B T"],
    *,
    ref_logprobs: Float[Tensor, "B T"] | None = None,
    entropy: Float[Tensor, "B T"] | None = None,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
    dual_clip: float | None = None,
    kl_coef: float = 0.0,
    kl_estimator: Estimator = "k3",
    entropy_bonus_coef: float = 0.0,
    aggregation: Aggregation = "token_mean",
    horizon: int | None = None,
    counts: Mapping[str, Count] | None = None,
) -> Loss:
    """DAPO: GRPO's surrogate with a higher upper clip and the mean over all tokens.

    Dynamic sampling and overlong shaping act on groups and rewards, before the loss:
    `foveal.advantages.keeps_group`, `foveal.objectives.dapo.overlong_penalty`.

    logprobs, old_logprobs [B T]: log-probability of each token now (with gradient) and when it was
    sampled, nats. completion_mask [B T]: the tokens that count; padding may hold anything.
    advantages [B] or [B T]: constants, from
    `group_advantages`.
    ref_logprobs [B T]: the reference policy's, nats; needed with kl_coef. entropy [B T]: over the vocabulary,
    nats; needed with entropy_bonus_coef, otherwise only logged. counts: see `foveal.losses`.
    Other keywords: `foveal.objectives.dapo.DAPO` has their units and sources.
    """
    settings = {
        "clip_low": clip_low,
        "clip_high": clip_high,
        "dual_clip": dual_clip,
        "kl_coef": kl_coef,
        "kl_estimator": kl_estimator,
        "entropy_bonus_coef": entropy_bonus_coef,
        "aggregation": aggregation,
        "horizon": horizon,
    }
    objective = configured(DAPO, settings)
    clean = View(logprobs=logprobs, entropy=entropy)
    return _loss(objective, clean, old_logprobs, advantages, completion_mask, ref_logprobs, counts)


def dr_grpo(
    logprobs: Float[Tensor, "B T"],
    old_logprobs: Float[Tensor, "B T"],
    advantages: Float[Tensor, "B"] | Float[Tensor, "B T"],
    completion_mask: Bool[Tensor, "B T"],
    *,
    ref_logprobs: Float[Tensor, "B T"] | None = None,
    entropy: Float[Tensor, "B T"] | None = None,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    dual_clip: float | None = None,
    kl_coef: float = 0.0,
    kl_estimator: Estimator = "k3",
    entropy_bonus_coef: float = 0.0,
    aggregation: Aggregation = "sequence_sum",
    horizon: int | None = None,
    counts: Mapping[str, Count] | None = None,
) -> Loss:
    """Dr.GRPO: no division by a completion's length; advantages without the group's spread.

    Each completion's sum over tokens is divided by `horizon`, the limit of completions. Left out it divides
    by 1, where a run takes its sampling.max_new_tokens: pass that limit for the loss of a run.

    logprobs, old_logprobs [B T]: log-probability of each token now (with gradient) and when it was
    sampled, nats. completion_mask [B T]: the tokens that count; padding may hold anything.
    advantages [B] or [B T]: constants, from
    `group_advantages(..., kind="group_mean")`.
    ref_logprobs [B T]: the reference policy's, nats; needed with kl_coef. entropy [B T]: over the vocabulary,
    nats; needed with entropy_bonus_coef, otherwise only logged. counts: see `foveal.losses`.
    Other keywords: `foveal.objectives.dr_grpo.DrGRPO` has their units and sources.
    """
    settings = {
        "clip_low": clip_low,
        "clip_high": clip_high,
        "dual_clip": dual_clip,
        "kl_coef": kl_coef,
        "kl_estimator": kl_estimator,
        "entropy_bonus_coef": entropy_bonus_coef,
        "aggregation": aggregation,
        "horizon": horizon,
    }
    objective = configured(DrGRPO, settings)
    clean = View(logprobs=logprobs, entropy=entropy)
    return _loss(objective, clean, old_logprobs, advantages, completion_mask, ref_logprobs, counts)


def rloo(
    logprobs: Float[Tensor, "B T"],
    old_logprobs: Float[Tensor, "B T"],
    advantages: Float[Tensor, "B"] | Float[Tensor, "B T"],
    completion_mask: Bool[Tensor, "B T"],
    *,
    ref_logprobs: Float[Tensor, "B T"] | None = None,
    entropy: Float[Tensor, "B T"] | None = None,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    dual_clip: float | None = None,
    kl_coef: float = 0.0,
    kl_estimator: Estimator = "k3",
    entropy_bonus_coef: float = 0.0,
    aggregation: Aggregation = "sequence_sum",
    horizon: int | None = None,
    counts: Mapping[str, Count] | None = None,
) -> Loss:
    """RLOO: a completion is one action; its advantage is against the others of its group.

    Each completion's tokens are summed, and the sum is divided by `horizon`. Left out it divides by 1, where
    a run takes its sampling.max_new_tokens: pass that limit for the loss of a run.

    logprobs, old_logprobs [B T]: log-probability of each token now (with gradient) and when it was
    sampled, nats. completion_mask [B T]: the tokens that count; padding may hold anything.
    advantages [B] or [B T]: constants, from
    `group_advantages(..., kind="leave_one_out")`.
    ref_logprobs [B T]: the reference policy's, nats; needed with kl_coef. entropy [B T]: over the vocabulary,
    nats; needed with entropy_bonus_coef, otherwise only logged. counts: see `foveal.losses`.
    Other keywords: `foveal.objectives.rloo.RLOO` has their units and sources.
    """
    settings = {
        "clip_low": clip_low,
        "clip_high": clip_high,
        "dual_clip": dual_clip,
        "kl_coef": kl_coef,
        "kl_estimator": kl_estimator,
        "entropy_bonus_coef": entropy_bonus_coef,
        "aggregation": aggregation,
        "horizon": horizon,
    }
    objective = configured(RLOO, settings)
    clean = View(logprobs=logprobs, entropy=entropy)
    return _loss(objective, clean, old_logprobs, advantages, completion_mask, ref_logprobs, counts)


def reinforce_pp(
    logprobs: Float[Tensor, "B T"],
    old_logprobs: Float[Tensor, "B T"],
    advantages: Float[Tensor, "B"] | Float[Tensor, "B T"],
    completion_mask: Bool[Tensor, "B T"],
    *,
    ref_logprobs: Float[Tensor, "B T"] | None = None,
    entropy: Float[Tensor, "B T"] | None = None,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    dual_clip: float | None = None,
    kl_coef: float = 0.0,
    kl_estimator: Estimator = "k3",
    entropy_bonus_coef: float = 0.0,
    aggregation: Aggregation = "token_mean",
    horizon: int | None = None,
    counts: Mapping[str, Count] | None = None,
) -> Loss:
    """REINFORCE++: GRPO's surrogate with advantages scaled over the whole batch.

    logprobs, old_logprobs [B T]: log-probability of each token now (with gradient) and when it was
    sampled, nats. completion_mask [B T]: the tokens that count; padding may hold anything.
    advantages [B] or [B T]: constants, from
    `reinforce_pp_advantages`.
    ref_logprobs [B T]: the reference policy's, nats; needed with kl_coef. entropy [B T]: over the vocabulary,
    nats; needed with entropy_bonus_coef, otherwise only logged. counts: see `foveal.losses`.
    Other keywords: `foveal.objectives.reinforce_pp.ReinforcePP` has their units and sources.
    """
    settings = {
        "clip_low": clip_low,
        "clip_high": clip_high,
        "dual_clip": dual_clip,
        "kl_coef": kl_coef,
        "kl_estimator": kl_estimator,
        "entropy_bonus_coef": entropy_bonus_coef,
        "aggregation": aggregation,
        "horizon": horizon,
    }
    objective = configured(ReinforcePP, settings)
    clean = View(logprobs=logprobs, entropy=entropy)
    return _loss(objective, clean, old_logprobs, advantages, completion_mask, ref_logprobs, counts)


def gspo(
    logprobs: Float[Tensor, "B T"],
    old_logprobs: Float[Tensor, "B T"],
    advantages: Float[Tensor, "B"] | Float[Tensor, "B T"],
    completion_mask: Bool[Tensor, "B T"],
    *,
    ref_logprobs: Float[Tensor, "B T"] | None = None,
    entropy: Float[Tensor, "B T"] | None = None,
    clip_low: float = 3e-4,
    clip_high: float = 4e-4,
    dual_clip: float | None = None,
    kl_coef: float = 0.0,
    kl_estimator: Estimator = "k3",
    entropy_bonus_coef: float = 0.0,
    aggregation: Aggregation = "sequence_mean",
    horizon: int | None = None,
    counts: Mapping[str, Count] | None = None,
) -> Loss:
    """GSPO: the ratio of a whole completion is clipped, not that of each token.

    r is the geometric mean of a completion's token ratios, the same on each of its tokens.

    logprobs, old_logprobs [B T]: log-probability of each token now (with gradient) and when it was
    sampled, nats. completion_mask [B T]: the tokens that count; padding may hold anything.
    advantages [B] or [B T]: constants, from
    `group_advantages`.
    ref_logprobs [B T]: the reference policy's, nats; needed with kl_coef. entropy [B T]: over the vocabulary,
    nats; needed with entropy_bonus_coef, otherwise only logged. counts: see `foveal.losses`.
    Other keywords: `foveal.objectives.gspo.GSPO` has their units and sources.
    """
    settings = {
        "clip_low": clip_low,
        "clip_high": clip_high,
        "dual_clip": dual_clip,
        "kl_coef": kl_coef,
        "kl_estimator": kl_estimator,
        "entropy_bonus_coef": entropy_bonus_coef,
        "aggregation": aggregation,
        "horizon": horizon,
    }
    objective = configured(GSPO, settings)
    clean = View(logprobs=logprobs, entropy=entropy)
    return _loss(objective, clean, old_logprobs, advantages, completion_mask, ref_logprobs, counts)


def cispo(
    logprobs: Float[Tensor, "B T"],
    old_logprobs: Float[Tensor, "B T"],
    advantages: Float[Tensor, "B"] | Float[Tensor, "B T"],
    completion_mask: Bool[Tensor, "B T"],
    *,
    ref_logprobs: Float[Tensor, "B T"] | None = None,
    entropy: Float[Tensor, "B T"] | None = None,
    clip_low: float = 1.0,
    clip_high: float = 4.0,
    kl_coef: float = 0.0,
    kl_estimator: Estimator = "k3",
    entropy_bonus_coef: float = 0.0,
    aggregation: Aggregation = "token_mean",
    horizon: int | None = None,
    counts: Mapping[str, Count] | None = None,
) -> Loss:
    """CISPO: the importance weight is clipped, the gradient of a token never.

    L = mean of -sg(clip(r, 1 - clip_low, 1 + clip_high)) A logprobs.

    logprobs, old_logprobs [B T]: log-probability of each token now (with gradient) and when it was
    sampled, nats. completion_mask [B T]: the tokens that count; padding may hold anything.
    advantages [B] or [B T]: constants, from
    `group_advantages`.
    ref_logprobs [B T]: the reference policy's, nats; needed with kl_coef. entropy [B T]: over the vocabulary,
    nats; needed with entropy_bonus_coef, otherwise only logged. counts: see `foveal.losses`.
    Other keywords: `foveal.objectives.cispo.CISPO` has their units and sources.
    """
    settings = {
        "clip_low": clip_low,
        "clip_high": clip_high,
        "kl_coef": kl_coef,
        "kl_estimator": kl_estimator,
        "entropy_bonus_coef": entropy_bonus_coef,
        "aggregation": aggregation,
        "horizon": horizon,
    }
    objective = configured(CISPO, settings)
    clean = View(logprobs=logprobs, entropy=entropy)
    return _loss(objective, clean, old_logprobs, advantages, completion_mask, ref_logprobs, counts)


def _loss(
    objective: Surrogate,
    clean: View,
    old_logprobs: Float[Tensor, "B T"],
    advantages: Float[Tensor, "B"] | Float[Tensor, "B T"],
    completion_mask: Bool[Tensor, "B T"],
    ref_logprobs: Float[Tensor, "B T"] | None,
    counts: Mapping[str, Count] | None,
) -> Loss:
    tokens = Tokens(
        method=objective.type,
        clean=clean,
        old_logprobs=old_logprobs,
        advantages=advantages,
        completion_mask=completion_mask,
        ref_logprobs=ref_logprobs,
    )
    return evaluate(objective, tokens, counts=counts)
