"""The gradient of a mini-batch, micro-batch by micro-batch."""

from torch import Tensor

from foveal.objectives.terms import count
from foveal.policy.forward import micro_batches, prompts_of
from foveal.policy.model import Policy
from foveal.ranges import BACKWARD, UPDATE, span, spanned
from foveal.train.graphs import Micro, run_views
from foveal.train.rows import select
from foveal.train.settings import StepSettings
from foveal.train.tally import Tally
from foveal.types import Batch, Objective


@spanned(UPDATE)
def accumulate(
    policy: Policy, mini: Batch, objective: Objective, settings: StepSettings, *, tally: Tally, rows: Tensor
) -> None:
    """Add the gradient of a mini-batch, micro-batch by micro-batch, with denominators of the whole
    mini-batch.

    `rows` are the places of the mini-batch's completions in the step's batch.
    """
    whole = {name: count(mask) for name, mask in objective.masks(mini).items()}
    for name in whole:
        tally.losses.setdefault(name, 0.0)
    needed = None
    if settings.skip_idle and settings.average_over == "mini_batch":
        needed = objective.needed(mini).nonzero()[:, 0].cpu()
    parts = micro_batches(mini.inputs, tokens=settings.micro_batch_tokens, rows=needed)
    policy.held.keep_if_worth(
        [mini.inputs.prompts[p] for part in parts for p in prompts_of(mini.inputs, part)]
    )
    policy.held.uses = len(parts)
    if objective.chooses_in_update and any(not len(prompt.grids) for prompt in mini.inputs.prompts):
        # Without a picture all views are one. Where terms rank differences between running views, these must
        # run alike: differences are then exactly 0, and no rounding chooses.
        policy.held.clear()
    for part in parts:
        batch = select(mini, part)
        counts, share = whole, 1.0
        if settings.average_over == "micro_batch":
            counts = {name: count(mask) for name, mask in objective.masks(batch).items()}
            share = 1.0 / len(parts)
        micro = Micro(batch=batch, counts=counts, share=share)
        # Not bound to a name: nothing of these graphs is to stand beside those of the next micro-batch.
        tally.watch(
            objective,
            micro,
            run_views(policy, micro, objective, settings, fresh=not tally.norms),
            places=rows[part],
        )
    tally.product_gap(policy.held.largest_gap())
    with span(BACKWARD):
        policy.held.backward()
