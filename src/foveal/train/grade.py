"""The grading of a step: it goes on while the engine draws, is bounded in time, and stops a run whose graders
fail."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from foveal.config import RunConfig
from foveal.data.world import WorldDataConfig
from foveal.ranges import GRADING, spanned
from foveal.rewards.counts import Counts
from foveal.rewards.golds import check_golds
from foveal.rewards.grading import Grader, GradingError
from foveal.rewards.session import Grading
from foveal.rewards.verdicts import comparable
from foveal.spec import FovealError
from foveal.train.record import RunFolder
from foveal.train.sampling import Gathered, gather_groups
from foveal.train.state import State
from foveal.types import Completion, Group, Objective, Problem

WORLD_GOLDS = 64
"""True answers of a world that are checked: each is read with its pictures, which have to be drawn."""

Drawn = Sequence[tuple[Problem, tuple[Completion, ...]]]


class GradersFailed(FovealError):
    """Too many values of a step could not be had."""


class StepGrading:
    """Grades the rounds of a step, and counts what failed in them."""

    def __init__(self, grader: Grader, *, where: str) -> None:
        """`where`: what is graded, for messages: "step 3"."""
        self.grader, self.where = grader, where
        self.seconds = self.waited = 0.0
        self._before = grader.counts.now()
        self._round: Grading | None = None

    @property
    def counts(self) -> Counts:
        """What was asked for and lost since this began."""
        return self.grader.counts.now() - self._before

    def start(self, place: int, problem: Problem, completions: tuple[Completion, ...]) -> None:
        """Begin to grade a group of the round, by its place."""
        self._round = self._round or self.grader.begin()
        self._round.submit(place, problem, completions)

    def gather(self, rounds: Iterable[Drawn], config: RunConfig) -> Gathered[Group]:
        """Graded groups of as many rounds as it takes until the objective keeps enough.

        Raises: GradersFailed, also when there is nothing to train on.
        """
        sampling = config.sampling
        found = gather_groups(
            map(self.finish, rounds),
            keeps=partial(keeps, config.objective),
            wanted=sampling.prompts_per_step,
            limit=sampling.max_refills,
            when_none_kept=sampling.when_none_kept,
            when_short=sampling.when_short,
        )
        self.comparable(found.groups)
        return found

    @spanned(GRADING)
    def finish(self, drawn: Drawn) -> list[Group]:
        """The graded groups of the round, in order.

        Raises: GradersFailed, when more values failed than [grading] allows.
        """
        grading = self._round or self.grader.begin()
        self._round = None
        for place, (problem, completions) in enumerate(drawn):
            if place not in grading.places:
                grading.submit(place, problem, completions)
        budget = self.grader.settings.step_budget_s
        groups = grading.finish(budget_s=max(0.0, budget - self.waited))
        self.waited += grading.waited
        self.seconds += grading.seconds
        self.require()
        return groups

    def metrics(self) -> dict[str, float]:
        """Values lost by reward, and the time that grading took."""
        counts, found = self.counts, dict[str, float]()
        for index, name in enumerate(self.grader.names):
            found[f"reward/{name}_failure_count"] = counts.failures[index]
            found[f"reward/{name}_timeout_count"] = counts.timeouts[index]
            found[f"reward/{name}_retry_count"] = counts.retries[index]
        found["reward/failure_count"] = sum(counts.failures)
        found["reward/timeout_count"] = sum(counts.timeouts)
        found["time/grade_s"] = round(self.seconds, 4)
        found["time/grade_wait_s"] = round(self.waited, 4)
        return found

    def require(self) -> None:
        """Raises: GradersFailed, when more values failed so far than [grading] allows."""
        settings, counts = self.grader.settings, self.counts
        for index in self.grader.counting:
            lost = counts.failures[index] + counts.timeouts[index]
            told = f"{lost} of {counts.values[index]} values of reward {self.grader.names[index]!r} failed"
            if lost and settings.on_failure == "stop":
                raise self._failed(f'{told}, and grading.on_failure is "stop"')
            if counts.lost_share(index) > settings.stop_above:
                raise self._failed(f"{told}, more than grading.stop_above = {settings.stop_above:g} allows")

    def comparable(self, groups: Sequence[Group]) -> list[Group]:
        """The groups to train on: of each the completions that can be compared, where there are any.

        Raises: GradersFailed, when there is none.
        """
        found = [group for group in map(comparable, groups) if group.completions]
        if not found:
            raise self._failed("no group has a completion that could be graded")
        return found

    def _failed(self, what: str) -> GradersFailed:
        counts, examples = self.counts, self.grader.counts.examples
        said = "; ".join(
            f"{name}: {examples.get(index, 'no value within its limits')}"
            for index, name in enumerate(self.grader.names)
            if counts.failures[index] + counts.timeouts[index]
        )
        return GradersFailed(f"stopped in {self.where}: {what}" + (f" ({said})" if said else ""))


def keeps(objective: Objective, group: Group) -> bool:
    """Whether the objective keeps what can be compared of a graded group. For a group of which nothing can
    none is drawn in its place: the step goes on without it."""
    left = comparable(group)
    return not left.completions or objective.keeps(left)


def require_golds(
    grader: Grader, problems: Sequence[Problem], *, config: RunConfig, message: Callable[[str], None]
) -> None:
    """Grade true answers against themselves, and tell of those that fail.

    Raises: ConfigError, when none can be graded.
    """
    sample = config.grading.check_golds
    if isinstance(config.data, WorldDataConfig):
        sample = min(sample, WORLD_GOLDS)
    if sample:
        report = check_golds(grader, problems, sample=sample)
        report.require()
        for line in report.lines():
            message(line)


@contextmanager
def saved_when_graders_fail(
    state: State, folder: RunFolder, *, save: Callable[[RunFolder], None]
) -> Iterator[None]:
    """A run whose graders fail stops with the finished steps saved; the one that failed is to be repeated.

    Raises: GradersFailed.
    """
    try:
        yield
    except (GradersFailed, GradingError) as error:
        save(folder)
        folder.event("stopped", {"step": state.step, "by": "graders"})
        raise GradersFailed(
            f"{error}; everything up to step {state.step} is saved; once the grader works again, go on with: "
            f"foveal train --resume {folder.path}"
        ) from error
