"""What the parts of a run's configuration ask of each other."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from foveal import perturbations
from foveal.rewards.grading import reward_names
from foveal.spec import ConfigError
from foveal.types import CLEAN, Objective, Perturbation, ViewName

if TYPE_CHECKING:
    from foveal.config import RunConfig

VIEW_HINTS = {
    "removed": 'type = "patch_mask", or another perturbation that takes away what the answer is read from',
    "noised": 'type = "diffusion_noise", or "noise"',
    "preserved": 'type = "rotation" or "colour", or another perturbation that leaves the answer readable',
}
OTHER_VIEW = f"the type of a perturbation that suits it: {', '.join(perturbations.REGISTRY)}"
"""What a missing view's table should hold."""


def perturbed_views(objective: Objective, *, steps: int) -> tuple[ViewName, ...]:
    """Views that need a perturbation in a run of `steps`: those of the objective, and those that completions
    are sampled under."""
    shares = (_shares(objective, step, steps=steps) for step in range(steps))
    sampled = (view for step in shares for view, share in step.items() if share > 0)
    return tuple(view for view in dict.fromkeys((*objective.views, *sampled)) if view != CLEAN)


def _shares(objective: Objective, step: int, *, steps: int) -> Mapping[ViewName, float]:
    """Raises: ConfigError, when the completions' shares by view are none."""
    found = objective.sample_views(step, steps=steps)
    if not isinstance(found, Mapping) or not math.isclose(sum(found.values()), 1) or min(found.values()) < 0:
        raise ConfigError(
            f"objective {objective.type!r}: sample_views gives {found!r} at step {step}; expected shares by "
            f"view that add up to 1; change its sample_views"
        )
    return found


def used_perturbations(config: "RunConfig") -> dict[ViewName, Perturbation]:
    """The perturbations that a run needs, by view; others may stand in its config."""
    views = perturbed_views(config.objective, steps=config.steps)
    return {view: config.perturbations[view] for view in views}


def cross_check(config: "RunConfig") -> None:
    """Raises: ConfigError, saying what to add or to change, when two parts do not fit together."""
    objective, sampling = config.objective, config.sampling
    if CLEAN in config.perturbations:
        raise ConfigError(
            f"[perturbations.{CLEAN}] has no effect: that view is the pictures as they are; leave it out, or "
            f"name the view that the objective asks for, such as [perturbations.removed]"
        )
    for view in perturbed_views(objective, steps=config.steps):
        if view not in config.perturbations:
            have = ", ".join(repr(v) for v in config.perturbations) or "nothing"
            raise ConfigError(
                f'{objective.type} needs a "{view}" view, but [perturbations] has {have}; '
                f"add [perturbations.{view}] with {VIEW_HINTS.get(view, OTHER_VIEW)}"
            )
    if sampling.group_size < 2:
        raise ConfigError(
            f"sampling.group_size is {sampling.group_size}: a group of one has nothing to be "
            f"compared with, so every advantage is 0; expected at least 2; change [sampling] group_size"
        )
    if config.guard.action == "lower" and objective.scaled(0.5) == objective:
        raise ConfigError(
            f'guard.action is "lower", but {objective.type} pays nothing for looking that could be '
            f'lowered; change [guard] action to "warn", "rollback" or "stop"'
        )
    if not config.rewards:
        raise ConfigError('no rewards; expected at least one [[rewards]] table, such as type = "boxed"')
    graded = reward_names(config.rewards)
    for name in objective.uses_rewards:
        if name not in graded:
            raise ConfigError(
                f"{objective.type} reads the reward {name!r}, but the rewards are {', '.join(graded)}; add "
                f"[[rewards]] with type = {name!r} and weight = 0, which leaves the sum of rewards as it is"
            )
    if config.optimizer.view_graphs == "apart" and objective.uses_distributions:
        raise ConfigError(
            f'optimizer.view_graphs is "apart", but {objective.type} compares whole distributions, so its '
            f'views run together; expected "auto" or "together"; change [optimizer] view_graphs, or take an '
            f"estimator in place of the exact divergence in [objective]"
        )
    if config.optimizer.mini_batches > sampling.prompts_per_step:
        raise ConfigError(
            f"optimizer.mini_batches is {config.optimizer.mini_batches} but a step has only "
            f"{sampling.prompts_per_step} groups; lower it or raise sampling.prompts_per_step"
        )
