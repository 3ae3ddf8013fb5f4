"""How a step is run: what `train_step` is given beside the policy, the objective and the data."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class StepSettings:
    """How a batch is cut and which log-probabilities are the old policy's."""

    temperature: float
    micro_batch_tokens: int
    mini_batches: int = 1
    max_grad_norm: float = 1.0
    score_old: bool = False
    """Score the old log-probabilities; otherwise the sampler's own are taken where it saw the clean
    pictures."""
    average_over: Literal["mini_batch", "micro_batch"] = "mini_batch"
    """What a term is averaged over; "micro_batch" takes the mean of micro-batch means, as the official codes
    do."""
    skip_idle: bool = True
    """Leave out of the update completions that cannot change it: `Objective.needed`."""
