"""A row by its understanding: the texts of the prompt, the answer, the options, the pictures in turns."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from foveal.data.bounded import short
from foveal.data.columns import answer_parts, answer_text, check_answer_length, question_text
from foveal.data.errors import DataError, of_kind
from foveal.data.layouts import names as usual
from foveal.data.layouts.conversations import Conversation, read_conversation
from foveal.data.layouts.indices import options_at, unread_options, whole
from foveal.data.layouts.naming import names_option, together
from foveal.data.layouts.options import LETTERS, Options
from foveal.data.layouts.understanding import Understanding, is_empty, value_at
from foveal.rewards.boxed import reduce_gold
from foveal.types import Turn


@dataclass(frozen=True, kw_only=True)
class Fields:
    """The texts of a row; picture marks are as the file has them."""

    system: str | None
    turns: tuple[Turn, ...]
    question: str
    """With the options behind it where the text lacked them."""
    answer: str
    options: Options | None
    pictures: tuple[Any, ...] | None
    """Cells of the pictures that stand in the turns; None where a column holds them."""


def read_row(
    cells: Mapping[str, Any],
    understood: Understanding,
    *,
    where: str,
    show_options: bool = True,
    classes: Mapping[str, tuple[str, ...]] | None = None,
    answer_kind: str = "auto",
) -> Fields:
    """The texts of a row. Raises: DataError for a wrong type, an empty field, an answer that is none."""
    with of_kind("question"):
        turns = _conversation(cells, understood, where)
        options = options_at(cells, understood["choices"])
        if options is None:
            _require_no_options(cells, understood, where)
        question = _question(cells, understood, turns, where)
        system, earlier = _system(cells, understood, turns, where), _earlier(turns, where)
    if options is not None and show_options and understood["question"].kind != "fixed":
        question = with_options(question, options)
    with of_kind("answer"):
        answer = _answer(cells, understood, turns, options, classes or {}, where, answer_kind)
        if options is not None:
            _require_option(answer, options, understood, where, answer_kind)
    return Fields(
        system=system,
        turns=earlier,
        question=question,
        answer=answer,
        options=options,
        pictures=turns.pictures if turns is not None and understood["images"].kind == "turns" else None,
    )


def _require_no_options(cells: Mapping[str, Any], understood: Understanding, where: str) -> None:
    """Raises: DataError for a row whose options cannot be read: the model would be asked without them."""
    found = unread_options(cells, understood["choices"])
    if found is not None:
        raise DataError(
            f"{where}: {' and '.join(understood['choices'].columns[:2])} holds no options that can be "
            f"read, got {short(found)}; expected at most {len(LETTERS)} texts in a list, a table by letter, "
            "or 'A. ...; B. ...', or set choices_column = false for rows without options"
        )


def with_options(question: str, options: Options) -> str:
    """The question with the options behind it, unless it has them or they stand in the picture."""
    if options.bare() or options.shown_in(question):
        return question
    return f"{question}\n{options.lines()}"


def _conversation(cells: Mapping[str, Any], understood: Understanding, where: str) -> Conversation | None:
    source = understood["question"]
    if source.kind != "turns":
        return None
    column = source.columns[0]
    return read_conversation(value_at(cells, column), column=column, where=where)


def _question(
    cells: Mapping[str, Any], understood: Understanding, turns: Conversation | None, where: str
) -> str:
    source = understood["question"]
    if source.kind == "fixed":
        return usual.DRAWN_QUESTION
    if turns is not None:
        return question_text(turns.question, column=source.columns[0], where=where)
    values = [value_at(cells, column) for column in source.columns]
    place = next((n for n, value in enumerate(values) if not is_empty(value)), 0)
    text = question_text(values[place], column=source.columns[place], where=where)
    hint = value_at(cells, understood["hint"].columns[0]) if understood["hint"].kind != "none" else None
    if isinstance(hint, str) and hint.strip() and hint.strip().casefold() != "nan":
        text = f"{question_text(hint, column='hint', where=where)}\n{text}"
    return text


def _system(
    cells: Mapping[str, Any], understood: Understanding, turns: Conversation | None, where: str
) -> str | None:
    text = turns.system if turns is not None else None
    column = "the system prompt"
    if text is None and understood["system"].kind != "none":
        column = understood["system"].columns[0]
        text = value_at(cells, column)
    if is_empty(text):
        return None
    return question_text(text, column=column, where=where)


def _earlier(turns: Conversation | None, where: str) -> tuple[Turn, ...]:
    if turns is None:
        return ()
    for number, turn in enumerate(turns.turns, start=1):
        # A turn may be a picture alone, so only its characters are checked.
        question_text(f"{turn.text}.", column=f"turn {number}", where=where)
    return turns.turns


def _answer(
    cells: Mapping[str, Any],
    understood: Understanding,
    turns: Conversation | None,
    options: Options | None,
    classes: Mapping[str, tuple[str, ...]],
    where: str,
    answer_kind: str,
) -> str:
    source = understood["answer"]
    column = source.columns[0]
    if source.kind == "reply":
        reply = turns.reply if turns is not None else None
        text = answer_text(reply, column=f"{column} (the last turn)", where=where)
        return _reduced(text, options, column, where, answer_kind)
    value = value_at(cells, column)
    listed = isinstance(value, Sequence) and not isinstance(value, str | bytes)
    if listed and column in usual.ANSWER_AFTER:
        value = value[-1].get("content") if value and isinstance(value[-1], Mapping) else value
    if column in classes:
        value = _class_name(value, classes[column], column, where)
    elif source.kind in ("index", "index_from_1") and options is not None:
        start = int(source.kind == "index_from_1")
        places = value if listed and value else [value]
        return ", ".join(dict.fromkeys(_letter(one, options, column, where, start=start) for one in places))
    found = answer_parts(value, column=column, where=where)
    parts = tuple(dict.fromkeys(_reduced(part, options, column, where, answer_kind) for part in found))
    answer = parts[0] if len(parts) == 1 else together(parts, options, answer_kind, f"{where}: {column}")
    return check_answer_length(answer, column=column, where=where)


def _require_option(
    answer: str, options: Options, understood: Understanding, where: str, answer_kind: str
) -> None:
    """Raises: DataError for an answer that is none of the options: no completion that picks one is right."""
    if answer_kind == "text" and reduce_gold(answer) is None:
        return  # a long text that is taken whole, for a judge
    if not names_option(answer, options):
        raise DataError(
            f"{where}: {' and '.join(understood['answer'].columns)} is {short(answer)}, which is none of the "
            f"options {', '.join(options.labels)}; repair the row, or set choices_column = false where the "
            "options are not those of the answer"
        )


def _letter(value: object, options: Options, column: str, where: str, *, start: int) -> str:
    number = whole(value)
    label = None if number is None else options.at(number - start)
    if label is None:
        shown = answer_text(value, column=column, where=where)
        raise DataError(
            f"{where}: {column} should be the number of one of {options.size} options, counted from "
            f"{start}, got {shown[:60]!r}; repair the row, or set answer_kind = 'text'"
        )
    return label


def _class_name(value: object, names: tuple[str, ...], column: str, where: str) -> object:
    if not isinstance(value, int) or isinstance(value, bool):
        return value
    if not 0 <= value < len(names):
        raise DataError(f"{where}: {column} is class {value} of {len(names)} (0 to {len(names) - 1})")
    return names[value]


def _reduced(text: str, options: Options | None, column: str, where: str, answer_kind: str) -> str:
    """What the answer states; a text that is an option's stays as it is."""
    if options is not None:
        if text in options.given:
            return options.labels[options.given.index(text)]
        if text in options.texts:
            return text
    answer = reduce_gold(text) or (text if answer_kind == "text" else None)
    if answer is None:
        raise DataError(
            f"{where}: {column} states no short answer (got {len(text):,} characters, {short(text)}); "
            "write it between <answer> and </answer> or in \\boxed{}, name the column of the short answer "
            "with answer_column = 'NAME', or set answer_kind = 'text' to take such answers whole",
            kind="ungradable",
        )
    answer = answer_text(answer, column=column, where=where)
    return check_answer_length(answer, column=column, where=where)
