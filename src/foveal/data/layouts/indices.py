"""Answers that are numbers of options: counted from 0 or from 1, and only where that is certain."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from foveal.data.errors import DataError
from foveal.data.layouts import names as usual
from foveal.data.layouts.options import Options, read_options
from foveal.data.layouts.understanding import Source, value_at

if TYPE_CHECKING:
    from foveal.data.layouts.detect import Table

KINDS = {"text": "value", "index": "index", "index_from_1": "index_from_1"}
STEPS = {"index": "a number of an option, from 0", "index_from_1": "a number of an option, from 1"}


def options_at(cells: Any, choices: Source) -> Options | None:  # noqa: ANN401
    """The options of a row."""
    if choices.kind == "cell":
        return read_options(value_at(cells, choices.columns[0]))
    if choices.kind == "columns":
        filled = [cells.get(name) for name in choices.columns]
        return read_options([value for value in filled if value is not None and str(value).strip()])
    return None


def whole(value: object) -> int | None:
    """A whole number, or text of a short one."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value if abs(value) < 1_000_000 else None
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e6:
        return int(value)
    if (
        isinstance(value, str)
        and value.strip().isascii()
        and value.strip().isdigit()
        and len(value.strip()) < 4
    ):
        return int(value)
    return None


def index_rule(table: "Table", answer: Source, choices: Source) -> Source:
    """The answer's source with how its numbers are read.

    A number is the place of an option only where no other reading fits the sample: some numbers are not the
    text of an option, and a 0 or an n shows from where they count.
    Raises: DataError, where two readings fit, naming the one option to set.
    """
    if answer.kind != "value" or choices.kind == "none":
        return answer
    if table.answer_kind != "auto":
        return _as(answer, KINDS[table.answer_kind])
    column = answer.columns[0]
    if column in table.classes:
        return answer
    pairs = [
        (number, options)
        for row in table.sample
        if (options := options_at(row, choices)) is not None
        and not options.given  # a number is a label of the file there
        and (number := whole(value_at(row, column))) is not None
    ]
    if not pairs or not _all_numbers(table, column, choices):
        return answer
    text = all(str(number) in options.texts for number, options in pairs)
    zero = all(0 <= number < len(options.texts) for number, options in pairs)
    one = all(1 <= number <= len(options.texts) for number, options in pairs)
    from_zero = zero and (not one or column.rpartition(".")[2] in usual.INDEX_NAMES)
    written = all(isinstance(value, str) for value in table.values(column))
    if text and (written or not (zero or one)):
        return answer  # numbers written as text, each the text of an option, are these
    if text and all(_same(number, options, zero) for number, options in pairs):
        return answer
    if not text and (from_zero or (one and not zero)):
        return _as(answer, "index" if from_zero else "index_from_1")
    if not text and not zero and not one:
        return answer
    low, high = min(n for n, _ in pairs), max(n for n, _ in pairs)
    raise DataError(
        f"{table.where}: the answers in {column} are numbers from {low} to {high} beside options, which can "
        "be read in more than one way; set answer_kind = 'index' (the options are counted from 0), "
        "'index_from_1' or 'text' (the number is the answer itself)"
    )


def _all_numbers(table: "Table", column: str, choices: Source) -> bool:
    """Whether every answer of a row with options is a number: among letters, none is a place."""
    rows = [row for row in table.sample if options_at(row, choices) is not None]
    return all(whole(value_at(row, column)) is not None for row in rows if value_at(row, column) is not None)


def _same(number: int, options: Options, zero: bool) -> bool:
    """Whether the place and the text name the same option, so that the reading does not matter."""
    place = number if zero else number - 1
    return options.texts[place] == str(number)


def _as(answer: Source, kind: str) -> Source:
    steps = (*answer.steps, STEPS[kind]) if kind in STEPS else answer.steps
    return replace(answer, kind=kind, steps=steps)
