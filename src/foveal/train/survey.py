"""A data set looked at as a whole, with the settings of a run: bad rows, its table, golds graded."""

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from foveal.config import RunConfig
from foveal.data.checks import Findings, Looked, Plan, look
from foveal.data.problems import DataSource, FileProblems
from foveal.data.selection import Selected
from foveal.data.summary import Summary, named
from foveal.data.verdicts import Verdicts
from foveal.policy.processing import Processor
from foveal.policy.reader import load_processor
from foveal.rewards.golds import check_golds
from foveal.rewards.grading import Grader
from foveal.train.setup import open_problems, resolve_model
from foveal.train.usable import cache_name, gradable_by
from foveal.types import Problem

GRADED_AT_ONCE = 256
"""Answers that the grading workers get at once."""

MADE_ROWS = 1000
"""Problems looked at where they are made on access (worlds)."""

Bar = Callable[[str], AbstractContextManager[Callable[[int, int], None]]]
"""A progress bar with a title, told (done, of)."""


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What was found in a data set."""

    findings: Findings
    table: dict[str, Any]
    """See `foveal.data.summary.lines_of`."""


def survey(config: RunConfig, *, bar: Bar, against: DataSource | None = None, name: str = "") -> Survey:
    """Look at all rows of the config's data, and at those of `against` (called `name`) for what both hold.

    Raises: FovealError for data or a model that cannot be read at all.
    """
    processor = load_processor(resolve_model(config.model.path))
    problems = open_problems(config.data)
    summary, good = Summary(), list[int]()

    def observe(looked: Looked) -> None:
        summary.observe(looked)
        good.append(looked.row)

    with bar("looking at the rows") as tick:
        found = _look(problems, config, config.data, processor, observe=observe, progress=tick)
    table = summary.table(found, limit=config.sampling.max_prompt_tokens)
    with bar("grading the answers") as tick:
        table["golds"] = _golds(problems, good, config, progress=tick)
    if against is not None:
        other, theirs = Summary(), open_problems(against)
        with bar("looking at the other data") as tick:
            compared = _look(theirs, config, against, processor, observe=other.observe, progress=tick)
        table["overlap"] = {"with": name, "rows": compared.looked, **summary.overlap(other)}
    return Survey(findings=found, table=table)


def _look(
    problems: Sequence[Problem],
    config: RunConfig,
    source: DataSource,
    processor: Processor,
    *,
    observe: Callable[[Looked], None],
    progress: Callable[[int, int], None],
) -> Findings:
    rows = len(problems)
    looked = range(rows if isinstance(problems, FileProblems) else min(rows, MADE_ROWS))
    plan = Plan(
        opened=looked,
        decoded=looked,
        length=processor.prompt_length,
        limit=config.sampling.max_prompt_tokens,
        gradable=gradable_by(config.rewards),
    )
    verdicts = Verdicts(cache_name(source))
    found = look(problems, plan, verdicts, progress=progress, observe=observe)
    verdicts.save()
    return found


def _golds(
    problems: Sequence[Problem],
    rows: Sequence[int],
    config: RunConfig,
    *,
    progress: Callable[[int, int], None],
) -> dict[str, Any]:
    """How many answers are graded right by the rewards of the run, each in a box, and which not."""
    graded, wrong = 0, list[str]()
    with Grader(config.rewards, config.grading, used=config.objective.uses_rewards) as grader:
        for start in range(0, len(rows), GRADED_AT_ONCE):
            part = Selected(problems, rows[start : start + GRADED_AT_ONCE])
            found = check_golds(grader, part, sample=len(part), budget_s=math.inf)
            graded += found.checked
            wrong += [gold.id for gold in found.bad]
            progress(start + len(part), len(rows))
    return {"graded": graded, "wrong": named(wrong)}
