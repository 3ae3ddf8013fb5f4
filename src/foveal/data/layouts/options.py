"""Options of multiple choice: all forms of data sets, as one form and as lines of a prompt."""

import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from foveal.data.bounded import list_text, short

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
    (`A. 3; B. 4`), a table from label to text, `{"label": [...], "text": [...]}`, a list of `{label, text}`.
    """
    if isinstance(value, str):
        items: object = list_text(value)
        return labelled(value) if items is None else read_options(items)
    if isinstance(value, Mapping):
        return _table(value)
    if not isinstance(value, Sequence) or isinstance(value, bytes):
        return None
    filled = [item for item in value if item is not None]
    if filled and all(isinstance(item, Mapping) for item in filled):
        return _labelled_items(filled)
    if not all(isinstance(item, str | int | float) for item in filled):
        return None
    texts = [_text(item) for item in filled]
    if not texts or len(texts) > len(LETTERS) or not any(texts):
        return None
    labels = LETTERS[: len(texts)]
    found = [_LABEL.match(text) for text in texts]
    if all(match is not None and match[1] == label for match, label in zip(found, labels, strict=True)):
        cut = [text[match.end() :].strip() for text, match in zip(texts, found, strict=True) if match]
        texts = cut if all(cut) else texts
    return Options(labels=tuple(labels), texts=tuple(texts))


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
        if isinstance(labels, Sequence) and isinstance(texts, Sequence) and not isinstance(texts, str):
            if len(labels) != len(texts) or not 0 < len(texts) <= len(LETTERS):
                return None
            return Options.of([_text(label) for label in labels], [_text(text) for text in texts])
    if not all(text is None or isinstance(text, str | int | float) for text in value.values()):
        return None
    kept = {str(label).strip(): _text(text) for label, text in value.items() if text is not None}
    if not 0 < len(kept) <= len(LETTERS) or any(len(label) > 3 for label in kept):
        return None
    return Options.of(list(kept), list(kept.values()))


def _labelled_items(items: Sequence[object]) -> Options | None:
    for label_key, text_key in _LABEL_KEYS:
        tables = [item for item in items if isinstance(item, Mapping)]
        if all(item.get(label_key) is not None and item.get(text_key) is not None for item in tables):
            labels = [_text(item[label_key]) for item in tables[: len(LETTERS)]]
            return Options.of(labels, [_text(item[text_key]) for item in tables[: len(LETTERS)]])
    return None


def _text(value: object) -> str:
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return value.strip() if isinstance(value, str) else short(value, limit=200)
