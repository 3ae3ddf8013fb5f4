"""The policy-gradient part that GRPO, DAPO and their neighbours share.

A surrogate on the clean view, and what may stand beside it: a KL to the reference policy, an entropy bonus.

A method is a set of fields and, where it differs, one of a few hooks: `relative` (rewards to advantages),
`log_ratio` (what is clipped), `loss` (how) and `clipped` (which tokens the measures count as clipped).
"""

from collections.abc import Callable, Mapping
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor

from foveal.advantages import broadcast, group_centred, group_normalised, leave_one_out
from foveal.objectives.terms import (
    Clipped,
    Estimator,
    clipped_surrogate,
    clipped_tokens,
    kl_estimate,
    log_ratio,
    zero_outside,
)
from foveal.spec import FovealError
from foveal.types import CLEAN, Batch, Inputs, Objective, Term, TokenStats, ViewName

SURROGATE = "surrogate"
REFERENCE_KL = "reference_kl"
ENTROPY_BONUS = "entropy_bonus"

Advantage = Literal["group_std", "group_mean", "leave_one_out"]
RELATIVE: Mapping[Advantage, Callable[[Tensor, Tensor], Tensor]] = {
    "group_std": group_normalised,
    "group_mean": group_centred,
    "leave_one_out": leave_one_out,
}
"""Ways to compare values [B] within groups: exactly 0 in a group of equal values."""


