"""GRPO: the clipped surrogate with group-relative advantages, and an optional KL to the reference policy."""

from foveal.objectives.surrogate import Surrogate
from foveal.types import Aggregation


class GRPO(Surrogate):
    """Group relative policy optimisation.

    L = mean over tokens of max(-A r, -A clip(r, 1 - clip_low, 1 + clip_high)) + kl_coef * KL(policy,
    reference), r = pi_theta / pi_old on the clean pictures, A = (reward - group mean) / (group std + 1e-6);
    exactly 0 in a group of equal rewards.

    Source: DeepSeekMath arXiv:2402.03300 Eq. 3-4. Differs from the paper: `kl_coef` is 0 by default, so that
    no second model is held in memory (DAPO, Dr.GRPO and PAPO's best 3B runs train without it; GRPO's paper
    uses 0.04, PAPO's 0.01).
    """

    type: str = "grpo"
    aggregation: Aggregation = "sequence_mean"
    """GRPO's paper averages tokens within a completion first; PAPO's and CPPO's runs use "token_mean"."""
