"""Options of multiple choice: all forms of data sets, as one form and as lines of a prompt."""

import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeGuard

from foveal.data.bounded import list_items, short, table_items

BLANK = frozenset(("nan", "none", "null", "n/a", "[]", "{}"))
"""What a whole cell says where a row has no options, without spaces and in small letters."""
LETTERS = string.ascii_uppercase
_SEPARATORS = r"[.):：、．\]]"
_LABEL = re.compile(r"(?:^|(?<=[\s;,；，|]))[(\[（]?([A-Z])\s*[.):：、．）\]]\s*")
_LABEL_KEYS = (("label", "text"), ("key", "text"), ("letter", "text"), ("label", "value"), ("id", "text"))


@dataclass(frozen=True, kw_only=True)
class Options:
    """Labels and texts, in order."""

    labels: tuple[str, ...]
    texts: tuple[str, ...]
    given: tuple[str, ...] = ()
    """The labels of the file where they are no letters (`1`, `2`): the model sees letters in their place."""
    places: tuple[int, ...] = ()
    """Where each option stands in the file's list, from 0, when empty ones between them are left out."""

    @property
    def size(self) -> int:
        """Places of the file's list up to the last option."""
        return self.places[-1] + 1 if self.places else len(self.labels)

    def at(self, place: int) -> str | None:
        """The label of the option at a place of the file's list, from 0; None where there is none."""
        places = self.places or tuple(range(len(self.labels)))
        return self.labels[places.index(place)] if place in places else None

    @classmethod
    def of(cls, labels: Sequence[str], texts: Sequence[str]) -> "Options":
        """With letters for labels, the file's own where they are single capitals or become such."""
        names = tuple(label.strip(" .:()").upper() for label in labels)
        if len(set(names)) == len(names) and all(len(name) == 1 and name in LETTERS for name in names):
            return cls(labels=names, texts=tuple(texts))
        return cls(labels=tuple(LETTERS[: len(texts)]), texts=tuple(texts), given=tuple(map(str, labels)))

    def normal(self) -> list[str] | dict[str, str]:
        """For `Problem.meta["choices"]`: the texts where the labels are A, B, ..., else label -> text."""
        if self.labels == tuple(LETTERS[: len(self.labels)]):
            return list(self.texts)
        return dict(zip(self.labels, self.texts, strict=True))

    def lines(self) -> str:
        r"""One line per option: `A. a cube`.

        >>> Options(labels=("A", "B"), texts=("a cube", "a cone")).lines()
        'A. a cube\nB. a cone'
        """
        return "\n".join(f"{label}. {text}" for label, text in zip(self.labels, self.texts, strict=True))

    def bare(self) -> bool:
        """Whether each text is its own label: the options themselves stand in the picture."""
        return all(label == text.strip(" ().") for label, text in zip(self.labels, self.texts, strict=True))

    def shown_in(self, text: str) -> bool:
        """Whether the text has every option with its label, as `(A) a cube`, `A. a cube` or `A: a cube`."""
        plain = _plain(text)
        for label, option in zip(self.labels, self.texts, strict=True):
            wanted = (
                rf"(?<!\w){re.escape(label.casefold())}\s*{_SEPARATORS}\s*{re.escape(_plain(option))}(?!\w)"
            )
            if re.search(wanted, plain) is None:
                return False
        return True


def _plain(text: str) -> str:
    return " ".join(text.split()).casefold()


def read_options(value: object) -> Options | None:
    """The options in a cell; None where it holds none that can be read.

    Forms: a list of texts or numbers, one written as text (`"['a', 'b']"`), one text with labels
    (`A. 3; B. 4`), a table from label to text (also as text), `{"label": [...], "text": [...]}`, a list of
    `{label, text}` or of pairs. An empty place of a list keeps its letter: the others stay what they were.
    """
    if isinstance(value, str):
        items: object = list_items(value)
        items = table_items(value) if items is None else items
        return labelled(value) if items is None else read_options(items)
    if isinstance(value, Mapping):
        return _table(value)
    if not isinstance(value, Sequence) or isinstance(value, bytes):
        return None
    places = tuple(place for place, item in enumerate(value) if not is_blank(item))
    filled = [value[place] for place in places]
    if not filled or places[-1] >= len(LETTERS):
        return None
    if all(isinstance(item, Mapping) for item in filled):
        return _labelled_items(filled, places)
    if all(_is_pair(item) for item in filled):
        return Options.of([str(item[0]) for item in filled], [_text(item[1]) for item in filled])
    if not all(isinstance(item, str | int | float) for item in filled):
        return None
    return _placed([_text(item) for item in filled], places)


