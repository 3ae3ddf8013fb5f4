"""What was understood of a file: for each field of a problem, where it comes from, what is done with it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from foveal.data.bounded import json_value

Field = Literal["question", "images", "answer", "choices", "id", "system", "hint"]


@dataclass(frozen=True, kw_only=True)
class Source:
    """One field of a problem.

    `kind` is how its cells are read: question "text", "turns" or "fixed"; images "cells" or "turns"; answer
    "value", "reply", "index" or "index_from_1"; choices "cell" or "columns"; "none" where the data has none.
    """

    field: Field
    kind: str
    columns: tuple[str, ...] = ()
    """Columns, or paths into tables such as `reward_model.ground_truth`; of a question's the first filled one
    counts."""
    steps: tuple[str, ...] = ()
    """What is done with the cells, for a person."""
    reason: str = ""
    """Why these columns."""


@dataclass(frozen=True, kw_only=True)
class Understanding:
    """The mapping from a file's rows to problems; printed by `foveal data show`."""

    layout: str
    """The name of the layout where it is a known one, else "columns"."""
    sources: tuple[Source, ...]
    notes: tuple[str, ...] = ()
    """What a person should know: a column that was passed over, a rule that was applied."""

    def __getitem__(self, field: Field) -> Source:
        """The source of a field; of kind "none" where the data has none."""
        return next((one for one in self.sources if one.field == field), Source(field=field, kind="none"))

    def lines(self) -> list[str]:
        """One line per field (columns, steps, reason), then the notes."""
        shown = [one for one in self.sources if one.kind != "none"]
        wide = max((len(", ".join(one.columns)) for one in shown), default=0)
        lines = [f"layout    {self.layout}"]
        for one in shown:
            columns = ", ".join(one.columns) or "-"
            what = "; ".join(one.steps) or "as it is"
            lines.append(f"{one.field:<9} {columns:<{min(wide, 40)}}  {what} ({one.reason})")
        return lines + [f"note      {note}" for note in self.notes]


def value_at(cells: Mapping[str, Any], path: str) -> Any:  # noqa: ANN401
    """The cell of a column, or inside it by a path with dots; None where there is none.

    A table that is stored as JSON text is read. A column whose own name has dots goes first.
    """
    if path in cells:
        return cells[path]
    cut = path.find(".")
    while cut > 0:
        inner: Any = cells.get(path[:cut])
        if isinstance(inner, str) and inner.lstrip().startswith("{"):
            inner = json_value(inner)
        if isinstance(inner, Mapping):
            return value_at(inner, path[cut + 1 :])
        cut = path.find(".", cut + 1)
    return None


def is_empty(value: object) -> bool:
    """Whether a cell holds nothing: null, blank text, an empty list or table, a list of nulls."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return True
    return isinstance(value, list | tuple | dict) and (
        not value or (not isinstance(value, dict) and all(part is None for part in value))
    )
