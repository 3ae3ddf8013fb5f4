"""A perception reward of its own: paid for facts stated rightly, beside the reward for the answer."""

from collections.abc import Mapping
from typing import Literal

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from foveal.advantages import broadcast
from foveal.objectives.extension import Extension
from foveal.objectives.surrogate import RELATIVE, Advantage
from foveal.spec import FovealError
from foveal.types import Batch, Inputs, Objective, Term, TokenStats, ViewName


class PerceptionReward(Extension):
    """The explicit baseline of perception-aware methods: a second advantage, from a reward on perception.

    A_it = A_it of the base + coef * P_i on the tokens chosen by `on`, P the value of the reward named
    `reward` compared within its group as `advantage` says; exactly 0 in a group of equal values. The
    answer's advantage stays on all tokens. On the "perception_segment" P goes to the tokens of the part of
    the completion that states the facts, as the reward marks it (`Reward.segment`); where it marks none P
    goes to the whole completion, so that silence costs what it should. A completion without a value (None)
    has P = 0 and takes no part in the comparison. Gradient flows as in the base. With coef 0 this is the base
    bit for bit.

    The reward stands in the run's list with weight 0, or it would be paid twice:
    `[[rewards]] type = "facts"`, `weight = 0`.

    Source: the baseline that CPPO (arXiv:2601.00501) argues against; Perception-R1 (arXiv:2506.07218) and
    PEARL (arXiv:2511.18437) have such rewards. Differs from them: facts are read and compared with a known
    scene ("facts", worlds only) or by any reward of the run, where they ask a judge model.
    """

    type: str = "perception_reward"
    coef: float = Field(default=0.5, ge=0)
    """Weight of the perception advantage against the answer's; ours."""
    reward: str = "facts"
    """Name of the reward whose values are compared."""
    on: Literal["all_tokens", "perception_segment"] = "perception_segment"
    """Tokens that get the perception advantage."""
    advantage: Advantage = "group_std"
    """How its values are compared within a group."""

    @property
    def uses_rewards(self) -> tuple[str, ...]:
        """The base's, and the reward on perception."""
        return (*self.base.uses_rewards, *((self.reward,) if self.coef > 0 else ()))

    def scaled(self, factor: float) -> Objective:
        """With the perception advantage times `factor`."""
        return self.model_copy(update={"base": self.base.scaled(factor), "coef": self.coef * factor})

    def advantages(self, inputs: Inputs) -> Float[Tensor, "B T"]:
        """The base's, and the perception advantage on its tokens."""
        found = super().advantages(inputs)
        if self.coef == 0:
            return found
        if self.reward not in inputs.breakdown:
            have = ", ".join(inputs.breakdown) or "none"
            raise FovealError(
                f"{self.type} compares the reward {self.reward!r}, but the batch has {have}; add [[rewards]] "
                f'type = "{self.reward}", weight = 0, or change objective.reward'
            )
        values = inputs.breakdown[self.reward]
        known, relative = ~values.isnan(), torch.zeros_like(values)
        relative[known] = RELATIVE[self.advantage](values[known], inputs.prompt_index[known])
        return found + self.coef * broadcast(relative, self._tokens(inputs)).to(found)

    def measures(self, batch: Batch, now: Mapping[ViewName, TokenStats]) -> list[Term]:
        """The base's, and the share of tokens that the perception advantage goes to."""
        measures, mask = super().measures(batch, now), batch.inputs.completion_mask
        if self.coef == 0:
            return measures
        share = self._tokens(batch.inputs).to(batch.advantages.dtype)
        return [*measures, Term(name="perception/segment_fraction", coef=0.0, per_token=share, mask=mask)]

    def _tokens(self, inputs: Inputs) -> Bool[Tensor, "B T"]:
        segment = inputs.segments.get(self.reward)
        if self.on == "all_tokens" or segment is None:
            return inputs.completion_mask
        return inputs.completion_mask & (segment | ~segment.any(-1, keepdim=True))
