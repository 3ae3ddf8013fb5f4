"""RLOO: each completion against the mean of the others of its group."""

from typing import Literal

from foveal.objectives.surrogate import Surrogate
from foveal.types import Aggregation


class RLOO(Surrogate):
    """REINFORCE with a leave-one-out baseline.

    L = mean over completions of (sum over tokens of max(-A r, -A clip(r))) / horizon,
    A_i = r_i - mean of the other rewards of the group = G / (G - 1) (r_i - group mean);
    exactly 0 in a group of equal rewards. A completion is one action, so its tokens are summed. With one
    update per step r is 1, and the gradient is REINFORCE's: -A times that of the completion's
    log-probability, divided by the constant `horizon` (in a run `sampling.max_new_tokens` unless it is set,
    so that clipping of the gradient's norm does not depend on length; 1 for the class by itself, as in the
    paper).
    Gradient flows into the clean view.

    Source: arXiv:2402.14740 Eq. 8. Differs from the paper: the ratio is clipped, which acts from a step's
    second update on; the KL to the reference policy (`kl_coef`) is a term of the loss, not part of the
    reward. Differs from verl: a group of one gets 0 (there: its own reward).
    """

    type: str = "rloo"
    aggregation: Aggregation = "sequence_sum"
    advantage: Literal["leave_one_out"] = "leave_one_out"
