"""GSPO: the ratio of a whole completion is clipped, not that of each token."""

from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from foveal.objectives.sequence import gspo_log_ratio
from foveal.objectives.surrogate import Surrogate
from foveal.types import Aggregation


class GSPO(Surrogate):
    """Group sequence policy optimisation.

    L = mean over completions of the mean over tokens of max(-A s, -A clip(s, 1 - clip_low, 1 + clip_high)),
    s = (pi_theta(completion) / pi_old(completion))^(1 / length), the same on every token of a completion.
    Gradient flows into the clean view: -A s / length on each token's log-probability, and none on any token
    of a clipped completion. Clip measures count the tokens of clipped completions.

    Source: arXiv:2507.18071 Eq. 5-7, its token form Eq. 13-14 (equal to it when a completion's tokens share
    an advantage); clip range of section 5.1. Differs from verl's code: `aggregation` is a field (there:
    forced to the sequence mean), and `dual_clip` acts where it is set (there: never). The log-ratio is at
    most 10 nats, verl's bound, with gradient 0 beyond.
    """

    type: str = "gspo"
    aggregation: Aggregation = "sequence_mean"
    clip_low: float = Field(default=3e-4, ge=0, lt=1)
    """Completions with s below 1 - clip_low earn nothing more; the paper's value."""
    clip_high: float = Field(default=4e-4, ge=0)
    """Completions with s above 1 + clip_high earn nothing more; the paper's value."""

    def log_ratio(
        self,
        logprobs: Float[Tensor, "B T"],
        old_logprobs: Float[Tensor, "B T"],
        mask: Bool[Tensor, "B T"],
    ) -> Float[Tensor, "B T"]:
        """log s on each token, with the token's own gradient."""
        return gspo_log_ratio(logprobs, old_logprobs, mask)
