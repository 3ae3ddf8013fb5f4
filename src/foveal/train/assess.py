"""Evaluation of a configuration's model on its data, outside training."""

from collections.abc import Callable, Sequence

from foveal.config import RunConfig
from foveal.evaluation.records import Evaluation
from foveal.evaluation.run import evaluate
from foveal.policy.model import Policy
from foveal.rewards.grading import Grader
from foveal.rollout.local import LocalEngine
from foveal.train.setup import check_problems, first_problems, policy_of
from foveal.train.validate import BATCH, judge_of
from foveal.types import Problem


def assess(
    config: RunConfig,
    *,
    samples: int,
    limit: int,
    progress: Callable[[int, int], None] | None = None,
    name: str = "",
    method: str = "",
    seed: int | None = None,
    other_picture: bool = True,
) -> Evaluation:
    """Greedy (`samples` 0) or avg@k on the first `limit` problems of the configuration's data."""
    policy = policy_of(config)
    problems = first_problems(config.data, limit)
    check_problems(
        problems, policy.processor, limit=config.sampling.max_prompt_tokens, message=lambda text: None
    )
    return assess_policy(
        policy,
        config,
        problems,
        samples=samples,
        progress=progress,
        name=name,
        method=method,
        seed=seed,
        other_picture=other_picture,
    )


def assess_policy(
    policy: Policy,
    config: RunConfig,
    problems: Sequence[Problem],
    *,
    samples: int,
    progress: Callable[[int, int], None] | None,
    name: str,
    method: str,
    seed: int | None,
    other_picture: bool,
) -> Evaluation:
    """Evaluate a loaded policy."""
    judge, other = judge_of(config.data)
    with Grader(
        config.rewards, workers=config.grading.workers, cpu_limit_s=config.grading.cpu_limit_s
    ) as grader:
        return evaluate(
            LocalEngine(policy),
            problems,
            grader=grader,
            k=max(1, samples),
            greedy=samples == 0,
            temperature=config.sampling.temperature,
            max_new_tokens=config.sampling.max_new_tokens,
            batch_size=BATCH,
            key=(config.seed, "evaluation"),
            other_picture=other if other_picture else False,
            judge=judge,
            progress=progress,
            name=name,
            method=method,
            seed=seed,
        )
