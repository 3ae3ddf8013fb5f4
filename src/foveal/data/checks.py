"""Finds every row that would stop a run, before the run starts: text, ids, pictures, length, answer."""

import os
import warnings
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from foveal.data.bad_rows import BadRow, refuse
from foveal.data.columns import answer_text, question_text
from foveal.data.errors import DataError, of_kind
from foveal.data.problems import FileProblems
from foveal.data.selection import Ids
from foveal.data.verdicts import Seen, Verdicts, examine, in_memory
from foveal.spec import FovealError
from foveal.types import IMAGE_MARK, Problem

SAMPLED_ROWS = 1000
"""Rows whose pictures are decoded with check_pictures = "sample"."""

MOST_WORKERS = 8
"""Threads that decode pictures: Pillow lets go of the interpreter's lock while it does."""

AHEAD = 16
"""Rows for each thread whose pictures are being decoded while earlier rows are looked at."""

Sizes = Sequence[tuple[int, int]]
Length = Callable[[Problem, Sizes], int]
"""Tokens of a problem's prompt whose pictures have these sizes, or a FovealError."""


@dataclass(frozen=True, kw_only=True)
class Looked:
    """A row that can be used."""

    row: int
    problem: Problem
    """Without its pictures, where they lie in a file."""
    pictures: tuple[Seen, ...]
    length: int | None
    """Tokens of its prompt; None where nothing measures them."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What of the rows is looked at."""

    opened: Collection[int]
    """Rows whose pictures' headers are read."""
    decoded: Collection[int]
    """Rows whose pictures are decoded."""
    length: Length | None = None
    limit: int | None = None
    """Most tokens of a prompt."""
    gradable: Callable[[Problem], bool] = lambda problem: True
    """Whether some reward can grade the answer."""
    workers: int = field(default_factory=lambda: worker_count())


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What was found in a data set."""

    rows: int
    looked: int
    """Rows looked at; fewer than `rows` where problems must be made to be looked at."""
    bad: tuple[BadRow, ...]
    ids: str
    """Hash of all ids in order."""
    lengths: tuple[int, ...] = ()
    """Tokens of all prompts that could be measured."""
    longest: int = 0
    """Tokens of the longest prompt that can be used."""
    longest_id: str = ""


def worker_count() -> int:
    """Threads for pictures: the cores this process may use, up to MOST_WORKERS."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(MOST_WORKERS, allowed))


