"""What a row means: which column is what, and question, answer, id and picture marks as they must be."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from foveal.data.errors import DataError, listing, nearest, of_kind
from foveal.types import IMAGE_MARK

QUESTION = ("problem", "question", "prompt", "query")
IMAGES = ("images", "image", "file_names", "file_name", "image_paths", "image_path")
ANSWER = ("answer", "ground_truth", "gold")
ID = ("id", "problem_id", "question_id", "qid", "uid")
CHOICES = ("choices", "options")

_NUMBERED = re.compile(r"<image[ _]?(\d+)>")
_SPECIAL = re.compile(r"<\|[A-Za-z_]+\|>")


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The column of each field; None where the data has none and needs none."""

    question: str
    answer: str
    images: str | None
    id: str | None
    choices: str | None

    def lines(self) -> list[str]:
        """Which column is what, a line for each."""
        named = {
            "question": self.question,
            "images": self.images or "none: text only",
            "answer": self.answer,
            "id": self.id or "none: file and row",
            "choices": self.choices or "none",
        }
        return [f"{field:10}{column}" for field, column in named.items()]


def find_columns(
    names: Sequence[str], chosen: Mapping[str, str | None], *, where: str, text_only: bool
) -> Columns:
    """The columns by the user's choice, else by their usual names, the first that is there.

    Raises: DataError naming the columns found, the nearest one, and how to map.
    """

    def find(field: str, usual: Sequence[str], *, needed: bool) -> str | None:
        wanted = chosen.get(field)
        if wanted is not None:
            if wanted in names:
                return wanted
            raise DataError(
                f"{where} has no column {wanted!r} ({field}_column){nearest(wanted, names)}; "
                f"columns: {listing(names)}"
            )
        found = next((name for name in usual if name in names), None)
        if found is None and needed:
            hints = [nearest(name, names) for name in usual]
            hint = next((hint for hint in hints if hint), "")
            raise DataError(
                f"{where} has no column for the {field} (looked for {', '.join(usual)}){hint}; "
                f"columns: {listing(names)}; name yours with {field}_column = 'NAME'"
            )
        return found

    return Columns(
        question=find("question", QUESTION, needed=True) or "",
        answer=find("answer", ANSWER, needed=True) or "",
        images=find("images", IMAGES, needed=not text_only),
        id=find("id", ID, needed=False),
        choices=find("choices", CHOICES, needed=False),
    )


@of_kind("question")
def question_text(value: object, *, column: str, where: str) -> str:
    """The question. Raises: DataError when it is empty, no text, or holds a model's control tokens."""
    if not isinstance(value, str):
        raise DataError(f"{where}: {column} should be text, got {type(value).__name__} {_short(value)}")
    if not _NUMBERED.sub("", value).replace(IMAGE_MARK, "").strip():
        raise DataError(f"{where}: {column} is empty; write a question or remove the row")
    special = _SPECIAL.search(value)
    if special:
        raise DataError(
            f"{where}: {column} contains the control token {special[0]!r}, which would count as a picture "
            f"or end the turn; write {IMAGE_MARK} where a picture stands, and no chat template"
        )
    return value.strip()


@of_kind("answer")
def answer_text(value: object, *, column: str, where: str) -> str:
    """The answer as text: numbers in short form, several parts joined by commas.

    Raises: DataError when it is empty or of another type.
    """
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        parts = [answer_text(part, column=column, where=where) for part in value]
        if parts:
            return ", ".join(parts)
    if isinstance(value, str) and value.strip():
        return value.strip()
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    if isinstance(value, int | float) and not isinstance(value, bool) and value == value:
        return str(value)
    if value is None or isinstance(value, str | Sequence) or value != value:
        raise DataError(
            f"{where}: {column} is empty; every row needs an answer to be graded by: "
            "fill it in or remove the row"
        )
    raise DataError(
        f"{where}: {column} should be text, a number or a list of them, "
        f"got {type(value).__name__} {_short(value)}"
    )


@of_kind("id")
def id_text(value: object, *, column: str, where: str) -> str:
    """The id. Raises: DataError when it is no text or whole number."""
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise DataError(
            f"{where}: {column} should be text or a whole number, got {type(value).__name__} {_short(value)}"
        )
    return str(value)


@of_kind("marks")
def with_marks(question: str, pictures: int, *, where: str) -> str:
    """The question with exactly one mark per picture.

    Marks numbered in order (`<image 1>`) become plain ones; a question without any gets them in front.
    Raises: DataError when the marks do not match the pictures.
    """
    count = question.count(IMAGE_MARK)
    numbers = [int(number) for number in _NUMBERED.findall(question)]
    if count == 0 and numbers == list(range(1, pictures + 1)):
        return _NUMBERED.sub(IMAGE_MARK, question)
    if count == 0 and not numbers:
        return IMAGE_MARK * pictures + question
    if count != pictures or numbers:
        marks = (
            f"{count} {IMAGE_MARK} marks"
            if not numbers
            else f"the marks {', '.join(_NUMBERED.findall(question))}"
        )
        raise DataError(
            f"{where}: the question has {marks} but the row has {pictures} pictures; "
            f"write exactly one {IMAGE_MARK} for each picture, in their order, or none at all "
            "to have them put in front"
        )
    return question


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
