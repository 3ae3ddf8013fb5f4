"""What a data set holds, in the numbers one wants to know before a run: the table of `foveal data check`."""

import hashlib
import re
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from foveal.data.bad_rows import KINDS, counts
from foveal.data.checks import Findings, Looked
from foveal.data.layouts.names import DRAWN_QUESTION
from foveal.data.layouts.options import read_options
from foveal.types import Problem

NAMED = 5
"""Rows named for each finding; the others are counted."""

_LETTER = re.compile(r"\(?([A-Z])\)?[.:)]?")
_NUMBER = re.compile(r"[-+]?[$€£]?\d[\d,]*(?:\.\d+)?(?:[eE][-+]?\d+)?\s*%?")
_LABEL = re.compile(r"(?:^|[\s(\[（])([A-Ja-j])\s*[.):：、）\]]", re.MULTILINE)
_YES_NO = frozenset(("yes", "no", "true", "false"))


def answer_kind(answer: str) -> str:
    r"""Of which kind an answer looks: letter, number, yes or no, expression, list or text.

    >>> [answer_kind(answer) for answer in ("B", "1,200", "\\frac{1}{2}", "1, 2", "No", "a cube", "12 cm")]
    ['letter', 'number', 'expression', 'list', 'yes or no', 'text', 'number with unit']
    """
    text = answer.strip()
    if _LETTER.fullmatch(text):
        return "letter"
    if text.casefold() in _YES_NO:
        return "yes or no"
    number = _NUMBER.match(text)
    if number is not None:
        rest = text[number.end() :].strip()
        if not rest:
            return "number"
        if re.fullmatch(r"[^\W\d_°²³/]*[^\d\\^={},]*[²³]?", rest) and len(rest) <= 20:
            return "number with unit"
    if re.search(r"[\\^={}√π]|\d\s*[*/+]\s*\d", text):
        return "expression"
    return "list" if "," in text and len(text) < 80 else "text"


def shows_options(problem: Problem) -> bool:
    """Whether the text that the model is asked says what the letters stand for, or the picture does."""
    text, options = asked(problem), read_options(problem.meta.get("choices"))
    if options is not None and (options.bare() or DRAWN_QUESTION in text):
        return True
    labels = {label.upper() for label in _LABEL.findall(text)}
    return {"A", "B"} <= labels or (options is not None and options.shown_in(text))


def asked(problem: Problem) -> str:
    """All text that the model is asked."""
    return str(getattr(problem, "asked", problem.question))


@dataclass
class Summary:
    """Gathers what is seen of each row that can be used."""

    per_row: Counter[int] = field(default_factory=Counter)
    formats: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    letters: list[str] = field(default_factory=list)
    """Ids of rows whose answer is a letter that nothing explains."""
    repeats: list[str] = field(default_factory=list)
    """Ids of rows that ask the same question about the same pictures as an earlier one."""
    rows: dict[bytes, str] = field(default_factory=dict)
    """Question and pictures, hashed -> id of the first such row."""
    pictures: dict[bytes, str] = field(default_factory=dict)
    """Picture, hashed -> id of the first row with it."""

    def observe(self, looked: Looked) -> None:
        """A row that can be used."""
        problem = looked.problem
        self.per_row[len(looked.pictures)] += 1
        self.kinds[answer_kind(problem.answer)] += 1
        for picture in looked.pictures:
            self.formats[picture.format] += 1
            self.sizes.append(picture.size)
            if picture.digest is not None:
                self.pictures.setdefault(picture.digest, problem.id)
        if _LETTER.fullmatch(problem.answer.strip()) and not shows_options(problem):
            self.letters.append(problem.id)
        if self.rows.setdefault(_row_key(looked), problem.id) != problem.id:
            self.repeats.append(problem.id)

    def table(self, found: Findings, *, limit: int) -> dict[str, Any]:
        """Everything in plain numbers; lists of ids hold the first few."""
        return {
            "rows": found.rows,
            "looked_at": found.looked,
            "usable": found.looked - len(found.bad),
            "bad_rows": counts(found.bad),
            "pictures": {
                "count": len(self.sizes),
                "distinct": len(self.pictures),
                "per_row": {str(number): rows for number, rows in sorted(self.per_row.items())},
                "formats": dict(self.formats.most_common()),
                "pixels": spread_of([width * height for width, height in self.sizes]),
                "smallest": _size(min(self.sizes, key=_area, default=None)),
                "largest": _size(max(self.sizes, key=_area, default=None)),
            },
            "text_only": self.per_row[0],
            "prompt_tokens": {**spread_of(found.lengths), "limit": limit, "above": _above(found)},
            "answer_kinds": dict(self.kinds.most_common()),
            "repeated": named(self.repeats),
            "options_missing": named(self.letters),
        }

    def overlap(self, other: "Summary") -> dict[str, Any]:
        """What another data set (validation) shares with this one: whole problems, and pictures."""
        same = [id for key, id in other.rows.items() if key in self.rows]
        pictures = [id for key, id in other.pictures.items() if key in self.pictures]
        return {"problems": named(same), "pictures": named(pictures)}