class Surrogate(Objective):
    """L = mean of the surrogate + kl_coef * KL(policy, reference) - entropy_bonus_coef * H(policy).

    Gradient flows into the clean view alone. A per-token weight in `batch.weights["surrogate"]`, put there by
    the `prepare` of a method that holds this one, multiplies the surrogate; a selection of the same name is
    what it is averaged over.
    """

    clip_low: float = Field(default=0.2, ge=0, lt=1)
    """Ratios below 1 - clip_low earn nothing more. PPO arXiv:1707.06347."""
    clip_high: float = Field(default=0.2, ge=0)
    """Ratios above 1 + clip_high earn nothing more. GRPO and CPPO 0.2; PAPO's runs and their baselines 0.3,
    DAPO 0.28."""
    dual_clip: float | None = Field(default=None, gt=1)
    """Bound on the loss of a token with negative advantage, times |A|; none in GRPO's and DAPO's papers, 3.0
    in PAPO's and CPPO's code."""
    kl_coef: float = Field(default=0.0, ge=0)
    """beta of the KL to the reference policy; above 0 the reference policy is scored."""
    kl_estimator: Estimator = "k3"
    """Estimator of that KL from the sampled token; k3 in all official scripts."""
    entropy_bonus_coef: float = Field(default=0.0, ge=0)
    """Weight of the entropy over the vocabulary that is PAID for; off in all official scripts."""
    advantage: Advantage = "group_std"
    """How rewards are compared within a group: less the mean, divided by the standard deviation ("group_std",
    GRPO), less the mean alone ("group_mean", Dr.GRPO), or less the mean of the others ("leave_one_out",
    RLOO)."""

    def shaped_rewards(self, inputs: Inputs) -> Float[Tensor, "B"]:
        """Rewards as the advantages see them."""
        return inputs.rewards

    def relative(self, rewards: Float[Tensor, "B"], group_index: Int[Tensor, "B"]) -> Float[Tensor, "B"]:
        """One advantage a completion, from the rewards of its group; exactly 0 where they are all equal."""
        return RELATIVE[self.advantage](rewards, group_index)

    def log_ratio(
        self,
        logprobs: Float[Tensor, "B T"],
        old_logprobs: Float[Tensor, "B T"],
        mask: Bool[Tensor, "B T"],
    ) -> Float[Tensor, "B T"]:
        """log(pi_theta / pi_old) that is clipped; of each token by default."""
        return log_ratio(logprobs, old_logprobs)

    def loss(
        self,
        logprobs: Float[Tensor, "B T"],
        ratio: Float[Tensor, "B T"],
        advantages: Float[Tensor, "B T"],
    ) -> Float[Tensor, "B T"]:
        """The surrogate of each token, from its log-probability, the log-ratio and the advantage.

        Exactly 0 where the advantage is 0; a method of yours for which it is not overrides `needed` too.
        """
        return clipped_surrogate(
            ratio,
            advantages,
            clip_low=self.clip_low,
            clip_high=self.clip_high,
            dual_clip=self.dual_clip,
        )

    def clipped(self, ratio: Float[Tensor, "B T"], advantages: Float[Tensor, "B T"]) -> Clipped:
        """The tokens on which the clip acts, for the measures."""
        return clipped_tokens(
            ratio,
            advantages,
            clip_low=self.clip_low,
            clip_high=self.clip_high,
            dual_clip=self.dual_clip,
        )

    @property
    def uses_reference(self) -> bool:
        """Reference log-probabilities are needed for the KL term alone."""
        return self.kl_coef > 0

    def advantages(self, inputs: Inputs) -> Float[Tensor, "B T"]:
        """The advantage of each completion on each of its tokens; 0 outside the mask."""
        relative = self.relative(self.shaped_rewards(inputs), inputs.prompt_index)
        return broadcast(relative, inputs.completion_mask)

    def masks(self, batch: Batch) -> Mapping[str, Bool[Tensor, "B T"]]:
        """All completion tokens for each term; for `surrogate` those of `batch.selections["surrogate"]` where
        it is there."""
        coefs = {REFERENCE_KL: self.kl_coef, ENTROPY_BONUS: self.entropy_bonus_coef}
        every = {name: batch.inputs.completion_mask for name, coef in coefs.items() if coef > 0}
        return {SURROGATE: batch.selections.get(SURROGATE, batch.inputs.completion_mask), **every}

    def needed(self, batch: Batch) -> Bool[Tensor, "B"]:
        """All where there is a reference KL or an entropy bonus; else those with an advantage, since the
        surrogate of the others is 0 and has no gradient."""
        if self.kl_coef > 0 or self.entropy_bonus_coef > 0:
            return super().needed(batch)
        paid = (batch.advantages != 0) & self.masks(batch)[SURROGATE]
        return paid.any(-1)

    def terms(self, batch: Batch, now: Mapping[ViewName, TokenStats]) -> list[Term]:
        """`surrogate`; `reference_kl` and `entropy_bonus` where their coefficients are above 0."""
        mask, stats = batch.inputs.completion_mask, now[CLEAN]
        logprobs = zero_outside(stats.logprobs, mask)
        ratio = self.log_ratio(logprobs, zero_outside(batch.scores.old_logprobs, mask), mask)
        loss = self.loss(logprobs, ratio, batch.advantages)
        if SURROGATE in batch.weights:
            loss = loss * zero_outside(batch.weights[SURROGATE].to(loss.dtype), mask)
        terms = [Term(name=SURROGATE, coef=1.0, per_token=loss, mask=self.masks(batch)[SURROGATE])]
        if self.kl_coef > 0:
            kl = kl_estimate(logprobs, self._reference(batch), estimator=self.kl_estimator)
            terms.append(Term(name=REFERENCE_KL, coef=self.kl_coef, per_token=kl, mask=mask))
        if self.entropy_bonus_coef > 0:
            entropy = zero_outside(stats.entropy, mask)
            terms.append(
                Term(name=ENTROPY_BONUS, coef=-self.entropy_bonus_coef, per_token=entropy, mask=mask)
            )
        return terms

    def measures(self, batch: Batch, now: Mapping[ViewName, TokenStats]) -> list[Term]:
        """Clip fractions, entropy over the vocabulary, and k3(old policy, policy): what the update has moved
        so far."""
        with torch.no_grad():
            mask, stats = batch.inputs.completion_mask, now[CLEAN]
            old = zero_outside(batch.scores.old_logprobs, mask)
            logprobs = zero_outside(stats.logprobs, mask)
            clipped = self.clipped(self.log_ratio(logprobs, old, mask), batch.advantages)
            values = {
                "policy/clip_fraction": (clipped.high | clipped.low).to(logprobs.dtype),
                "policy/clip_high_fraction": clipped.high.to(logprobs.dtype),
                "policy/entropy": zero_outside(stats.entropy, mask),
                "policy/approx_kl": kl_estimate(old, logprobs, estimator="k3"),
            }
            if self.dual_clip is not None:
                values["policy/dual_clip_fraction"] = clipped.dual.to(logprobs.dtype)
        return [
            Term(name=name, coef=0.0, per_token=value.detach(), mask=mask) for name, value in values.items()
        ]

    def _reference(self, batch: Batch) -> Float[Tensor, "B T"]:
        if batch.scores.ref_logprobs is None:
            raise FovealError(
                f"kl_coef {self.kl_coef} needs log-probabilities of the reference policy, but the batch has "
                "none; score with a reference policy, or set objective.kl_coef = 0"
            )
        return zero_outside(batch.scores.ref_logprobs, batch.inputs.completion_mask)
