"""How a step is run: what `train_step` is given beside the policy, the objective and the data."""

import math
from dataclasses import dataclass
from typing import Literal

from foveal.config import RunConfig
from foveal.train.parity import PRODUCT_GAPS, parity_limit


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
    hold_prompts: Literal["auto", "always", "never"] = "auto"
    """Hold the prompts' graph from sampling: `train.graphs.kept_for_update`."""
    hold_products: Literal["auto", "always", "never"] = "auto"
    """Take from sampling what linear layers made of completions."""
    parity_limit: float = math.inf
    """Nats that what the sampler recorded may be off, before nothing of it is used: `train_step`."""
    product_gap_limit: float = math.inf
    """Relative L2 distance that products recorded in sampling may be off, likewise."""
    average_over: Literal["mini_batch", "micro_batch"] = "mini_batch"
    """What a term is averaged over; "micro_batch" takes the mean of micro-batch means, as the official codes
    do."""
    skip_idle: bool = True
    """Leave out what cannot change the update: completions (`Objective.needed`), and their views
    (`Objective.rows`, `Objective.score_rows`)."""
    view_graphs: Literal["auto", "together", "apart"] = "auto"
    """Whether the graphs of the update's views are held together or one at a time: `train.graphs`."""

    @classmethod
    def of(cls, config: RunConfig) -> "StepSettings":
        """Those of a run."""
        optimizer = config.optimizer
        return cls(
            temperature=config.sampling.temperature,
            micro_batch_tokens=optimizer.micro_batch_tokens,
            mini_batches=optimizer.mini_batches,
            max_grad_norm=optimizer.max_grad_norm,
            score_old=optimizer.old_logprobs == "scored",
            average_over=optimizer.average_over,
            skip_idle=optimizer.skip_idle,
            view_graphs=optimizer.view_graphs,
            hold_prompts=optimizer.hold_prompts,
            hold_products=optimizer.hold_products,
            parity_limit=math.inf if optimizer.old_logprobs == "sampled" else parity_limit(config),
            product_gap_limit=PRODUCT_GAPS[config.model.dtype],
        )