def is_blank(value: object) -> bool:
    """Whether a cell holds nothing: null, NaN, blank text, a list or table of such cells.

    The word "None" is no gap, since options do say it.
    """
    if value is None or (isinstance(value, float) and value != value):
        return True
    if isinstance(value, str):
        return not value.strip()
    if isinstance(value, Mapping):
        return all(map(is_blank, value.values()))
    return isinstance(value, Sequence) and all(map(is_blank, value))


def _is_pair(item: object) -> bool:
    """Whether it is a letter with its text; two numbers are a point or a range, which is an option itself."""
    return (
        isinstance(item, list | tuple)
        and len(item) == 2
        and isinstance(item[0], str)
        and item[0].strip(" .:()").upper() in set(LETTERS)
        and isinstance(item[1], str | int | float)
    )


def _placed(texts: Sequence[str], places: tuple[int, ...]) -> Options:
    """Texts with the letters of their places, and without those letters where each has its own in front."""
    labels = tuple(LETTERS[place] for place in places)
    found = [_LABEL.match(text) for text in texts]
    if all(match is not None and match[1] == label for match, label in zip(found, labels, strict=True)):
        cut = [text[match.end() :].strip() for text, match in zip(texts, found, strict=True) if match]
        texts = cut if all(cut) else texts
    gaps = places != tuple(range(len(places)))
    return Options(labels=labels, texts=tuple(texts), places=places if gaps else ())


def labelled(text: str) -> Options | None:
    """Options of one text with labels in order: `A. 200.96;B. 3215.36; C. 6280`.

    >>> labelled("A. 1;B. 2; C. no answer").texts
    ('1', '2', 'no answer')
    """
    starts: list[re.Match[str]] = []
    for match in _LABEL.finditer(text):
        if len(starts) < len(LETTERS) and match[1] == LETTERS[len(starts)]:
            starts.append(match)
    if len(starts) < 2 or text[: starts[0].start()].strip():
        return None
    ends = [match.start() for match in starts[1:]] + [len(text)]
    texts = [text[match.end() : end].strip(" \n\t;；,，|") for match, end in zip(starts, ends, strict=True)]
    return Options(labels=tuple(LETTERS[: len(texts)]), texts=tuple(texts)) if all(texts) else None


def _table(value: Mapping[str, object]) -> Options | None:
    for label_key, text_key in _LABEL_KEYS:
        labels, texts = value.get(label_key), value.get(text_key)
        if _is_list(labels) and _is_list(texts):
            if len(labels) != len(texts):
                return None
            rows = [(label, text) for label, text in zip(labels, texts, strict=True) if not is_blank(text)]
            return _named([_text(label) for label, _ in rows], [text for _, text in rows])
    kept = {str(label).strip(): text for label, text in value.items() if not is_blank(text)}
    return None if any(len(label) > 3 for label in kept) else _named(list(kept), list(kept.values()))


def _named(labels: Sequence[str], texts: Sequence[object]) -> Options | None:
    if not 0 < len(texts) <= len(LETTERS) or not all(isinstance(text, str | int | float) for text in texts):
        return None
    return Options.of(labels, [_text(text) for text in texts])


def _labelled_items(items: Sequence[Mapping[str, object]], places: tuple[int, ...]) -> Options | None:
    for label_key, text_key in _LABEL_KEYS:
        rows = [item for item in items if not is_blank(item.get(text_key))]
        if rows and all(item.get(label_key) is not None for item in rows):
            return _named([_text(item[label_key]) for item in rows], [item[text_key] for item in rows])
    if all(isinstance(item.get("text"), str) for item in items):
        return _placed([_text(item["text"]) for item in items], places)
    return None


def _is_list(value: object) -> TypeGuard[Sequence[object]]:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _text(value: object) -> str:
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return value.strip() if isinstance(value, str) else short(value, limit=200)
