"""Answers that are numbers of options: counted from 0 or from 1, and only where that is certain."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from foveal.data.bounded import list_items
from foveal.data.errors import DataError
from foveal.data.layouts import names as usual
from foveal.data.layouts.options import BLANK, Options, is_blank, read_options
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
        return read_options([cells.get(name) for name in choices.columns])
    return None


def unread_options(cells: Any, choices: Source) -> object:  # noqa: ANN401
    """The cell, or the row's cells, that should hold options and cannot be read; None where there is none."""
    if choices.kind == "none" or options_at(cells, choices) is not None:
        return None
    found = [value_at(cells, column) for column in choices.columns]
    filled = [value for value in found if not is_blank(value) and not _says_nothing(value)]
    return (filled[0] if choices.kind == "cell" else filled) if filled else None


def _says_nothing(value: object) -> bool:
    if not isinstance(value, str):
        return False
    items = list_items(value)
    return "".join(value.split()).casefold() in BLANK or (items is not None and is_blank(items))


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
    text of an option, and a 0 or an n shows from where they count. A few rows that fit no reading do not
    change it.
    Raises: DataError, where two readings fit, naming the one option to set.
    """
    if answer.kind != "value" or choices.kind == "none":
        return answer
    if table.answer_kind in KINDS:
        return _as(answer, KINDS[table.answer_kind])
    column = answer.columns[0]
    if column in table.classes:
        return answer
    rows = [(value_at(row, column), options_at(row, choices)) for row in table.sample]
    asked = [(value, options) for value, options in rows if value is not None and options is not None]
    pairs = [
        (number, options)
        for value, options in asked
        if not options.given and (number := whole(value)) is not None  # given: a label of the file
    ]
    if 2 * len(pairs) <= len(asked):
        return answer  # among letters or words, a number is no place
    fits = _fits(pairs, written=all(isinstance(value, str) for value in table.values(column)))
    if fits == {"value"} or not fits:
        return answer
    if column.rpartition(".")[2] in usual.INDEX_NAMES and fits == {"index", "index_from_1"}:
        fits = {"index"}
    if len(fits) == 1:
        return _as(answer, fits.pop())
    low, high = min(n for n, _ in pairs), max(n for n, _ in pairs)
    raise DataError(
        f"{table.where}: the answers in {column} are numbers from {low} to {high} beside options, which can "
        "be read in more than one way; set answer_kind = 'index' (the options are counted from 0), "
        "'index_from_1' or 'text' (the number is the answer itself)"
    )


def _fits(pairs: list[tuple[int, Options]], *, written: bool) -> set[str]:
    """The readings that the numbers allow: "value", "index", "index_from_1"; none where no reading fits.

    Those that fit every row; where none does, the one that fits most rows, if every other has at least twice
    as many misfits: the rows that it does not fit are then faults of their own.
    """
    misfits = {
        "value": sum(str(number) not in options.texts for number, options in pairs),
        "index": sum(options.at(number) is None for number, options in pairs),
        "index_from_1": sum(options.at(number - 1) is None for number, options in pairs),
    }
    fits = {kind for kind, count in misfits.items() if count == 0}
    if not fits:
        least = min(misfits.values())
        if 2 * least >= len(pairs):
            return set()
        fits = {kind for kind, count in misfits.items() if count < max(2 * least, 1)}
    if "value" in fits and (written or all(_same(number, options, fits) for number, options in pairs)):
        return {"value"}  # numbers written as text, each the text of an option, are these
    return fits


def _same(number: int, options: Options, fits: set[str]) -> bool:
    """Whether the place and the text name the same option, so that the reading does not matter."""
    label = options.at(number if "index" in fits else number - 1)
    return label is None or options.texts[options.labels.index(label)] == str(number)


def _as(answer: Source, kind: str) -> Source:
    steps = (*answer.steps, STEPS[kind]) if kind in STEPS else answer.steps
    return replace(answer, kind=kind, steps=steps)
