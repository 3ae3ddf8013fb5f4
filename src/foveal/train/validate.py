"""Validation between steps: any data, any number of samples, the same sampler."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from foveal.config import RunConfig
from foveal.data.bad_rows import counts
from foveal.data.problems import DataSource, first
from foveal.data.selection import Choice
from foveal.data.world import WorldDataConfig
from foveal.diagnosis.gate import gate
from foveal.evaluation.run import Judge, OtherPicture, evaluate
from foveal.policy.model import Policy
from foveal.rewards.grading import Grader
from foveal.rollout.local import LocalEngine
from foveal.train.grade import StepGrading
from foveal.train.setup import DONORS, first_problems
from foveal.train.usable import Usable, check_problems
from foveal.types import Problem

BATCH = 128
"""Problems sampled at once."""


class Validator:
    """Evaluates the policy on the first problems of the validation data."""

    def __init__(
        self,
        config: RunConfig,
        engine: LocalEngine,
        grader: Grader,
        usable: Usable,
        *,
        samples: int,
    ) -> None:
        self.config, self.engine, self.grader = config, engine, grader
        self.problems, self.choice, self.samples = usable.problems, usable.choice, samples

    @property
    def answers(self) -> int:
        """How many completions a validation grades on the problems' own pictures."""
        return len(self.problems) * max(1, self.samples)

    @classmethod
    def of(
        cls,
        config: RunConfig,
        policy: Policy,
        engine: LocalEngine,
        grader: Grader,
        *,
        message: Callable[[str], None],
        kept: Choice | None = None,
    ) -> "Validator | None":
        """The validator of a configuration, if it has one; its rows are checked."""
        if config.validation is None:
            return None
        source = config.validation.data
        problems = first_problems(source, config.validation.problems)
        usable = check_problems(problems, policy.processor, config, source, message=message, kept=kept)
        return cls(config, engine, grader, usable, samples=config.validation.samples)

    def run(self, step: int, folder: Path) -> Mapping[str, Any]:
        """Metrics of one validation; the records go to validation/step-N.

        Raises: FovealError, before the first step of a run with a gate whose model does not look;
        GradersFailed, when more values failed than [grading] allows.
        """
        config = self.config.validation
        if config is None:
            raise ValueError("this run has no validation")
        judge, other = judge_of(config.data)
        greedy = self.samples == 0
        grading = StepGrading(self.grader, where=f"the validation after step {step}")
        found = evaluate(
            self.engine,
            self.problems,
            grader=self.grader,
            k=max(1, self.samples),
            greedy=greedy,
            temperature=self.config.sampling.temperature,
            max_new_tokens=self.config.sampling.max_new_tokens,
            batch_size=BATCH,
            key=(self.config.seed, "validation"),
            other_picture=other if config.other_picture else False,
            judge=judge,
            name=f"step {step}",
            method=self.config.objective.type,
            seed=self.config.seed,
            model=str(folder),
            data=config.data.model_dump(mode="json", exclude_none=True),
        )
        grading.require()
        found = replace(found, bad_rows=counts(self.choice.bad))
        found.save(folder / "validation" / f"step-{step:06d}")
        if config.gate and step == 0:
            gate(found)
        metrics = {
            "validation/accuracy": found.accuracy.value,
            "validation/failed_count": float(found.failed_count),
        }
        for name in ("accuracy_other_picture", "perception_error_fraction", "format"):
            estimate = found.estimate(name)
            if estimate is not None:
                metrics[f"validation/{name}"] = estimate.value
        return metrics


def judge_of(data: DataSource) -> tuple[Judge | None, OtherPicture | bool]:
    """What reads error kinds and swaps pictures: a world's own functions, since its scenes are known.

    The kind of data decides, not a problem's meta: a file's columns may have any name.
    """
    if isinstance(data, WorldDataConfig):
        from foveal import worlds

        return worlds.judge, _world_donor
    return None, True


def _world_donor(problem: Problem, donors: Sequence[Problem]) -> Problem | None:
    """The world's own choice of another picture; None where no problem of the set fits."""
    from foveal.worlds import WorldError, with_other_picture

    try:
        return with_other_picture(problem, first(donors, DONORS))
    except WorldError:
        return None
