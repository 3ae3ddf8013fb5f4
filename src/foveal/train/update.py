"""The gradient of a mini-batch, micro-batch by micro-batch."""

from torch import Tensor

from foveal.objectives.terms import count
from foveal.policy.forward import micro_batches, prompts_of
from foveal.policy.model import Policy
from foveal.ranges import BACKWARD, FORWARD, UPDATE, span, spanned
from foveal.train.contract import require_terms
from foveal.train.loss import sum_terms
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
    for part in parts:
        micro = select(mini, part)
        counts, share = whole, 1.0
        if settings.average_over == "micro_batch":
            counts = {name: count(mask) for name, mask in objective.masks(micro).items()}
            share = 1.0 / len(parts)
        now = {}
        for view in objective.update_views:
            with span(FORWARD, view):
                now[view] = policy(
                    micro.inputs, view, rows=objective.rows(view, micro), temperature=settings.temperature
                )
        terms = objective.terms(micro, now)
        require_terms(terms, counts, micro, objective)
        loss = share * sum_terms(terms, counts, objective)
        if loss.requires_grad:
            with span(BACKWARD):
                loss.backward()  # type: ignore[no-untyped-call]
        tally.watch(objective, micro, now, terms, counts, share=share, places=rows[part])
    if policy.held.rows:
        with span(BACKWARD):
            policy.held.backward()
