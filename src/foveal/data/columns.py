"""Question, answer and id of a row as they must be; the error says what is wrong and how to mend it."""

import math
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal

from foveal.data.bounded import short, well_formed
from foveal.data.errors import DataError
from foveal.data.marks import NUMBERED
from foveal.types import IMAGE_MARK

MAX_QUESTION = 1_000_000
"""Characters of a question; a prompt of more has no place in any model."""
MAX_ANSWER = 10_000
"""Characters of an answer: more is a document, not an answer to be compared."""
MAX_PARTS = 100
"""Members of a list of answers; people who annotate a picture are ten."""
MAX_DIGITS = 1_000
"""Digits in a row in an answer; arithmetic on longer numbers takes seconds."""
MAX_ID = 500
"""Characters of an id, which names files of a run."""

NOT_FINITE = frozenset(("nan", "inf", "+inf", "-inf", "infinity", "-infinity"))
"""What programs write for numbers that are none; mathematics writes infinity otherwise."""

_SPECIAL = re.compile(r"<\|[A-Za-z_]+\|>")
_DIGITS = re.compile(rf"\d{{{MAX_DIGITS + 1},}}")


def question_text(value: object, *, column: str, where: str) -> str:
    """The question. Raises: DataError when it is empty, no text, or holds a model's control tokens."""
    if not isinstance(value, str):
        hint = (
            "; a prompt of turns has tables with `role` and `content`, or `from` and `value`"
            if isinstance(value, Sequence)
            else ""
        )
        raise DataError(
            f"{where}: {column} should be text, got {type(value).__name__} {short(value)}{hint}",
            kind="question",
        )
    if not NUMBERED.sub("", value).replace(IMAGE_MARK, "").strip():
        raise DataError(f"{where}: {column} is empty; write a question or remove the row", kind="question")
    if len(value) > MAX_QUESTION:
        raise DataError(
            f"{where}: {column} has {len(value):,} characters, more than {MAX_QUESTION:,}", kind="question"
        )
    _check_characters(value, column=column, where=where, kind="question")
    special = _SPECIAL.search(value)
    if special:
        raise DataError(
            f"{where}: {column} contains the control token {special[0]!r}, which would count as a picture "
            f"or end the turn; write {IMAGE_MARK} where a picture stands, and no chat template",
            kind="question",
        )
    return value.strip()


def answer_parts(value: object, *, column: str, where: str) -> tuple[str, ...]:
    """The answers in a cell, each in its first spelling: several where a list has unequal members.

    Annotations are tables with an `answer` each (VQAv2). Raises: DataError as `answer_text`.
    """
    if not isinstance(value, Sequence) or isinstance(value, str | bytes) or not value:
        return (answer_text(value, column=column, where=where),)
    found: dict[str, str] = {}
    for part in value[:MAX_PARTS]:
        inner = part.get("answer", part) if isinstance(part, Mapping) else part
        text = answer_text(inner, column=column, where=where)
        found.setdefault(text.casefold(), text)
    return tuple(found.values())


def answer_text(value: object, *, column: str, where: str) -> str:
    """The answer as text: numbers in short form, true and false as yes and no.

    Raises: DataError when it is empty, not finite, too long, or of another type.
    """
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        value = value.strip()
        if value:
            return _answer_string(value, column=column, where=where)
    if isinstance(value, Decimal):
        value = int(value) if value == value.to_integral_value() and abs(value) < 10**15 else str(value)
        return answer_text(value, column=column, where=where)
    if isinstance(value, float) and not math.isfinite(value) and value == value:
        raise DataError(
            f"{where}: {column} is not finite, got {value}; write the answer as text", kind="answer"
        )
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    if isinstance(value, int) and abs(value) >= 10**MAX_DIGITS:
        raise DataError(
            f"{where}: {column} is {short(value)}; the most is {MAX_DIGITS} digits", kind="answer"
        )
    if isinstance(value, int | float) and value == value:
        return str(value)
    if value is None or (isinstance(value, str | Sequence) and not value) or value != value:
        raise DataError(
            f"{where}: {column} is empty; every row needs an answer to be graded by: "
            "fill it in or remove the row",
            kind="answer",
        )
    path = f"; name a cell inside it with answer_column = '{column}.NAME'" if isinstance(value, dict) else ""
    raise DataError(
        f"{where}: {column} should be text, a number or a list of them, "
        f"got {type(value).__name__} {short(value)}{path}",
        kind="answer",
    )


def _answer_string(text: str, *, column: str, where: str) -> str:
    if text.casefold() in NOT_FINITE:
        raise DataError(
            f"{where}: {column} is {text!r}, which is no number to grade by; fill it in or remove the row",
            kind="answer",
        )
    if _DIGITS.search(text):
        raise DataError(
            f"{where}: {column} has a number of more than {MAX_DIGITS} digits, {short(text)}", kind="answer"
        )
    _check_characters(text, column=column, where=where, kind="answer")
    return text


def check_answer_length(text: str, *, column: str, where: str) -> str:
    """The answer, when it is short enough to be compared. Raises: DataError for a longer one."""
    if len(text) > MAX_ANSWER:
        raise DataError(
            f"{where}: {column} has {len(text):,} characters, more than {MAX_ANSWER:,}: {short(text)}",
            kind="answer",
        )
    return text


def id_text(value: object, *, column: str, where: str) -> str:
    """The id. Raises: DataError when it is no text or whole number."""
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise DataError(
            f"{where}: {column} should be text or a whole number, got {type(value).__name__} {short(value)}; "
            "repair it, or set id_column = false to name rows by file and row",
            kind="id",
        )
    if isinstance(value, int) and abs(value) >= 10**MAX_DIGITS:
        raise DataError(
            f"{where}: {column} is {short(value)}; set id_column = false to use file and row", kind="id"
        )
    text = str(value)
    if len(text) > MAX_ID:
        raise DataError(
            f"{where}: {column} has {len(text):,} characters, more than {MAX_ID}: {short(text)}", kind="id"
        )
    _check_characters(text, column=column, where=where, kind="id")
    return text


def _check_characters(text: str, *, column: str, where: str, kind: str) -> None:
    if not well_formed(text):
        raise DataError(
            f"{where}: {column} has half a character (a lone surrogate), which no tokenizer reads: "
            f"{short(text)}; write the text as UTF-8 again",
            kind=kind,
        )
    if "\x00" in text:
        raise DataError(f"{where}: {column} has a zero byte, {short(text)}; take it out", kind=kind)
