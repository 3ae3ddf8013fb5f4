"""Finds out what the columns of a file mean, from their names and a sample of rows.

For each field an ordered list of rules: the first that holds gives the column. The user's choice goes first.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from foveal.data.errors import DataError, listing, nearest
from foveal.data.layouts import names as usual
from foveal.data.layouts.conversations import read_conversation, turns_of
from foveal.data.layouts.indices import index_rule
from foveal.data.layouts.options import LETTERS, read_options
from foveal.data.layouts.understanding import Field, Source, Understanding, is_empty, value_at


@dataclass(frozen=True, kw_only=True)
class Table:
    """What the rules see of a file."""

    where: str
    names: tuple[str, ...]
    sample: Sequence[Mapping[str, Any]]
    """Rows evenly spread over the file, long text cut, without picture bytes."""
    heavy: frozenset[str] = frozenset()
    """Columns that hold bytes, which the sample lacks."""
    classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Columns of class numbers (ClassLabel) and the names of the classes."""
    chosen: Mapping[str, str | bool | None] = field(default_factory=dict)
    """Columns that the user named, by field; False switches a field off."""
    text_only: bool = False
    answer_kind: str = "auto"

    def own(self, name: str) -> str | None:
        """The column of that name, in whatever case it is written; also a path into a table of the sample."""
        if name in self.names:
            return name
        found = next((own for own in self.names if own.casefold() == name.casefold()), None)
        if found is None and "." in name and any(value_at(row, name) is not None for row in self.sample):
            return name
        return found

    def values(self, path: str) -> list[Any]:
        """The filled cells of the sample at a path."""
        found = (value_at(row, path) for row in self.sample)
        return [value for value in found if not is_empty(value)]

    def filled(self, name: str) -> bool:
        """Whether any row of the sample has something there."""
        unseen = name in self.heavy and not any(name in row for row in self.sample)
        return unseen or bool(self.values(name))

    def first(self, candidates: Sequence[str]) -> str | None:
        """The first of the usual names that is there and filled, else the first that is there."""
        there = [own for name in candidates if (own := self.own(name)) is not None]
        return next((name for name in there if self.filled(name)), there[0] if there else None)

    def named(self, part: Field) -> str | None:
        """The user's column for a field. Raises: DataError when the file has none of that name."""
        wanted = self.chosen.get(part)
        if not isinstance(wanted, str) or not wanted:
            return None
        found = self.own(wanted)
        if found is not None:
            return found
        head = wanted.partition(".")[0]
        if "." in wanted and head in self.names and head in self.heavy:
            return wanted
        raise DataError(
            f"{self.where} has no column {wanted!r} ({part}_column){nearest(wanted, self.names)}; "
            f"columns: {listing(self.names)}"
        )


def understand(table: Table) -> Understanding:
    """The mapping of a file. Raises: DataError naming the columns found and the one option to set."""
    question = _first(table, QUESTION_RULES) or _no_question(table)
    wanted = () if table.chosen.get("choices") is False else CHOICES_RULES
    choices = _first(table, wanted) or Source(field="choices", kind="none")
    answer = _first(table, (*ANSWER_RULES, lambda t: _reply(t, question))) or _no_answer(table)
    answer = index_rule(table, answer, choices)
    images = _first(table, (*IMAGE_RULES[:1], lambda t: _in_turns(t, question), *IMAGE_RULES[1:]))
    if images is None and not table.text_only:
        raise DataError(
            f"{table.where} has no column for the images (looked for {', '.join(usual.IMAGES[:6])}, ...); "
            f"columns: {listing(table.names)}; name yours with images_column = 'NAME', or set "
            "text_only = true for problems without pictures"
        )
    images = images or Source(field="images", kind="none")
    others = (_system(table), _hint(table, choices))
    sources = (question, images, answer, choices, *(one for one in others if one is not None))
    return Understanding(layout=_layout(table, question), sources=sources)


Rule = Callable[[Table], Source | None]


def _first(table: Table, rules: Sequence[Rule]) -> Source | None:
    return next((source for rule in rules if (source := rule(table)) is not None), None)


def _layout(table: Table, question: Source) -> str:
    there = set(table.names)
    name = next((name for name, marks in usual.LAYOUTS if marks <= there), None)
    if question.kind != "turns" or name == "verl":
        return name or "columns"
    return {"prompt": "TRL messages", "messages": "messages", "conversations": "ShareGPT"}.get(
        question.columns[0], "turns"
    )


# The question


def _named_question(table: Table) -> Source | None:
    column = table.named("question")
    if column is None:
        return None
    turns = any(turns_of(value) is not None for value in table.values(column))
    return _question(column, "turns" if turns else "text", "named by question_column")


def _question(column: str, kind: str, reason: str) -> Source:
    steps = ("the last turn of the user",) if kind == "turns" else ()
    return Source(field="question", kind=kind, columns=(column,), steps=steps, reason=reason)


