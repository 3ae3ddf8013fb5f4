"""A problem as data sources give it: what the model is asked, and the answer it is graded by."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, overload

from PIL.Image import Image

IMAGE_MARK = "<image>"
"""Stands in a prompt where a picture stands; a `Problem` has exactly as many marks as pictures."""


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One turn of a conversation before the question; `text` may hold picture marks."""

    role: Literal["user", "assistant"]
    text: str


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A question about pictures with a verifiable answer.

    `system` and `turns` stand before the question in the prompt; the picture marks over all turns and the
    question match the pictures in order.

    `meta` holds the source, and for worlds: `family`, `template`, `grade` ("low" | "medium" | "high"),
    `scene` (JSON), `chain_of_thought`, `shortcut`. Of files it holds the options as `choices`: a list of
    texts, or a table from label to text where the labels are not A, B, ....
    """

    id: str
    question: str
    images: tuple[Image, ...]
    answer: str
    meta: Mapping[str, Any] = field(default_factory=dict)
    system: str | None = None
    """The system prompt; None leaves it to the chat template."""
    turns: tuple[Turn, ...] = ()
    """Earlier turns of the conversation, the first one first."""

    @property
    def marks(self) -> int:
        """Picture marks over all turns and the question."""
        return sum(text.count(IMAGE_MARK) for text in (*(turn.text for turn in self.turns), self.question))

    @property
    def asked(self) -> str:
        """All that the model is asked, as one text: the question alone where nothing stands before it."""
        told = [] if self.system is None else [("system", self.system)]
        told += [(turn.role, turn.text) for turn in self.turns]
        if not told:
            return self.question
        return "\n\n".join(f"[{role}] {text}" for role, text in [*told, ("user", self.question)])


class Problems(Sequence[Problem]):
    """Problems that are made, read or decoded one at a time, on each access."""

    def problem(self, place: int) -> Problem:
        """The problem at a place from 0 on, which is below the length."""
        raise NotImplementedError

    @overload
    def __getitem__(self, index: int) -> Problem: ...

    @overload
    def __getitem__(self, index: slice) -> list[Problem]: ...

    def __getitem__(self, index: int | slice) -> Problem | list[Problem]:
        if isinstance(index, slice):
            return [self.problem(place) for place in range(*index.indices(len(self)))]
        return self.problem(self.place(index))

    def place(self, index: int) -> int:
        """The place that an index means, which may count from the end. Raises: IndexError."""
        place = index + len(self) if index < 0 else index
        if not 0 <= place < len(self):
            raise IndexError(f"problem {index} of {len(self)}")
        return place
