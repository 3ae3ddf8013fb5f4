"""Recorded completions of a random model, objectives over them, and gradients to compare."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from foveal.data.collate import collate
from foveal.objectives.cppo import CPPO
from foveal.objectives.dapo import DAPO
from foveal.objectives.grpo import GRPO
from foveal.objectives.gspo import GSPO
from foveal.objectives.papo import PAPO
from foveal.objectives.vppo import VPPO
from foveal.perturbations.distort import Colour
from foveal.perturbations.occlude import PatchMask
from foveal.policy import Policy
from foveal.rollout.local import LocalEngine
from foveal.train.rows import mini_batch_rows, select
from foveal.train.settings import StepSettings
from foveal.train.step import prepare, score
from foveal.train.tally import Tally
from foveal.train.update import accumulate
from foveal.types import Aggregation, Group, Inputs, Objective, Sampling
from policy_cases import NONE, ONE, TALL, TWO, problem

PROBLEMS = (ONE, TWO, NONE, TALL, problem("small", "<image>Which squares are blue?", (56, 84)))
"""One picture, two pictures, none, a tall one; prompts of unequal length."""

GROUP_SIZE = 4
TEMPERATURE = 0.9
WHOLE, SPLIT = 100_000, 60
"""Tokens of a micro-batch: all in one, or each group in several."""

METHODS: Mapping[str, Callable[[Aggregation], Objective]] = {
    "grpo": lambda kind: GRPO(aggregation=kind),
    "dapo": lambda kind: DAPO(aggregation=kind, overlong_buffer=3, max_length=9),
    "papo_score": lambda kind: PAPO(base=GRPO(aggregation=kind), kl_prcp_coef=0.1, entropy_coef=0.03),
    "papo_removed_gradient": lambda kind: PAPO(
        base=GRPO(aggregation=kind), kl_prcp_coef=0.1, removed_gradient=True, removed_entropy_coef=0.03
    ),
    "cppo": lambda kind: CPPO(base=GRPO(aggregation=kind), cpl_coef=0.2),
    "cppo_exact": lambda kind: CPPO(base=GRPO(aggregation=kind), cpl_coef=0.2, divergence="exact"),
    "vppo_on_gspo": lambda kind: VPPO(base=GSPO(aggregation=kind)),
}


def record(policy: Policy, *, entropies: bool = False) -> list[Group]:
    """Completions of several lengths, sampled once; rewards at random, unequal within each group."""
    sampling = Sampling(group_size=GROUP_SIZE, max_new_tokens=9, temperature=TEMPERATURE, entropies=entropies)
    drawn = LocalEngine(policy).generate(PROBLEMS, sampling=sampling, key=(7,))
    draw = np.random.default_rng(11)
    groups = []
    for index, (of, completions) in enumerate(zip(PROBLEMS, drawn, strict=True)):
        # A random model never stops: cut some completions off, so that lengths differ.
        cut = tuple(
            replace(
                c,
                token_ids=c.token_ids[:n],
                sampled_logprobs=c.sampled_logprobs[:n],
                sampled_entropies=c.sampled_entropies and c.sampled_entropies[:n],
            )
            for c, n in zip(completions, draw.integers(1, 10, GROUP_SIZE).tolist(), strict=True)
        )
        rewards = tuple(draw.random(GROUP_SIZE).round(3).tolist())
        correct = tuple(bool(g == index % GROUP_SIZE) for g in range(GROUP_SIZE))
        groups.append(Group(problem=of, completions=cut, rewards=rewards, correct=correct))
    return groups


def inputs_of(policy: Policy, groups: list[Group]) -> Inputs:
    """All three views; the pictures depend on the problem alone, not on its place."""
    return collate(
        groups,
        processor=policy.processor,
        views=("clean", "removed", "preserved"),
        perturbations={"removed": PatchMask(ratio=0.5), "preserved": Colour()},
        key=(3, 1),
    )


def settings(*, tokens: int = WHOLE, mini_batches: int = 1, max_grad_norm: float = 1.0) -> StepSettings:
    return StepSettings(
        temperature=TEMPERATURE,
        micro_batch_tokens=tokens,
        mini_batches=mini_batches,
        max_grad_norm=max_grad_norm,
        score_old=True,
    )


def gradients(policy: Policy, inputs: Inputs, objective: Objective, *, tokens: int) -> list[Tensor]:
    """Summed gradients before clipping of one whole batch, parameter by parameter."""
    how = settings(tokens=tokens)
    batch = prepare(inputs, score(inputs, policy, None, objective, how), objective)
    policy.zero_grad(set_to_none=True)
    tally = Tally.of(inputs)
    for rows in mini_batch_rows(inputs, 1):
        accumulate(policy, select(batch, rows), objective, how, tally=tally, rows=rows)
    return [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in policy.parameters()]


def moved(policy: Policy, inputs: Inputs, objective: Objective, *, tokens: int, steps: int) -> list[Tensor]:
    """How far plain SGD without clipping moves each parameter; the policy is put back."""
    start = [p.detach().clone() for p in policy.parameters()]
    for _ in range(steps):
        for p, g in zip(
            policy.parameters(), gradients(policy, inputs, objective, tokens=tokens), strict=True
        ):
            p.data.sub_(g, alpha=0.05)
    found = [p.detach() - s for p, s in zip(policy.parameters(), start, strict=True)]
    for p, s in zip(policy.parameters(), start, strict=True):
        p.data.copy_(s)
    return found


def distance(found: list[Tensor], wanted: list[Tensor]) -> float:
    """Relative L2 distance over all parameters together."""
    off = sum(float((f - w).double().square().sum()) for f, w in zip(found, wanted, strict=True))
    return (off / sum(float(w.double().square().sum()) for w in wanted)) ** 0.5
