"""REINFORCE++: returns compared over the whole batch, and its variant with the group's mean as baseline."""

from typing import Literal

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from foveal.advantages import reinforce_plus_plus, reinforce_plus_plus_baseline, zero_equal_groups
from foveal.objectives.surrogate import Surrogate
from foveal.types import Aggregation, Inputs


class ReinforcePP(Surrogate):
    """REINFORCE++ with PPO's clip and advantages of its own for each token.

    baseline "batch": the reward sits on the last token, R_t = r_t + discount R_(t+1), A = (R - mean) / std
    over all tokens of the step's batch.
    baseline "group": A = c / root mean square of c over the batch's tokens, c = reward - group mean.
    Gradient flows into the clean view.

    Source: arXiv:2501.03262 section 3. Differs from the paper: a group of equal rewards gets exactly 0 unless
    `keep_equal_groups` is set, as in every objective here (there: it stands above or below the batch, so an
    easy problem pushes up whatever was said); the KL to the reference policy is a term of the loss, not part
    of the reward. With "group" nothing is subtracted after the group's mean (`reinforce_plus_plus_baseline`).
    """

    type: str = "reinforce_pp"
    aggregation: Aggregation = "token_mean"
    advantage: Literal["group_mean"] = "group_mean"
    """The comparison within a group that "group" makes; `baseline` chooses whether it is made."""
    baseline: Literal["batch", "group"] = "batch"
    """What a return is compared with: the mean over the batch's tokens, or the mean of its group."""
    discount: float = Field(default=1.0, ge=0, le=1)
    """gamma of the returns of "batch"; below 1 early tokens earn less. The paper and verl: 1."""
    keep_equal_groups: bool = False
    """Whether a group of equal rewards keeps the advantage that the batch gives it (the paper's "batch")."""

    def advantages(self, inputs: Inputs) -> Float[Tensor, "B T"]:
        """One advantage a token, scaled over the whole batch; 0 outside the mask."""
        rewards, groups = self.shaped_rewards(inputs), inputs.prompt_index
        if self.baseline == "group":
            return reinforce_plus_plus_baseline(rewards, groups, inputs.completion_mask)
        found = reinforce_plus_plus(rewards, inputs.completion_mask, gamma=self.discount)
        return found if self.keep_equal_groups else zero_equal_groups(found, rewards, groups)