def spread(count: int, total: int) -> set[int]:
    """`count` of `total` rows, evenly spread."""
    count = min(max(count, 0), total)
    return {n * total // count for n in range(count)} if count else set()


def validate(
    problems: Sequence[Problem],
    *,
    sample: int | None = None,
    decode: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Check all rows' text, answer, marks and id, and the pictures' headers; tell of all bad rows at once.

    `sample` limits the pictures to so many rows, evenly spread; `decode` decodes these fully, which also
    finds files that break off. Problems that are not read from files (worlds) are made for these rows only,
    being right by construction elsewhere. `progress` is called with (rows done, rows).
    Raises: DataError naming the rows.
    """
    opened = range(len(problems)) if sample is None else spread(sample, len(problems))
    plan = Plan(opened=opened, decoded=opened if decode else ())
    found = look(problems, plan, Verdicts(None), progress=progress)
    refuse(found.bad, found.rows, way_out="")


def look(
    problems: Sequence[Problem],
    plan: Plan,
    verdicts: Verdicts,
    *,
    progress: Callable[[int, int], None] | None = None,
    observe: Callable[[Looked], None] = lambda looked: None,
) -> Findings:
    """Look at the rows in order; `observe` is called with each that can be used.

    Pictures are decoded by threads, some rows ahead. For each row the first fault is reported.
    Raises: DataError for data without rows.
    """
    total = len(problems)
    if total == 0:
        raise DataError("the data has no rows; expected one row a problem")
    rows: _Rows = (
        _FileRows(problems, plan) if isinstance(problems, FileProblems) else _MadeRows(problems, plan)
    )
    bad: list[BadRow] = []
    ids, seen = Ids(), dict[str, int]()
    lengths: list[int] = []
    longest, longest_id, looked = 0, "", 0
    with warnings.catch_warnings():
        # Odd but harmless EXIF data and the like, thousands of times.
        warnings.filterwarnings("ignore", module=r"PIL\.")
        for place, seeing in _ahead(rows, plan, verdicts):
            identifier: str | None = None
            try:
                identifier = rows.identifier(place)
                found = _judge(rows, place, seeing, seen, identifier, plan, lengths)
                if (found.length or 0) > longest:
                    longest, longest_id = found.length or 0, identifier
                observe(found)
            except FovealError as error:
                bad.append(BadRow.of(error, row=place, where=rows.where(place), id=identifier))
            ids.add(identifier)
            looked += 1
            if progress is not None:
                progress(place + 1, total)
    return Findings(
        rows=total,
        looked=looked,
        bad=tuple(bad),
        ids=ids.result(),
        lengths=tuple(lengths),
        longest=longest,
        longest_id=longest_id,
    )


def _ahead(
    rows: "_Rows", plan: Plan, verdicts: Verdicts
) -> Iterator[tuple[int, Callable[[], tuple[Seen, ...]]]]:
    """Each row's place with what gives its pictures, those of later rows begun."""
    waiting: deque[tuple[int, Future[tuple[Seen, ...]]]] = deque()
    with ThreadPoolExecutor(plan.workers, thread_name_prefix="checks") as pool:
        try:
            for place in rows.places:
                waiting.append((place, pool.submit(rows.pictures, place, verdicts)))
                if len(waiting) > AHEAD * plan.workers:
                    done, begun = waiting.popleft()
                    yield done, begun.result
            while waiting:
                done, begun = waiting.popleft()
                yield done, begun.result
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _judge(
    rows: "_Rows",
    place: int,
    seeing: Callable[[], tuple[Seen, ...]],
    seen: dict[str, int],
    identifier: str,
    plan: Plan,
    lengths: list[int],
) -> Looked:
    """Raises: FovealError with the first fault of a row. `lengths` gets the length of its prompt."""
    where = rows.where(place)
    first = seen.setdefault(identifier, place)
    if first != place:
        raise DataError(
            f"{where}: the id {identifier!r} is also that of {rows.where(first)}; "
            f"make ids unique{rows.otherwise}",
            kind="duplicate_id",
        )
    problem, pictures = rows.whole(place, seeing())
    length = None
    if plan.length is not None and place in plan.opened:
        sizes = [picture.size for picture in pictures]
        try:
            length = plan.length(problem, sizes)
        except FovealError as error:
            raise DataError(f"{where}: {error}", kind="picture" if sizes else "question") from error
        except (ValueError, TypeError) as error:  # text that the tokenizer does not take
            raise DataError(
                f"{where}: the question cannot be turned into tokens: {error}; correct it or remove the row",
                kind="question",
            ) from error
        lengths.append(length)
        if plan.limit is not None and length > plan.limit:
            shown = ", ".join(f"{width} x {height}" for width, height in sizes) or "none"
            raise DataError(
                f"{where}: problem {identifier!r}: its prompt has {length} tokens, visual ones counted "
                f"(pictures: {shown} pixels), more than sampling.max_prompt_tokens = {plan.limit}; raise it, "
                "use smaller pictures, or drop the row",
                kind="overlong",
            )
    if not plan.gradable(problem):
        raise DataError(
            f"{where}: no reward of the run can grade the answer {problem.answer[:80]!r}; correct it, or "
            "choose another reward",
            kind="ungradable",
        )
    return Looked(row=place, problem=problem, pictures=pictures, length=length)


class _FileRows:
    """Rows of files, with pictures that are opened one by one."""

    otherwise = ", or set id_column to another column"

    def __init__(self, problems: FileProblems, plan: Plan) -> None:
        self._problems, self._plan = problems, plan
        self.places = range(len(problems))

    def identifier(self, place: int) -> str:
        return self._problems.identifier(place)

    def where(self, place: int) -> str:
        return self._problems.where(place)

    def pictures(self, place: int, verdicts: Verdicts) -> tuple[Seen, ...]:
        if place not in self._plan.opened:
            return ()
        decoded, limits = place in self._plan.decoded, self._problems.limits
        try:
            stored = self._problems.pictures(place)
            with of_kind("picture"):
                return tuple(examine(one, limits, verdicts, decoded=decoded) for one in stored)
        except DataError:
            raise
        except Exception as error:  # a decoder raises whatever it trips over
            raise DataError(
                f"{self.where(place)}: a picture cannot be decoded: {type(error).__name__}: {error}; repair "
                "or remove it",
                kind="picture",
            ) from error

    def whole(self, place: int, pictures: tuple[Seen, ...]) -> tuple[Problem, tuple[Seen, ...]]:
        opened = place in self._plan.opened
        return self._problems.text(place, pictures=len(pictures) if opened else None), pictures


class _MadeRows:
    """Problems that are made on access, or have been, with their pictures in memory."""

    otherwise = ""

    def __init__(self, problems: Sequence[Problem], plan: Plan) -> None:
        self._problems, self._plan = problems, plan
        self.places = sorted(plan.opened)
        self._made: tuple[int, Problem] | None = None
        """The one looked at: making it again would cost as much again."""

    def identifier(self, place: int) -> str:
        return self._problem(place).id

    def where(self, place: int) -> str:
        made = self._made is not None and self._made[0] == place
        return f"problem {place} ({self._problem(place).id})" if made else f"problem {place}"

    def pictures(self, place: int, verdicts: Verdicts) -> tuple[Seen, ...]:
        # Made in one thread: a sequence of someone else's need not stand several.
        return ()

    def whole(self, place: int, pictures: tuple[Seen, ...]) -> tuple[Problem, tuple[Seen, ...]]:
        problem, where = self._problem(place), self.where(place)
        question_text(problem.question, column="question", where=where)
        answer_text(problem.answer, column="answer", where=where)
        marks = problem.marks
        if marks != len(problem.images):
            raise DataError(
                f"{where}: the question has {marks} {IMAGE_MARK} marks but {len(problem.images)} pictures; "
                "write exactly one for each picture",
                kind="marks",
            )
        decoded = place in self._plan.decoded
        return problem, tuple(in_memory(image, where=where, decoded=decoded) for image in problem.images)

    def _problem(self, place: int) -> Problem:
        if self._made is None or self._made[0] != place:
            self._made = place, self._problems[place]
        return self._made[1]


_Rows = _FileRows | _MadeRows
