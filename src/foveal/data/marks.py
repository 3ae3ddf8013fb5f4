"""One picture mark per picture, over all turns and in order."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from foveal.data.errors import DataError
from foveal.types import IMAGE_MARK

NUMBERED = re.compile(r"<image[ _]?(\d{1,4})>")


@dataclass(frozen=True, kw_only=True)
class Marked:
    """Texts with plain marks, and which picture each mark stands for: `order[n]` is the place of the n-th."""

    texts: tuple[str, ...]
    order: tuple[int, ...]


def place_marks(texts: Sequence[str], labels: Sequence[int], *, front: int, where: str) -> Marked:
    """The texts with exactly one `<image>` per picture.

    `labels` are the numbers of the pictures: `<image 2>` is the one with label 2, wherever it stands; when it
    is named again, the later marks become the words "image N". Pictures that no numbered mark names, and
    those of a row without any mark, are put before the text at place `front`.
    Raises: DataError when the marks do not match the pictures.
    """
    plain = sum(text.count(IMAGE_MARK) for text in texts)
    numbers = [int(number) for text in texts for number in NUMBERED.findall(text)]
    count = len(labels)
    if not numbers and plain == count:
        return Marked(texts=tuple(texts), order=tuple(range(count)))
    if not numbers and plain == 0:
        return Marked(texts=_in_front(texts, front, count), order=tuple(range(count)))
    if plain or any(number not in labels for number in numbers):
        marks = (
            f"{plain} {IMAGE_MARK} marks" if not numbers else f"the marks {', '.join(map(str, numbers[:20]))}"
        )
        raise DataError(
            f"{where}: the question has {marks} but the row has {count} pictures; "
            f"write exactly one {IMAGE_MARK} for each picture, in their order, or none at all "
            "to have them put in front",
            kind="marks",
        )
    named = list(dict.fromkeys(numbers))
    rest = [label for label in labels if label not in named]
    ranks = {label: rank for rank, label in enumerate([*rest, *named], start=1)}
    seen: set[int] = set()

    def plain_mark(match: re.Match[str]) -> str:
        number = int(match[1])
        if number in seen:
            return f"image {ranks[number]}"
        seen.add(number)
        return IMAGE_MARK

    marked = [NUMBERED.sub(plain_mark, text) for text in texts]
    order = tuple(labels.index(label) for label in [*rest, *named])
    return Marked(texts=_in_front(marked, front, len(rest)), order=order)


def _in_front(texts: Sequence[str], front: int, count: int) -> tuple[str, ...]:
    return tuple(IMAGE_MARK * count + text if n == front else text for n, text in enumerate(texts))
