"""The [grading] table of a configuration."""

from typing import Literal

from pydantic import Field

from foveal.spec import Config

OnFailure = Literal["drop_completion", "drop_group", "stop"]
"""What a completion that a reward failed on costs: itself, its whole group, or the run."""


class GradingConfig(Config):
    """How completions are graded, and what happens when a grader fails."""

    workers: int = Field(1, ge=1, le=256)
    """Processes that grade by rules and by rewards of your own. Verdicts do not depend on it."""
    cpu_limit_s: float = Field(5.0, gt=0)
    """CPU seconds for one completion and reward in a worker, so that a loaded machine grades the same."""
    wall_limit_s: float = Field(160.0, gt=0)
    """Wall seconds for the same, far above `cpu_limit_s`: it ends what sleeps or waits. A judge has a
    `timeout_s` of its own."""
    step_budget_s: float = Field(600.0, gt=0)
    """Wall seconds that a step, or a batch of a validation, waits for verdicts once its completions are
    there. What is not graded by then counts as failed."""
    retries: int = Field(2, ge=0, le=100)
    """Further attempts after a failure (exception, crash, no number, wall limit). The CPU limit is final: the
    same work would pass it again."""
    backoff_s: float = Field(0.5, ge=0)
    """Seconds before the first further attempt; twice as many before each one after it."""
    on_failure: OnFailure = "drop_completion"
    """A completion that a reward failed on takes no part in its group's statistics nor in the loss; or its
    whole group takes none; or the run stops, saved."""
    stop_above: float = Field(0.5, ge=0, le=1)
    """The run stops, saved, in a step in which more than this share of the values of a reward failed; 1 never
    does while a group is left to train on."""
    check_golds: int = Field(1000, ge=0)
    """Rows whose true answer is graded against itself at the start of a run; 0 checks none."""
