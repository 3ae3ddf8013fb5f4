"""Whole steps of `gpu.py`, phase by phase."""

import statistics
import time
from dataclasses import dataclass, field
from typing import Any

import flops
import torch
import workload
from gpu_parts import Numbers, Work, collated

from foveal.policy.model import Policy
from foveal.rollout.local import LocalEngine
from foveal.train.graphs import kept_for_update
from foveal.train.settings import StepSettings
from foveal.train.setup import adamw
from foveal.train.step import train_step
from foveal.types import CLEAN, Sampling


@dataclass
class Laps:
    """Seconds of forwards without and with gradient and of the optimizer, waiting for the device, and the
    FLOPs of the passes."""

    work: Work
    widths: flops.Widths
    seconds: dict[str, float] = field(default_factory=dict)
    flops: int = 0
    rows: dict[str, int] = field(default_factory=dict)
    """Completions run with gradient, by view."""
    _start: float = 0.0

    def watch(self, policy: Policy, optimizer: torch.optim.Optimizer) -> None:
        """Hook into what a step calls."""
        policy.register_forward_pre_hook(self._begin_forward, with_kwargs=True)
        policy.register_forward_hook(lambda *given: self._end(self._kind()))
        optimizer.register_step_pre_hook(lambda *given: self._begin())
        optimizer.register_step_post_hook(lambda *given: self._end("optimizer"))

    def _kind(self) -> str:
        return "forward" if torch.is_grad_enabled() else "score"

    def _begin_forward(self, module: Policy, args: tuple[Any, ...], given: dict[str, Any]) -> None:
        inputs, view, rows = args[0], args[1], given.get("rows")
        groups = flops.group_shapes(inputs, None if rows is None else rows.tolist())
        if torch.is_grad_enabled():
            self.rows[view] = self.rows.get(view, 0) + sum(len(group.completions) for group in groups)
            self.flops += flops.gradient_pass(self.widths, groups)
            if view == CLEAN and module.held.rows:
                self.flops -= flops.prompts(self.widths, groups)
            if view == CLEAN and module.held.products:
                self.flops -= flops.recorded(self.widths, groups)
        else:
            self.flops += flops.no_gradient_pass(self.widths, groups)
        self._begin()

    def _begin(self) -> None:
        self.work.sync()
        self._start = time.perf_counter()

    def _end(self, name: str) -> None:
        self.work.sync()
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - self._start


def step(work: Work, objective_name: str, *, hold: bool) -> Numbers:
    """Whole steps of an objective: sampling, collation, scoring, forward, backward, optimizer.

    `hold`: prompts are held from sampling for the update, and products of completions, where they fit, as in
    a run.
    """
    objective = workload.objective(objective_name)
    policy = work.policy()
    optimizer = adamw(policy, lr=1e-6)
    phases = Laps(work, flops.Widths.of(policy.model.config))
    phases.watch(policy, optimizer)
    engine = LocalEngine(policy)
    settings = StepSettings(
        temperature=1.0,
        micro_batch_tokens=work.micro_batch_tokens,
        hold_prompts="auto" if hold else "never",
        hold_products="auto" if hold else "never",
    )
    sampling = Sampling(group_size=work.group, max_new_tokens=work.response, min_new_tokens=work.response + 1)
    sampling = kept_for_update(sampling, objective, settings)
    kept: list[dict[str, float]] = []
    found: Numbers = {
        "path": policy.attention_path,
        "head": policy.head.path,
        "decode": engine.decode,
    }
    with work.peak(found):
        for number in range(work.steps + 1):
            problems = [work.problem(number * work.prompts + n) for n in range(work.prompts)]
            clock = [time.perf_counter()]
            completions = engine.generate(problems, sampling=sampling, key=(0, number))
            work.sync()
            clock.append(time.perf_counter())
            found["held_tokens"] = policy.held.tokens
            groups = [workload.grade(p, c, gated=0.5) for p, c in zip(problems, completions, strict=True)]
            inputs = collated(policy, groups, tuple(objective.views), number)
            clock.append(time.perf_counter())
            phases.seconds, phases.flops, phases.rows = {}, 0, {}
            done = train_step(policy, None, optimizer, inputs, objective, settings)
            work.sync()
            clock.append(time.perf_counter())
            train = clock[3] - clock[2]
            laps = {"sample": clock[1] - clock[0], "collate": clock[2] - clock[1], **phases.seconds}
            # What is left of the step is the backward, with the few kernels of the loss and the clipping.
            laps["backward"] = train - sum(phases.seconds.values())
            kept.append({**laps, "train": train, "step": clock[3] - clock[0], "flops": phases.flops})
    for name in kept[-1]:
        found[name] = statistics.median(lap.get(name, 0.0) for lap in kept[1:])
    found["gated_share"] = phases.rows.get("removed", 0) / max(1, phases.rows.get(CLEAN, 0))
    found["sampler_parity_nats"] = done.metrics["sampler/parity_max"]
    found["product_gap"] = done.metrics.get("sampler/product_gap_max")
    found["skipped_updates"] = done.metrics["policy/skipped_count"]
    return found
