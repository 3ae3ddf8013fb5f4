"""GRPO: the clipped surrogate with group-relative advantages, and an optional KL to the reference policy.

The functions below are the whole method; `GRPO` and `DAPO` are two sets of fields over them.
"""

from collections.abc import Mapping
from typing import Literal

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from foveal.advantages import broadcast, group_centred, group_normalised
from foveal.objectives.terms import clipped_surrogate, clipped_tokens, kl_estimate, log_ratio, zero_outside
from foveal.spec import FovealError
from foveal.types import CLEAN, Aggregation, Batch, Inputs, Objective, Term, TokenStats, ViewName

Advantage = Literal["group_std", "group_mean"]

SURROGATE = "surrogate"
REFERENCE_KL = "reference_kl"


def group_advantages(
    rewards: Float[Tensor, "B"], inputs: Inputs, *, advantage: Advantage
) -> Float[Tensor, "B T"]:
    """The group-relative advantage of each completion on each of its tokens."""
    relative = group_normalised if advantage == "group_std" else group_centred
    return broadcast(relative(rewards, inputs.prompt_index), inputs.completion_mask)


def policy_masks(batch: Batch, *, kl_coef: float) -> dict[str, Bool[Tensor, "B T"]]:
    """The masks of `policy_terms`: every completion token."""
    names = (SURROGATE, REFERENCE_KL) if kl_coef > 0 else (SURROGATE,)
    return {name: batch.inputs.completion_mask for name in names}


def policy_terms(
    batch: Batch,
    now: TokenStats,
    *,
    clip_low: float,
    clip_high: float,
    dual_clip: float | None,
    kl_coef: float,
) -> list[Term]:
    """The surrogate, and kl_coef * k3(policy, reference) when kl_coef > 0; gradient flows into `now.logprobs`
    alone.

    Raises: FovealError when reference log-probabilities are needed and missing.
    """
    mask = batch.inputs.completion_mask
    logprobs = zero_outside(now.logprobs, mask)
    ratio = log_ratio(logprobs, zero_outside(batch.scores.old_logprobs, mask))
    loss = clipped_surrogate(
        ratio, batch.advantages, clip_low=clip_low, clip_high=clip_high, dual_clip=dual_clip
    )
    terms = [Term(name=SURROGATE, coef=1.0, per_token=loss, mask=mask)]
    if kl_coef > 0:
        if batch.scores.ref_logprobs is None:
            raise FovealError(
                f"kl_coef {kl_coef} needs log-probabilities of the reference policy, but the batch has "
                "none; score with a reference policy, or set objective.kl_coef = 0"
            )
        reference = zero_outside(batch.scores.ref_logprobs, mask)
        kl = kl_estimate(logprobs, reference, estimator="k3")
        terms.append(Term(name=REFERENCE_KL, coef=kl_coef, per_token=kl, mask=mask))
    return terms


@torch.no_grad()
def policy_measures(
    batch: Batch, now: TokenStats, *, clip_low: float, clip_high: float, dual_clip: float | None
) -> list[Term]:
    """Clip fractions, full-vocabulary entropy, and k3(old policy, policy), which is what the update has moved
    so far."""
    mask = batch.inputs.completion_mask
    old = zero_outside(batch.scores.old_logprobs, mask)
    logprobs = zero_outside(now.logprobs, mask)
    clipped = clipped_tokens(
        log_ratio(logprobs, old),
        batch.advantages,
        clip_low=clip_low,
        clip_high=clip_high,
        dual_clip=dual_clip,
    )
    values = {
        "policy/clip_fraction": (clipped.high | clipped.low).to(logprobs.dtype),
        "policy/clip_high_fraction": clipped.high.to(logprobs.dtype),
        "policy/entropy": zero_outside(now.entropy, mask),
        "policy/approx_kl": kl_estimate(old, logprobs, estimator="k3"),
    }
    if dual_clip is not None:
        values["policy/dual_clip_fraction"] = clipped.dual.to(logprobs.dtype)
    return [Term(name=name, coef=0.0, per_token=value, mask=mask) for name, value in values.items()]


class GRPO(Objective):
    """Group relative policy optimisation.

    L = mean over tokens of max(-A r, -A clip(r, 1 - clip_low, 1 + clip_high)) + kl_coef * k3(policy,
    reference), r = pi_theta / pi_old on the clean pictures, A = (reward - group mean) / (group std + 1e-6).

    Source: DeepSeekMath arXiv:2402.03300 Eq. 3-4. Differs from the paper: `kl_coef` is 0 by default, so that
    no second model is held in memory (DAPO, Dr.GRPO and PAPO's best 3B runs train without it; GRPO's paper
    uses 0.04, PAPO's 0.01).
    """

    type: str = "grpo"
    aggregation: Aggregation = "sequence_mean"
    """GRPO's paper averages tokens within a completion first; PAPO's and CPPO's runs use "token_mean"."""
    clip_low: float = Field(default=0.2, ge=0, lt=1)
    """Ratios below 1 - clip_low earn nothing more. PPO arXiv:1707.06347."""
    clip_high: float = Field(default=0.2, ge=0)
    """Ratios above 1 + clip_high earn nothing more. GRPO and CPPO 0.2; PAPO's runs and their baselines 0.3,
    DAPO 0.28."""
    dual_clip: float | None = Field(default=None, gt=1)
    """Bound on the loss of a token with negative advantage, times |A|; none in GRPO's paper, 3.0 in PAPO's
    and CPPO's code."""
    kl_coef: float = Field(default=0.0, ge=0)
    """beta of the KL to the reference policy (k3); above 0 the reference policy is scored."""
    advantage: Advantage = "group_std"
    """Either "group_std", divided by the group's standard deviation (GRPO), or "group_mean", not divided
    (Dr.GRPO arXiv:2503.20783)."""

    @property
    def uses_reference(self) -> bool:
        """Reference log-probabilities are needed for the KL term alone."""
        return self.kl_coef > 0

    def advantages(self, inputs: Inputs) -> Float[Tensor, "B T"]:
        """Group-relative advantages; exactly 0 in a group of equal rewards."""
        return group_advantages(inputs.rewards, inputs, advantage=self.advantage)

    def masks(self, batch: Batch) -> Mapping[str, Bool[Tensor, "B T"]]:
        """All completion tokens for each term."""
        return policy_masks(batch, kl_coef=self.kl_coef)

    def terms(self, batch: Batch, now: Mapping[ViewName, TokenStats]) -> list[Term]:
        """`surrogate`, and `reference_kl` when kl_coef > 0."""
        return policy_terms(
            batch,
            now[CLEAN],
            clip_low=self.clip_low,
            clip_high=self.clip_high,
            dual_clip=self.dual_clip,
            kl_coef=self.kl_coef,
        )

    def measures(self, batch: Batch, now: Mapping[ViewName, TokenStats]) -> list[Term]:
        """Clip fractions, entropy and the KL moved since the old policy."""
        return policy_measures(
            batch, now[CLEAN], clip_low=self.clip_low, clip_high=self.clip_high, dual_clip=self.dual_clip
        )
