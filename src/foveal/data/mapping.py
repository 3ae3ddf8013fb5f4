"""From opened rows and a config to an understanding: the sample, the ids, and the notes about both."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from foveal.data.columns import MAX_ID
from foveal.data.errors import listing
from foveal.data.layouts import Source, Table, Understanding, understand
from foveal.data.layouts import names as usual
from foveal.data.layouts.conversations import turns_of
from foveal.data.readers import Rows

if TYPE_CHECKING:
    from foveal.data.problems import DataConfig

SAMPLE = 512
"""Rows that the rules look at, evenly spread."""
SAMPLE_TEXT = 1 << 16
"""Characters of a cell that they see: pictures in base64 have millions."""
FEW_BAD_IDS = 0.1
"""Share of rows without an id, or with another's, up to which a column still names the rows."""
WHOLE_SAMPLE = 16
"""Rows read with their picture bytes, where a column of turns has them."""


def understand_rows(rows: Rows, config: "DataConfig") -> Understanding:
    """The mapping of opened rows. Raises: DataError naming the one option to set."""
    table = Table(
        where=config.path,
        names=rows.columns,
        sample=_sample(rows),
        heavy=rows.heavy,
        classes=rows.classes,
        chosen={
            "question": config.question_column,
            "images": config.images_column,
            "answer": config.answer_column,
            "id": config.id_column,
            "choices": config.choices_column,
        },
        text_only=config.text_only,
        answer_kind=config.answer_kind,
    )
    found = understand(table)
    identity, notes = _identity(rows, table)
    return replace(
        found,
        sources=tuple(_told(one, config, table) for one in (*found.sources, identity)),
        notes=(*found.notes, *notes, *_notes(found, table, config)),
    )


def own_columns(understood: Understanding) -> frozenset[str]:
    """Columns that stay out of `Problem.meta`: those of the question, the pictures, the options and the id.

    The answer's column stays in, as the file has it: rewards that are plain functions ask for it by its name.
    """
    fields = ("question", "images", "choices", "id", "system", "hint")
    used = {column for one in understood.sources if one.field in fields for column in one.columns}
    if understood["answer"].kind != "reply":
        used -= set(understood["answer"].columns)
    return frozenset(used)


def _sample(rows: Rows) -> Sequence[Mapping[str, Any]]:
    count = min(len(rows), SAMPLE)
    places = [n * len(rows) // count for n in range(count)]
    sample: list[dict[str, Any]] = [
        {key: _cut(cell) for key, cell in rows.cells(place).items()} for place in places
    ]
    turns = [name for name in rows.heavy if name.casefold() in (*usual.TURNS_FIRST, *usual.TURNS)]
    for row, place in list(zip(sample, places, strict=True))[:WHOLE_SAMPLE]:
        row.update({name: rows.pictures(place, name) for name in turns})
    return sample


def _cut(cell: object) -> object:
    return cell[:SAMPLE_TEXT] if isinstance(cell, str) else cell


def _identity(rows: Rows, table: Table) -> tuple[Source, tuple[str, ...]]:
    """The column of ids: the user's, or the first usual one without gaps and duplicates."""
    named = table.chosen.get("id")
    rule = Source(field="id", kind="rows", steps=("file and row",), reason="no column of unique ids")
    if named is False:
        return replace(rule, reason="id_column = false"), ()
    if isinstance(named, str) and named:
        column = table.named("id") or named
        return Source(field="id", kind="text", columns=(column,), reason="named by id_column"), ()
    notes: list[str] = []
    for name in usual.ID:
        own = table.own(name)
        if own is None:
            continue
        wrong = _unfit(rows.values(own))
        if wrong is None:
            return Source(field="id", kind="text", columns=(own,), reason="a usual name"), tuple(notes)
        notes.append(f"{own} {wrong}, so it does not name the rows")
    return rule, tuple(notes)


def _unfit(values: Sequence[object]) -> str | None:
    """Why a column does not name the rows; None when it does, but for a few of them.

    A few gaps or duplicates are faults of their rows, which the checks name; with many it is no id.
    """
    total = len(values)
    gaps = sum(value is None or value == "" for value in values)
    if gaps > total * FEW_BAD_IDS:
        return f"is empty in {gaps} of {total} rows"
    usable = [value for value in values if isinstance(value, str | int) and not isinstance(value, bool)]
    if len(usable) < (total - gaps) / 2:
        return "holds more than text and whole numbers"
    if any(isinstance(value, str) and len(value) > MAX_ID for value in usable):
        return f"has more than {MAX_ID} characters"
    if any(isinstance(value, int) and abs(value) >= 1 << 256 for value in usable):
        return "has numbers of many digits"
    twice = len(usable) - len({str(value) for value in usable})
    return f"has {twice} duplicates in {total} rows" if twice > total * FEW_BAD_IDS else None


def _told(source: Source, config: "DataConfig", table: Table) -> Source:
    """The source with the steps that the config, the classes and the answers' form add."""
    steps, classes = list(source.steps), table.classes
    if source.field == "choices" and source.kind != "none":
        steps.append("behind the question where it lacks them" if config.show_options else "not shown")
    if source.field == "answer":
        if source.columns[0] in classes:
            steps.append(f"class names ({listing(classes[source.columns[0]], limit=4)})")
        if any(_is_marked(value) for value in table.values(source.columns[0])):
            steps.append("what stands in the tags or the box")
    return replace(source, steps=tuple(steps))


def _is_marked(value: object) -> bool:
    """Whether an answer, or the reply of a conversation, has tags or a box around what it states."""
    texts = [value] if isinstance(value, str) else [turn.get("content") for turn in turns_of(value) or ()]
    return any(isinstance(text, str) and ("</answer>" in text or "\\boxed" in text) for text in texts)


def _notes(found: Understanding, table: Table, config: "DataConfig") -> list[str]:
    notes = []
    unread = [own for name in usual.CHOICES if (own := table.own(name)) and table.values(own)]
    if unread and found["choices"].kind == "none":
        notes.append(f"{unread[0]} holds no options that can be read, so the model is not shown any")
    images = found["images"]
    if images.kind == "cells" and len(images.columns) == 1 and images.columns[0] not in table.heavy:
        empty = len(table.sample) - len(table.values(images.columns[0]))
        if empty:
            way = "taken" if config.text_only else "refused; set text_only = true to take them"
            notes.append(f"{empty} of {len(table.sample)} rows looked at have no picture: {way}")
    return notes
