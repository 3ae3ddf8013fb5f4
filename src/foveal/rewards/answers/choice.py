r"""Multiple choice: `B`, `(B)`, `B. 80°`, the option's text, an index, or several letters.

Options come as a list, a table from letter to text, `{label: [...], text: [...]}` or a list of
`{label, text}`. Where the problem lists none, a truth of one capital letter still takes `B`, `(b)`, `B. 80`.
"""

import re
import string
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeGuard

from foveal.rewards.answers.text import clean
from foveal.rewards.answers.words import plain_words

_LETTER = re.compile(r"[(\[{]? ?([A-Za-z]) ?[)\]}]?")
_LABELLED = re.compile(
    r"(?:option|choice|answer)? ?[(\[]? ?([A-Za-z]) ?(?:[)\]] ?[.:,]?|[.:]|,(?= )|-(?= )|(?<= )=) ?(.+)",
    re.IGNORECASE,
)
_NAMED = re.compile(
    r"(?:the )?(?:correct )?(?:option|choice|answer)(?: is)? ?:? ?[(\[]?([A-Za-z])[)\]]?"
    r"|(?:option )?([A-Z])[.,]? is (?:the )?(?:correct|right)(?: answer| option)?",
    re.IGNORECASE,
)
_LETTERS = re.compile(r"[A-H](?:(?: ?[,;/&] ?| and | ?, and | )[A-H])+|[A-H]{2,8}")
_ANOTHER = re.compile(
    r"(?<![A-Za-z])[(\[]?[A-H][.:)\]]|^[(\[]?[A-Za-z][)\]]?$"
    r"|(?<![A-Za-z])(?:or|and|not) [(\[]?[A-H](?![A-Za-z])"
)
_PERCENT = re.compile(r"%|percent|per cent|百分", re.IGNORECASE)
_SPELLED = re.compile(r"[^0-9\\^=+<>~$%*|{}]+")
_BESIDE = re.compile(r"(?:[^\W\d_]|[ ,;:.()']|(?<=[^\W\d_])-(?=[^\W\d_]))*")
_DENIED = re.compile(r"(?<![a-z])(?:not|no|never|isnt|wrong|false|incorrect)(?![a-z])")
_BRACKETED = re.compile(r"[(\[] ?([A-H]) ?[)\]]")
_GIVEN = re.compile(r"[(\[]?[A-Za-z][)\]]? ?=")
_INDEX = re.compile(r"[0-9]{1,2}")

Options = Mapping[str, str]
SameText = Callable[[str, str], bool]


def options(choices: Any) -> dict[str, str]:
    """Letter -> cleaned text; empty when the problem lists no options."""
    if isinstance(choices, Mapping):
        labels, texts = choices.get("label"), choices.get("text")
        if _is_list(labels) and _is_list(texts) and len(labels) == len(texts):
            return _lettered(labels, texts)
        return {str(letter).strip(" .:()").upper(): clean(str(text)) for letter, text in choices.items()}
    if not _is_list(choices):
        return {}
    rows: list[Any] = list(choices)
    if rows and all(isinstance(row, Mapping) and "text" in row for row in rows):
        labels = [
            row.get("label", row.get("id", letter))
            for row, letter in zip(rows, string.ascii_uppercase, strict=False)
        ]
        return _lettered(labels, [row["text"] for row in rows])
    found = {}
    for letter, text in zip(string.ascii_uppercase, rows, strict=False):
        # Some sets write the letter into the option: "A. 12" is 12.
        cleaned = clean(str(text))
        match = _LABELLED.fullmatch(cleaned)
        found[letter] = match[2].strip() if match is not None and match[1].upper() == letter else cleaned
    return found


def _is_list(value: object) -> TypeGuard[Sequence[object]]:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _lettered(labels: Sequence[object], texts: Sequence[object]) -> dict[str, str]:
    names = [str(label).strip(" .:()").upper() for label in labels]
    if not all(
        len(name) == 1 and name.isalpha() for name in names
    ):  # "1", "2": letters are what a model sees
        names = list(string.ascii_uppercase[: len(texts)])
    return {name: clean(str(text)) for name, text in zip(names, texts, strict=False)}


def chosen(stated: str, among: Options, same: SameText) -> frozenset[str] | None:
    """The letters that a cleaned text names; None when it names no option.

    A letter with a text counts when the text is that option's, or holds it and no other option's.
    """
    if not among:
        return letters_alone(stated)
    exact = [letter for letter, text in among.items() if text == stated]
    if len(exact) == 1:
        return frozenset(exact)
    labelled = _LABELLED.fullmatch(stated)
    if labelled is not None and labelled[1].upper() not in among:
        labelled = None
    # `a - b` may be an option; `B. 5` and `B = 5` name a letter first.
    whole = labelled is None or stated[labelled.end(1) :].lstrip().startswith("-")
    by_text = _by_text(stated, among, same) if whole else None
    if by_text is not None:
        return frozenset((by_text,))
    letter = _one_letter(stated)
    if letter is not None:
        return frozenset((letter,)) if letter in among else None
    if labelled is not None:
        letter, rest = labelled[1].upper(), labelled[2].strip()
        by_text = _by_text(rest, among, same)
        if by_text == letter or (by_text is None and _holds(rest, letter, among)):
            return frozenset((letter,))
    found = _letters(stated)
    if found is not None:
        return found if found <= set(among) else None
    return _several(stated, among, same)


