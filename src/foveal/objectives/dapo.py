"""DAPO: GRPO's surrogate with a higher upper clip, a token mean, dynamic sampling and a soft limit on
length."""

from typing import Literal

from jaxtyping import Float, Int
from pydantic import Field, model_validator
from torch import Tensor

from foveal.advantages import keeps_group
from foveal.objectives.surrogate import Surrogate
from foveal.spec import FovealError
from foveal.types import Aggregation, Group, Inputs


def overlong_penalty(
    lengths: Int[Tensor, "B"], *, max_length: int, buffer: int, factor: float
) -> Float[Tensor, "B"]:
    """0 up to max_length - buffer tokens, then falling linearly to -factor at max_length (and no further).

    Source: DAPO arXiv:2503.14476 Eq. 13, where factor is 1. Differs from verl's code, which goes on falling
    beyond max_length (`foveal.compat.lengths`); a sampler that stops there gives both the same.
    Raises: FovealError for a buffer that does not lie within the limit.
    """
    if not 1 <= buffer <= max_length:
        raise FovealError(
            f"overlong_penalty: buffer is {buffer} and max_length {max_length}; expected 1 to max_length "
            f"tokens over which the penalty grows; leave the penalty out to switch it off"
        )
    excess = (lengths - (max_length - buffer)).float() / buffer
    return -factor * excess.clamp(0.0, 1.0)


class DAPO(Surrogate):
    """Decoupled clip and dynamic sampling policy optimisation.

    GRPO with clip_high > clip_low, the mean over all tokens of the mini-batch, no reference KL; groups that
    are all right or all wrong are replaced (`keeps`), and completions that near the length limit lose reward.
    `DAPO(clip_high=0.2, aggregation="sequence_mean", filter_groups=False)` is `GRPO()` bit for bit.

    Source: arXiv:2503.14476 Eq. 8-13. Differs from the paper: overlong shaping is off unless
    `overlong_buffer` is set (PAPO's DAPO runs do without), as it needs a length limit; filtering is on the
    share of right answers, bounds as in PAPO's code.
    """

    type: str = "dapo"
    aggregation: Aggregation = "token_mean"
    clip_high: float = Field(default=0.28, ge=0)
    """Ratios above 1 + clip_high earn nothing more: room for unlikely tokens to grow. arXiv:2503.14476."""
    filter_groups: bool = True
    """Dynamic sampling: drop groups that carry no signal."""
    filter_on: Literal["accuracy", "reward"] = "accuracy"
    """What is averaged over a group: right answers (PAPO's scripts), or rewards (its yaml files)."""
    filter_low: float = Field(default=0.01, ge=0, le=1)
    """A group is kept when that mean is strictly above this; PAPO's scripts."""
    filter_high: float = Field(default=0.99, ge=0, le=1)
    """... and strictly below this; PAPO's scripts."""
    overlong_buffer: int = Field(default=0, ge=0)
    """Tokens before `max_length` over which the length penalty grows; 0 turns it off. The paper: 4096 of
    20480."""
    overlong_factor: float = Field(default=1.0, ge=0)
    """Penalty at `max_length`, in units of reward."""
    max_length: int | None = Field(default=None, ge=1)
    """Length limit of completions, tokens; needed when `overlong_buffer` is set."""

    @model_validator(mode="after")
    def _limits(self) -> "DAPO":
        if self.overlong_buffer and (self.max_length is None or self.overlong_buffer > self.max_length):
            raise ValueError(
                f"overlong_buffer {self.overlong_buffer} needs a max_length of at least as many tokens, got "
                f"{self.max_length}; set max_length to the limit of completions, or overlong_buffer = 0"
            )
        if self.filter_low >= self.filter_high:
            raise ValueError(
                f"filter_low {self.filter_low} is not below filter_high {self.filter_high}, so no "
                "group is kept; lower the one, raise the other, or set filter_groups = false"
            )
        return self

    def keeps(self, group: Group) -> bool:
        """Whether the group's mean lies strictly between the bounds (always, without `filter_groups`)."""
        values = group.correct if self.filter_on == "accuracy" else group.rewards
        return not self.filter_groups or keeps_group(values, low=self.filter_low, high=self.filter_high)

    def shaped_rewards(self, inputs: Inputs) -> Float[Tensor, "B"]:
        """Rewards with the length penalty added; the rewards themselves when it is off."""
        if self.overlong_buffer == 0 or self.max_length is None:
            return inputs.rewards
        penalty = overlong_penalty(
            inputs.lengths,
            max_length=self.max_length,
            buffer=self.overlong_buffer,
            factor=self.overlong_factor,
        )
        return inputs.rewards + penalty.to(inputs.rewards)