def _turns(table: Table, candidates: Sequence[str]) -> Source | None:
    for name in candidates:
        column = table.own(name)
        if column is not None and any(turns_of(value) is not None for value in table.values(column)):
            return _question(column, "turns", "a list of turns")
    return None


def _full_prompt(table: Table) -> Source | None:
    """The column `query` where it holds the text of `question` (MathVista)."""
    if not {"question", usual.FULL_PROMPT} <= set(table.names):
        return None
    pairs = [(row.get("question"), row.get(usual.FULL_PROMPT)) for row in table.sample]
    texts = [pair for pair in pairs if all(isinstance(text, str) and text.strip() for text in pair)]
    if not texts or not all(str(one).strip() in str(whole) for one, whole in texts):
        return None
    reason = "holds the text of `question`, with the options and the form of the answer"
    return _question(usual.FULL_PROMPT, "text", reason)


def _usual_question(table: Table) -> Source | None:
    column = table.first(usual.QUESTION)
    if column is None:
        return None
    later = tuple(own for name in usual.QUESTION_AFTER if (own := table.own(name)) is not None)
    steps = (f"where it is empty, {' or '.join(later)}",) if later else ()
    return Source(field="question", kind="text", columns=(column, *later), steps=steps, reason="a usual name")


def _drawn(table: Table) -> Source | None:
    """A fixed question where the file has pictures, options and answers but no question: it is drawn."""
    if table.own("options") is None or table.own("answer") is None or table.own("image") is None:
        return None
    return Source(
        field="question",
        kind="fixed",
        steps=(f'"{usual.DRAWN_QUESTION}"', "options stay in the picture"),
        reason="no column holds a question, so it stands in the picture",
    )


QUESTION_RULES: tuple[Rule, ...] = (
    _named_question,
    lambda table: _turns(table, usual.TURNS_FIRST),
    _full_prompt,
    _usual_question,
    lambda table: _turns(table, usual.TURNS),
    _drawn,
)


def _no_question(table: Table) -> Source:
    fit = [name for name in table.names if name.casefold() not in usual.NOT_QUESTION]
    hints = [nearest(name, fit) for name in usual.QUESTION[:4]]
    hint = next((hint for hint in hints if hint), "")
    looked = ", ".join((*usual.QUESTION[:4], *usual.TURNS[:2]))
    raise DataError(
        f"{table.where} has no column for the question (looked for {looked}){hint}; "
        f"columns: {listing(table.names)}; name yours with question_column = 'NAME'"
    )


# The answer


def _named_answer(table: Table) -> Source | None:
    column = table.named("answer")
    if column is None:
        return None
    return Source(field="answer", kind="value", columns=(column,), reason="named by answer_column")


def _usual_answer(table: Table) -> Source | None:
    column = table.first(usual.ANSWER)
    if column is None:
        return None
    return Source(field="answer", kind="value", columns=(column,), reason="a usual name")


def _reply(table: Table, question: Source) -> Source | None:
    """The assistant's last turn, where the prompt ends with one; else a column of completions."""
    if question.kind == "turns" and any(
        _ends_with_reply(value) for value in table.values(question.columns[0])
    ):
        steps = ("the assistant's turn behind the question",)
        reason = "no column for the answer"
        return Source(field="answer", kind="reply", columns=question.columns, steps=steps, reason=reason)
    column = table.first(usual.ANSWER_AFTER)
    if column is None:
        return None
    return Source(field="answer", kind="value", columns=(column,), reason="no column for the answer alone")


def _ends_with_reply(value: object) -> bool:
    try:
        return read_conversation(value, column="turns", where="row").reply is not None
    except DataError:
        return False


ANSWER_RULES: tuple[Rule, ...] = (_named_answer, _usual_answer)


def _no_answer(table: Table) -> Source:
    hints = [nearest(name, table.names) for name in usual.ANSWER[:3]]
    hint = next((hint for hint in hints if hint), "")
    raise DataError(
        f"{table.where} has no column for the answer (looked for {', '.join(usual.ANSWER[:4])}, ...){hint}; "
        f"columns: {listing(table.names)}; name yours with answer_column = 'NAME' (or a path into a table, "
        "such as 'reward_model.ground_truth')"
    )


# The pictures


def _named_images(table: Table) -> Source | None:
    wanted = table.chosen.get("images")
    if not isinstance(wanted, str) or not wanted:
        return None
    parts = [wanted] if table.own(wanted) else [part.strip() for part in wanted.split(",") if part.strip()]
    found = []
    for part in parts:
        found.append(replace(table, chosen={"images": part}).named("images") or part)
    return Source(field="images", kind="cells", columns=tuple(found), reason="named by images_column")


