"""Rows that cannot be used: of which kind each is, and the one message about all of them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from foveal.data.errors import DataError

KINDS: Mapping[str, str] = {
    "text": "lines whose text cannot be read",
    "question": "questions or options that cannot be read",
    "answer": "answers that are missing or cannot be read",
    "marks": "picture marks that do not match the pictures",
    "no_picture": "rows without a picture",
    "picture": "pictures that cannot be read",
    "id": "ids that cannot be read",
    "duplicate_id": "ids that another row has",
    "overlong": "prompts above sampling.max_prompt_tokens",
    "ungradable": "answers that no reward can grade",
    "row": "rows with another fault",
}
"""Every kind of fault, in the order in which they are reported."""

SHOWN = 5
"""Rows of each kind that a message names; the others are counted."""

LONGEST_REASON = 400
"""Characters of one row's fault: a cell may hold megabytes."""

WAY_OUT = (
    'leave them out with data.bad_rows = "skip", or list all of them: '
    "foveal data check DATA --write FILE.jsonl"
)


@dataclass(frozen=True, kw_only=True)
class BadRow:
    """A row that cannot be used, by the first fault found in it."""

    row: int
    """Place in the data, from 0."""
    where: str
    """File and line, as a person finds it."""
    id: str | None
    """None where the id itself cannot be read."""
    kind: str
    reason: str
    """What is wrong, with the place and the way out."""

    @classmethod
    def of(
        cls, error: Exception, *, row: int, where: str, id: str | None, kind: str | None = None
    ) -> "BadRow":
        """The fault that an error tells; its kind is the error's own unless `kind` is given."""
        reason = str(error)
        if len(reason) > LONGEST_REASON:
            reason = f"{reason[:LONGEST_REASON]}... ({len(reason):,} characters)"
        if where not in reason:
            reason = f"{where}: {reason}"
        found = kind or str(getattr(error, "kind", "row"))
        return cls(
            row=row,
            where=_writable(where),
            id=None if id is None else _writable(id),
            kind=found if found in KINDS else "row",
            reason=_writable(reason),
        )

    def to_json(self) -> dict[str, Any]:
        """A line of bad_rows.jsonl."""
        return asdict(self)


def counts(bad: Sequence[BadRow]) -> dict[str, int]:
    """Rows of each kind that occurs, in the order of `KINDS`."""
    found = Counter(row.kind for row in bad)
    return {kind: found[kind] for kind in KINDS if found[kind]}


def in_words(bad: Sequence[BadRow]) -> str:
    """The counts in a line: "picture: 1, overlong: 2"."""
    return ", ".join(f"{kind}: {number:,}" for kind, number in counts(bad).items())


def described(bad: Sequence[BadRow], total: int, *, way_out: str = WAY_OUT) -> str:
    """All bad rows in one message: how many of each kind, with the first few of each by name."""
    if total == 1:
        return f"the row cannot be used:\n  {bad[0].reason}"
    lines = [f"{len(bad):,} of {total:,} rows cannot be used ({in_words(bad)}):"]
    for kind, number in counts(bad).items():
        lines.append(f"{KINDS[kind]} ({number:,}):")
        rows = [row for row in bad if row.kind == kind]
        lines += [f"  {row.reason}" for row in rows[:SHOWN]]
        if number > SHOWN:
            lines.append(f"  and {number - SHOWN:,} more")
    return "\n  ".join([*lines, way_out] if way_out else lines)


def refuse(bad: Sequence[BadRow], total: int, *, way_out: str = WAY_OUT) -> None:
    """Raises: DataError that names all bad rows, when there are any."""
    if bad:
        raise DataError(described(bad, total, way_out=way_out), kind=bad[0].kind)


def _writable(text: str) -> str:
    """The text without halves of letters (lone surrogates), which no file takes."""
    return text.encode("utf-8", errors="replace").decode()
