"""CISPO: the importance weight is clipped, the gradient of a token never."""

import math
from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from foveal.objectives.sequence import cispo_loss
from foveal.objectives.surrogate import Surrogate
from foveal.objectives.terms import Clipped
from foveal.types import Aggregation


class CISPO(Surrogate):
    """Clipped importance sampling policy optimisation.

    L = mean over tokens of -sg(clip(r, 1 - clip_low, 1 + clip_high)) A log pi_theta, r = pi_theta / pi_old,
    A as in GRPO; exactly 0 in a group of equal rewards.
    Gradient flows into the clean view, on every token: rare words that a clipped surrogate drops after the
    first update keep counting, with a bounded weight. Clip measures count tokens whose weight was bounded,
    whatever the sign of A.

    Source: MiniMax-M1 arXiv:2506.13585 Eq. 4-5. Differs from the paper: it gives no `clip_high`; the default
    bounds the weight at 5, a choice of ours. Differs from verl: no lower bound by default, as the paper
    trains without one.
    """

    type: str = "cispo"
    aggregation: Aggregation = "token_mean"
    clip_low: float = Field(default=1.0, ge=0)
    """Weights are at least 1 - clip_low; 1 or more leaves small weights as they are (the paper)."""
    clip_high: float = Field(default=4.0, ge=0)
    """Weights are at most 1 + clip_high."""
    dual_clip: Literal[None] = None
    """There is none: the weight is bounded for both signs of A."""

    def loss(
        self,
        logprobs: Float[Tensor, "B T"],
        ratio: Float[Tensor, "B T"],
        advantages: Float[Tensor, "B T"],
    ) -> Float[Tensor, "B T"]:
        """The log-probability, weighted by the bounded ratio and the advantage."""
        return cispo_loss(logprobs, ratio, advantages, clip_low=self.clip_low, clip_high=self.clip_high)

    def clipped(self, ratio: Float[Tensor, "B T"], advantages: Float[Tensor, "B T"]) -> Clipped:
        """Tokens of non-zero advantage whose weight was bounded."""
        counts, lowest = advantages != 0, 1 - self.clip_low
        return Clipped(
            high=counts & (ratio > math.log1p(self.clip_high)),
            low=counts & (ratio < (math.log(lowest) if lowest > 0 else -math.inf)),
            dual=torch.zeros_like(counts),
        )
