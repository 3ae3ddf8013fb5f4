"""Dr.GRPO: GRPO without its two divisions, by the group's spread and by the completion's length."""

from foveal.objectives.surrogate import Advantage, Surrogate
from foveal.types import Aggregation


class DrGRPO(Surrogate):
    """GRPO done right.

    L = mean over completions of (sum over tokens of max(-A r, -A clip(r))) / horizon, A = reward - group
    mean; exactly 0 in a group of equal rewards. Dividing by the standard deviation favours problems that are
    nearly all right or nearly all wrong; dividing by the length favours long wrong completions: here neither
    is done. `GRPO(advantage="group_mean", aggregation="sequence_sum")` is `DrGRPO()` bit for bit.
    Gradient flows into the clean view.

    Source: arXiv:2503.20783 section 3.2. `horizon`, the constant that sums are divided by, is the limit of
    completions in a run, as in its code (`sampling.max_new_tokens`, unless `horizon` is set); the class by
    itself does not know the limit and divides by 1. Differs from verl's `seq-mean-token-sum-norm`, which
    leaves out the mean over completions.
    """

    type: str = "dr_grpo"
    aggregation: Aggregation = "sequence_sum"
    advantage: Advantage = "group_mean"
