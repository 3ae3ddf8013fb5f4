"""The rows that a run uses: all, or all but the bad ones, the same ones again on resume."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from foveal.data.bad_rows import BadRow, counts
from foveal.data.errors import DataError
from foveal.data.problems import FileProblems
from foveal.problem import Problem, Problems

ROWS_FILE = "data.json"
BAD_ROWS_FILE = "bad_rows.jsonl"


class Selected(Problems):
    """Some problems of a sequence, in their order, made or decoded on each access like its own."""

    def __init__(self, problems: Sequence[Problem], kept: Sequence[int]) -> None:
        """`kept` has the places of the problems in the sequence."""
        self._problems, self._kept = problems, tuple(kept)

    def __len__(self) -> int:
        return len(self._kept)

    def problem(self, place: int) -> Problem:
        """That of the sequence."""
        return self._problems[self._kept[place]]

    def text(self, index: int) -> Problem:
        """The problem without its pictures; those of a file are not decoded for it."""
        return text_of(self._problems, self._kept[index])


def text_of(problems: Sequence[Problem], index: int) -> Problem:
    """A problem without its pictures; those of a file are not decoded for it."""
    if isinstance(problems, FileProblems | Selected):
        return problems.text(index)
    return replace(problems[index], images=())


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Which rows of a data set are used."""

    rows: int
    """All rows of the data."""
    bad: tuple[BadRow, ...] = ()
    """Those left out."""
    ids: str = ""
    """Hash of all ids in their order, where they are read from a file."""

    def of(self, problems: Sequence[Problem]) -> Sequence[Problem]:
        """The problems without the rows left out. Raises: DataError, when nothing is left."""
        if not self.bad:
            return problems
        if len(self.bad) >= self.rows:
            raise DataError(
                f"all {self.rows:,} rows of the data cannot be used, so that nothing is left; the first: "
                f"{self.bad[0].reason}"
            )
        left_out = {row.row for row in self.bad}
        return Selected(problems, [n for n in range(self.rows) if n not in left_out])

    def to_json(self) -> dict[str, Any]:
        """What `ROWS_FILE` holds of it."""
        used = self.rows - len(self.bad)
        return {"rows": self.rows, "used": used, "bad_rows": counts(self.bad), "ids": self.ids}


class Ids:
    """Hashes the ids of a data set, one after another."""

    def __init__(self) -> None:
        self._hash = hashlib.blake2b(digest_size=16)

    def add(self, id: str | None) -> None:
        """The next row's; None where it cannot be read."""
        word = b"" if id is None else id.encode("utf-8", errors="surrogatepass")
        self._hash.update(len(word).to_bytes(8, "little") + word)

    def result(self) -> str:
        """Hash of all ids so far."""
        return self._hash.hexdigest()


def choice_files(choices: Mapping[str, Choice]) -> dict[str, str]:
    """File name -> content of what a run folder keeps of its choices, by part ("train", "validation").

    Where no row is left out there is no `BAD_ROWS_FILE`.
    """
    table = {"schema_version": 1, **{part: choice.to_json() for part, choice in choices.items()}}
    files = {ROWS_FILE: json.dumps(table, indent=1, ensure_ascii=False)}
    lines = [
        json.dumps({"data": part, **row.to_json()}, ensure_ascii=False) + "\n"
        for part, choice in choices.items()
        for row in choice.bad
    ]
    return files | ({BAD_ROWS_FILE: "".join(lines)} if lines else {})


def parse_choices(rows: str, bad_rows: str) -> dict[str, Choice]:
    """Choices from the contents of the two files; `bad_rows` is empty where there is none.

    Raises: ValueError, when they are not what `choice_files` gives.
    """
    table = json.loads(rows)
    lines = [json.loads(line) for line in bad_rows.split("\n") if line]
    if not isinstance(table, dict) or not all(isinstance(line, dict) for line in lines):
        raise ValueError("it is not a table")
    found = {}
    for part, entry in table.items():
        if part == "schema_version":
            continue
        bad = tuple(
            BadRow(**{key: value for key, value in line.items() if key != "data"})
            for line in lines
            if line.get("data") == part
        )
        if not isinstance(entry, dict) or not isinstance(entry.get("rows"), int):
            raise ValueError(f"{part} names no number of rows")
        if counts(bad) != entry.get("bad_rows"):
            raise ValueError(
                f"it counts {entry.get('bad_rows')} bad rows of {part}, but {counts(bad)} are listed"
            )
        found[part] = Choice(rows=entry["rows"], bad=bad, ids=str(entry.get("ids", "")))
    return found
