"""The rows that a run can use: found before its first step, kept in its folder, the same again on resume."""

import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from foveal.config import RunConfig
from foveal.data.bad_rows import WAY_OUT, described, in_words, refuse
from foveal.data.checks import SAMPLED_ROWS, Findings, Plan, look, spread
from foveal.data.errors import DataError
from foveal.data.problems import DataSource, FileProblems
from foveal.data.selection import BAD_ROWS_FILE, ROWS_FILE, Choice, choice_files, parse_choices
from foveal.data.verdicts import Verdicts
from foveal.policy.processing import Processor
from foveal.rewards.tasks import Task
from foveal.spec import FovealError
from foveal.train.record import write_text
from foveal.types import Problem, Reward

CHECKED_PROBLEMS = 64
"""Problems looked at where they are made on access (worlds), which are right by construction; all of a file's
are."""

TOLD_EVERY_S = 10.0
"""Seconds between two lines about how far the check is."""

TRAIN, VALIDATION = "train", "validation"
"""Parts of a run's data, as data.json and bad_rows.jsonl name them."""


@dataclass(frozen=True, kw_only=True)
class Usable:
    """Problems that can be used, and which those are."""

    problems: Sequence[Problem]
    longest: int
    """Tokens of the longest prompt."""
    choice: Choice


def check_problems(
    problems: Sequence[Problem],
    processor: Processor,
    config: RunConfig,
    source: DataSource,
    *,
    message: Callable[[str], None],
    kept: Choice | None = None,
) -> Usable:
    """Find every row of a data table that would stop a run later: by its text, id, pictures (decoded), the
    length of its prompt, or an answer that no reward can grade.

    The problems are those of `source`, which says what happens to bad rows and which pictures are decoded.
    `kept` is the choice of a run that goes on: the same rows are left out, and no other.
    Raises: DataError, naming all bad rows, unless they are left out.
    """
    rows = len(problems)
    known = isinstance(problems, FileProblems | list | tuple)
    checked = range(rows) if known else range(min(rows, CHECKED_PROBLEMS))
    wanted = getattr(source, "check_pictures", "all")
    plan = Plan(
        opened=checked,
        decoded={"all": checked, "sample": spread(SAMPLED_ROWS, rows), "headers": ()}[wanted],
        length=processor.prompt_length,
        limit=config.sampling.max_prompt_tokens,
        gradable=gradable_by(config.rewards if config.grading.check_golds else ()),
    )
    verdicts = Verdicts(cache_name(source))
    found = look(problems, plan, verdicts, progress=_Told(message))
    verdicts.save()
    choice = _chosen(found, source, kept=kept)
    if choice.bad:
        message(
            f"{len(choice.bad):,} of {rows:,} rows cannot be used and are left out ({in_words(choice.bad)})"
        )
    message(f"{found.looked:,} prompts checked; the longest has {found.longest} tokens ({found.longest_id})")
    return Usable(problems=choice.of(problems), longest=found.longest, choice=choice)


def _chosen(found: Findings, source: DataSource, *, kept: Choice | None) -> Choice:
    """The rows to use; on resume those of before, or a refusal."""
    skip = getattr(source, "bad_rows", "refuse") == "skip"
    if kept is None:
        if not skip:
            refuse(found.bad, found.rows, way_out=way_out(source))
        return Choice(rows=found.rows, bad=found.bad, ids=found.ids)
    if (found.rows, found.ids) != (kept.rows, kept.ids):
        what = f"{kept.rows:,} rows then, {found.rows:,} now" if found.rows != kept.rows else "other ids"
        raise DataError(
            f"the data is not what the run began with ({what}), so that it cannot go on with the problems "
            "that come next; put the earlier data back, or start a new run"
        )
    before = {row.row for row in kept.bad}
    broken = [row for row in found.bad if row.row not in before]
    if broken:
        text = described(broken, found.rows, way_out="")
        raise DataError(
            f"rows that the run has used until now cannot be used any more; bring them back, or start a new "
            f"run: {text}"
        )
    return kept


def gradable_by(rewards: Sequence[Reward]) -> Callable[[Problem], bool]:
    """Whether any reward that decides what is right can read a problem's answer, as far as that is plain at
    once: what takes algebra, a judge or code of the user's counts as gradable.
    """
    # A function of the user's may say of itself that it decides what is right.
    judges = [reward for reward in rewards if reward.is_accuracy or getattr(reward, "accuracy", False)]

    def gradable(problem: Problem) -> bool:
        return not judges or any(_reads(reward, problem) for reward in judges)

    return gradable


def _reads(reward: Reward, problem: Problem) -> bool:
    settle: Callable[[Problem, str], float | None | Task] | None = getattr(reward, "settle", None)
    if settle is None:
        return True
    try:
        return settle(problem, f"<think></think>\\boxed{{{problem.answer}}}") is not None
    except Exception:  # a fault of the reward is no fault of the row; grading counts it
        return True


def cache_name(source: DataSource | None) -> str | None:
    """Under which name verdicts on pictures are kept: the data's place; None for what has none."""
    path = getattr(source, "path", None)
    if not isinstance(path, str):
        return None
    place = Path(path).expanduser()
    return "\0".join((str(place.absolute() if place.exists() else path), str(getattr(source, "split", None))))


def way_out(source: DataSource) -> str:
    """What a message about bad rows ends with."""
    path = getattr(source, "path", None)
    return WAY_OUT.replace("DATA", shlex.quote(path)) if isinstance(path, str) else ""


class _Told:
    """Says how far a check is, where it takes long."""

    def __init__(self, message: Callable[[str], None]) -> None:
        self._message, self._began = message, time.monotonic()
        self._last = self._began

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self._last < TOLD_EVERY_S or done == total:
            return
        self._last = now
        rate = done / (now - self._began)
        self._message(
            f"checking the data: {done:,} of {total:,} rows, {rate:.0f} per second, "
            f"{(total - done) / rate / 60:.1f} minutes left"
        )


def read_choices(run: Path) -> dict[str, Choice]:
    """The rows that a run folder says it uses, by part; none for a run that never wrote them.

    Raises: FovealError, when they cannot be read.
    """
    if not (run / ROWS_FILE).is_file():
        return {}
    bad = run / BAD_ROWS_FILE
    try:
        return parse_choices(
            (run / ROWS_FILE).read_text(encoding="utf-8"),
            bad.read_text(encoding="utf-8") if bad.is_file() else "",
        )
    except (OSError, ValueError, TypeError) as error:
        raise FovealError(
            f"{run / ROWS_FILE} and {BAD_ROWS_FILE} cannot be read: {error}; without them the run cannot go "
            "on with the same rows; restore them, or start a new run"
        ) from error


def write_choices(run: Path, choices: Mapping[str, Choice | None]) -> None:
    """Write them into a run folder, the list of bad rows first: data.json is the one that is read."""
    made = {part: choice for part, choice in choices.items() if choice is not None}
    for name, content in reversed(choice_files(made).items()):
        if not (run / name).is_file() or (run / name).read_text(encoding="utf-8") != content:
            write_text(run / name, content)