def named(ids: Sequence[str]) -> dict[str, Any]:
    """How many, and the first few."""
    return {"count": len(ids), "first": list(ids[:NAMED])}


def spread_of(values: Sequence[int]) -> dict[str, int]:
    """Smallest, median, 95th of 100, largest; nothing of nothing."""
    if not values:
        return {}
    ordered = sorted(values)
    return {
        "min": ordered[0],
        "median": int(statistics.median_low(ordered)),
        "p95": ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))],
        "max": ordered[-1],
    }


def lines_of(table: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """The table for a person: quantity, value, and what to know about it."""
    pictures, tokens = table["pictures"], table["prompt_tokens"]
    seen = "" if table["looked_at"] == table["rows"] else f"the first {table['looked_at']:,} are looked at"
    lines = [
        ("rows", f"{table['rows']:,}", seen),
        ("rows that can be used", f"{table['usable']:,}", ""),
        *((f"  bad: {kind}", f"{number:,}", KINDS[kind]) for kind, number in table["bad_rows"].items()),
        ("pictures", f"{pictures['count']:,}", f"{pictures['distinct']:,} distinct"),
        ("  for each row", _counted(pictures["per_row"]), "pictures: rows"),
        ("  formats", _counted(pictures["formats"]), ""),
        ("  smallest, largest", f"{pictures['smallest']}, {pictures['largest']}", "pixels"),
        ("text-only rows", f"{table['text_only']:,}", ""),
        ("prompt tokens", _spread(tokens), "min / median / 95 % / max, visual ones counted"),
        ("  above the limit", f"{tokens['above']:,}", f"sampling.max_prompt_tokens = {tokens['limit']:,}"),
        ("kinds of answers", _counted(table["answer_kinds"]), ""),
        _found("repeated problems", table["repeated"], "same pictures and question as an earlier row"),
        _found("options missing", table["options_missing"], "the answer is a letter that nothing explains"),
    ]
    if "golds" in table:
        golds = table["golds"]
        note = f"of {golds['graded']:,} graded against themselves"
        lines.append(_found("answers not paid 1.0", golds["wrong"], note))
    if "overlap" in table:
        overlap = table["overlap"]
        lines += [
            ("rows to compare with", f"{overlap['rows']:,}", overlap["with"]),
            _found("  problems in both", overlap["problems"], "same pictures and question"),
            _found("  pictures in both", overlap["pictures"], "rows of the other set"),
        ]
    return lines


def _found(name: str, found: Mapping[str, Any], note: str) -> tuple[str, str, str]:
    ids = ", ".join(found["first"]) + (", ..." if found["count"] > len(found["first"]) else "")
    return name, f"{found['count']:,}", f"{note}: {ids}" if ids else note


def _counted(table: Mapping[str, int]) -> str:
    return ", ".join(f"{name}: {number:,}" for name, number in table.items()) or "none"


def _spread(values: Mapping[str, int]) -> str:
    found = [f"{values[name]:,}" for name in ("min", "median", "p95", "max") if name in values]
    return " / ".join(found) or "none"


def _above(found: Findings) -> int:
    return counts(found.bad).get("overlong", 0)


def _row_key(looked: Looked) -> bytes:
    question = " ".join(asked(looked.problem).split()).casefold()
    made = hashlib.blake2b(question.encode("utf-8", errors="surrogatepass"), digest_size=16)
    for picture in looked.pictures:
        made.update(picture.digest or b"")
    return made.digest()


def _area(size: tuple[int, int]) -> int:
    return size[0] * size[1]


def _size(size: tuple[int, int] | None) -> str:
    return "none" if size is None else f"{size[0]} x {size[1]}"
