"""Finds every mistake of the data at start, not in the middle of training."""

from collections.abc import Callable, Sequence

from foveal.data.columns import answer_text, question_text
from foveal.data.errors import DataError
from foveal.data.problems import FileProblems
from foveal.types import IMAGE_MARK, Problem

SHOWN = 8
"""Mistakes written out in a message; the rest is counted."""


def validate(
    problems: Sequence[Problem],
    *,
    sample: int | None = None,
    decode: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Check all rows' text, answer, marks and id, and the pictures' headers; tell of all mistakes at once.

    `sample` limits the pictures to so many rows, evenly spread; `decode` decodes these fully, which also
    finds files that break off. Problems that are not read from files (worlds) are made for these rows only,
    being right by construction elsewhere. `progress` is called with (rows done, rows).
    Raises: DataError naming the rows.
    """
    total = len(problems)
    if total == 0:
        raise DataError("the data has no rows; expected one row a problem")
    count = total if sample is None else min(max(sample, 0), total)
    opened = {n * total // count for n in range(count)} if count else set()
    mistakes: list[str] = []
    seen: dict[str, int] = {}
    for index in range(total):
        try:
            if isinstance(problems, FileProblems):
                _check_row(problems, index, seen, pictures=index in opened, decode=decode)
            elif index in opened:
                _check_problem(problems[index], index, seen)
        except DataError as error:
            mistakes.append(str(error))
        if progress is not None:
            progress(index + 1, total)
    if mistakes:
        more = [f"and {len(mistakes) - SHOWN} more"] if len(mistakes) > SHOWN else []
        head = f"{len(mistakes)} of {total} rows cannot be used:" if total > 1 else "the row cannot be used:"
        raise DataError("\n  ".join([head, *mistakes[:SHOWN], *more]))


def _check_row(
    problems: FileProblems, index: int, seen: dict[str, int], *, pictures: bool, decode: bool
) -> None:
    problem = problems.text(index)
    first = seen.setdefault(problem.id, index)
    if first != index:
        raise DataError(
            f"{problems.where(index)}: the id {problem.id!r} is also that of {problems.where(first)}; "
            "make ids unique, or set id_column to another column"
        )
    if pictures and decode:
        problems[index]
    elif pictures:
        problems.sizes(index)


def _check_problem(problem: Problem, index: int, seen: dict[str, int]) -> None:
    where = f"problem {index} ({problem.id})"
    question_text(problem.question, column="question", where=where)
    answer_text(problem.answer, column="answer", where=where)
    marks = problem.marks
    if marks != len(problem.images):
        raise DataError(
            f"{where}: the question has {marks} {IMAGE_MARK} marks but {len(problem.images)} pictures; "
            "write exactly one for each picture"
        )
    first = seen.setdefault(problem.id, index)
    if first != index:
        raise DataError(f"{where}: problem {first} has the same id; make ids unique")