def _in_turns(table: Table, question: Source) -> Source | None:
    """Pictures that stand in the turns themselves."""
    if question.kind != "turns":
        return None
    column = question.columns[0]
    for value in table.values(column):
        try:
            found = read_conversation(value, column=column, where="row")
        except DataError:
            continue
        if found.pictures or (found.image_parts and table.first(usual.IMAGES) is None):
            steps = ("pictures that stand in the turns",)
            return Source(
                field="images", kind="turns", columns=(column,), steps=steps, reason="parts of type image"
            )
    return None


def _decoded(table: Table) -> Source | None:
    """A column of decoded pictures beside one that has only their paths (MathVista, MathVision, DynaMath)."""
    column = next((own for name in usual.DECODED if (own := table.own(name)) is not None), None)
    if column is None or not table.filled(column):
        return None
    paths = table.own("image")
    if paths is not None and not all(isinstance(value, str) for value in table.values(paths)):
        return None
    reason = f"holds the pictures, {paths} only their paths" if paths else "a usual name"
    return Source(field="images", kind="cells", columns=(column,), reason=reason)


def _numbered(table: Table) -> Source | None:
    """Columns `image_1`, `image_2`, ...: each row's filled ones, in the order of their numbers."""
    found = {}
    for name in table.names:
        match = re.fullmatch(usual.NUMBERED_IMAGES, name, re.IGNORECASE)
        if match and table.filled(name):
            found[int(match[1])] = name
    whole = table.first(("images", "image"))
    if not found or (whole is not None and table.filled(whole)):
        return None
    return Source(
        field="images",
        kind="cells",
        columns=tuple(found[number] for number in sorted(found)),
        steps=("those that a row has, in the order of the numbers",),
        reason="numbered columns",
    )


def _usual_images(table: Table) -> Source | None:
    column = table.first(usual.IMAGES)
    if column is None:
        return None
    return Source(field="images", kind="cells", columns=(column,), reason="a usual name")


def _bytes(table: Table) -> Source | None:
    """The only column of bytes. Raises: DataError, when there are several and none has a usual name."""
    found = [name for name in table.names if name in table.heavy]
    if len(found) > 1:
        raise DataError(
            f"{table.where} has several columns of bytes: {listing(found)}; say which hold the pictures of "
            f"the question, in their order: images_column = '{', '.join(found[:2])}'"
        )
    if not found:
        return None
    return Source(field="images", kind="cells", columns=(found[0],), reason="the only column of bytes")


IMAGE_RULES: tuple[Rule, ...] = (_named_images, _decoded, _numbered, _usual_images, _bytes)


# The options, the system prompt, a hint


def _named_choices(table: Table) -> Source | None:
    column = table.named("choices")
    if column is None:
        return None
    return Source(field="choices", kind="cell", columns=(column,), reason="named by choices_column")


def _usual_choices(table: Table) -> Source | None:
    for name in usual.CHOICES:
        column = table.own(name)
        if column is not None and any(read_options(value) for value in table.values(column)):
            return Source(field="choices", kind="cell", columns=(column,), reason="a usual name")
    return None


def _unread_choices(table: Table) -> Source | None:
    """A column that can hold nothing but options, of which none can be read: each of its rows says so."""
    column = next((own for name in usual.CHOICES_ALONE if (own := table.own(name)) is not None), None)
    if column is None or not table.filled(column):
        return None
    return Source(field="choices", kind="cell", columns=(column,), reason="a usual name")


def _lettered(table: Table) -> Source | None:
    """A column per option: `A`, `B`, `C` (VLMEvalKit), or `option_a`, `choice_A`."""
    for prefix in ("", "option_", "choice_", "option ", "options_"):
        columns = []
        for letter in LETTERS:
            name = next(
                (own for own in table.names if own.casefold() == f"{prefix}{letter}".casefold()), None
            )
            if name is None or (not prefix and name != letter):
                break
            columns.append(name)
        if len(columns) >= 2:
            steps = ("those that a row has",)
            reason = "a column per option"
            return Source(field="choices", kind="columns", columns=tuple(columns), steps=steps, reason=reason)
    return None


CHOICES_RULES: tuple[Rule, ...] = (_named_choices, _usual_choices, _lettered, _unread_choices)


def _system(table: Table) -> Source | None:
    column = table.first(usual.SYSTEM)
    if column is None or not all(isinstance(value, str) for value in table.values(column)):
        return None
    return Source(field="system", kind="text", columns=(column,), reason="a usual name")


def _hint(table: Table, choices: Source) -> Source | None:
    """The passage that a question refers to, in the layouts whose `hint` is one: VLMEvalKit and ScienceQA."""
    column = table.own(usual.HINT)
    known = choices.kind == "columns" or table.own("lecture") is not None
    if column is None or not known or not table.filled(column):
        return None
    steps = ("put before the question",)
    return Source(
        field="hint", kind="text", columns=(column,), steps=steps, reason="the passage of the question"
    )