def _several(stated: str, among: Options, same: SameText) -> frozenset[str] | None:
    """Several options, each with its letter or text: `A. red, C. blue`, `red; blue`."""
    for separator in (";", ",", " and "):
        parts = [part.strip() for part in stated.split(separator)]
        if 1 < len(parts) <= len(among) and all(parts):
            found = [chosen(part, among, same) for part in parts]
            sets = [part for part in found if part is not None and len(part) == 1]
            if len(sets) == len(parts) and len(frozenset().union(*sets)) == len(parts):
                return frozenset().union(*sets)
    return None


def _one_letter(stated: str) -> str | None:
    """The letter that a text is, or names as the answer: `b`, `(B)`, "option B", "B is correct"."""
    match = _LETTER.fullmatch(stated) or _NAMED.fullmatch(stated)
    return None if match is None else next(group for group in match.groups() if group).upper()


def letters_alone(stated: str) -> frozenset[str] | None:
    """The letters of a text that is nothing but option letters."""
    letter = _one_letter(stated)
    if letter is not None:
        return frozenset((letter,))
    return _letters(stated)


def _letters(stated: str) -> frozenset[str] | None:
    """Several letters, each in brackets or not: `A, C`, `CA`, `(A), (C)`."""
    stated = _BRACKETED.sub(r"\1", stated)
    if _LETTERS.fullmatch(stated) is None or stated.isalpha() and len(set(stated)) != len(stated):
        return None
    return frozenset(sign for sign in stated if sign in string.ascii_uppercase)


def _by_text(stated: str, among: Options, same: SameText) -> str | None:
    """The only option whose text this is: to the letter, else in value, else in words."""
    exact = [letter for letter, text in among.items() if text and text == stated]
    if exact or _LETTER.fullmatch(stated):
        return exact[0] if len(exact) == 1 else None
    percent = _PERCENT.search(stated) is not None
    found = [
        letter
        for letter, text in among.items()
        if text and (not percent or _PERCENT.search(text)) and same(text, stated)
    ]
    if not found and _SPELLED.fullmatch(stated):
        words = plain_words(stated)
        found = [
            letter
            for letter, text in among.items()
            if _SPELLED.fullmatch(text) and plain_words(text) == words
        ]
    return found[0] if len(found) == 1 else None


def _holds(rest: str, letter: str, among: Options) -> bool:
    """Whether a text behind a letter holds that option's words and no other's, and beside them only words."""
    words = f" {plain_words(rest)} "
    held = {name: f" {plain_words(text)} " for name, text in among.items() if text}
    held = {name: text for name, text in held.items() if text in words}
    if list(held) != [letter] or (_ANOTHER.search(rest) and not _ANOTHER.search(among[letter])):
        return False
    beside = words.replace(held[letter], " ", 1)
    return _BESIDE.fullmatch(beside) is not None and not _DENIED.search(beside)


def by_index(stated: str, among: Options, first: int) -> frozenset[str] | None:
    """The option at a place counted from `first`, as class labels are stored."""
    place = int(stated) - first if _INDEX.fullmatch(stated) else -1
    return frozenset((list(among)[place],)) if 0 <= place < len(among) else None


def settle(
    gold: str, answer: str, among: Options, same: SameText, *, first: int | None = None
) -> bool | None:
    """The verdict on a truth that is one of the options, or several; None when it is none of them.

    An index counts as a truth where the problem says so: `first` is what the first option is called. It then
    counts as an answer to the same index.
    """
    right = by_index(gold, among, first) if first is not None else None
    if right is not None and gold == answer:
        return True
    right = chosen(gold, among, same) if right is None else right
    return None if right is None else chosen(answer, among, same) == right


def without_options(gold: str, answer: str, *, letters: str = "A-J") -> bool | None:
    """The verdict on a truth that is a letter, or letters, of options that the problem does not list.

    None when the truth is no capital letter among `letters`, with a text or without.
    """
    several = frozenset(sign for sign in gold if sign in string.ascii_uppercase)
    if len(gold) > 1 and _LETTERS.fullmatch(gold) and "".join(sorted(several)) == re.sub("[^A-H]", "", gold):
        return letters_alone(answer) == several
    match = re.fullmatch(
        rf"\(?([{letters}])\)?|\(([{letters}])\) ?(.+)|([{letters}])(?:[.:] |\.(?=[^A-Za-z ]))(.+)", gold
    )
    if match is None:
        return None
    letter, rest = match[1] or match[2] or match[4], match[3] or match[5] or ""
    named = _one_letter(answer)
    if named is not None:
        return named == letter
    if not rest and _GIVEN.match(answer):  # `C = 5` gives a value to C
        return False
    said = _LABELLED.fullmatch(answer)
    if said is None or not said[1].isupper():
        return bool(rest) and plain_words(answer) == plain_words(rest)
    told = said[1] == letter and not _ANOTHER.search(said[2])
    return told and (not rest or plain_words(rest) == plain_words(said[2]))
