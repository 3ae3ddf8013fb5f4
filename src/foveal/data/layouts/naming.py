"""True answers as the rules that grade completions read them: one of the options, and several in a cell."""

from collections.abc import Sequence
from functools import lru_cache

from foveal.data.bounded import short
from foveal.data.errors import DataError
from foveal.data.layouts.options import Options
from foveal.rewards.answers import choice
from foveal.rewards.answers.verdict import PLAIN, alternatives, by_value, prepared

LONGEST = 200
"""Characters of an answer or an option that are compared in value; longer ones are compared as text."""


def names_option(answer: str, options: Options) -> bool:
    """Whether the answer is a letter, a text or a value of one or several options.

    >>> names_option("0.5", Options(labels=("A", "B"), texts=("1/2", "2")))
    True
    """
    if answer in options.labels or answer in options.texts:
        return True
    return _names(answer, options)


@lru_cache(maxsize=4096)
def _names(answer: str, options: Options) -> bool:
    among = choice.options(options.normal())

    def same(one: str, two: str) -> bool:
        return len(one) <= LONGEST and len(two) <= LONGEST and by_value(one, two, PLAIN) is True

    return all(choice.chosen(prepared(truth), among, same) is not None for truth in alternatives(answer))


def together(parts: Sequence[str], options: Options | None, answer_kind: str, where: str) -> str:
    """Several unequal answers as one truth: each of them is right ("any"), or all have to be given ("all").

    Letters of options are all asked for. Raises: DataError where nothing says which it is.
    """
    picked = [_label(part, options) for part in parts]
    letters = options is not None and all(part in options.labels for part in parts)
    if answer_kind == "all" or (letters and answer_kind != "any"):
        return ", ".join(part if label is None else label for part, label in zip(parts, picked, strict=True))
    if answer_kind != "any":
        raise DataError(
            f"{where} has several answers, {short(list(parts))}; set answer_kind = 'any' (each of them is "
            "right) or 'all' (all of them have to be given)"
        )
    capitals = all(len(part) == 1 and part.isupper() for part in parts)
    # Capitals alone would be several letters to the rules, all of which are asked for.
    texts = tuple(f"({part})" if capitals else part for part in parts)
    truth = "[" + ", ".join(f"'{text}'" if '"' in text else f'"{text}"' for text in texts) + "]"
    if alternatives(truth) != texts:
        raise DataError(
            f"{where} has several answers that cannot be told apart in a list, {short(list(parts))}: they "
            "hold both kinds of quotation marks, or are too many or too long; leave one of them"
        )
    return truth


def _label(part: str, options: Options | None) -> str | None:
    """The label of an option's text."""
    if options is None or part in options.labels or part not in options.texts:
        return None
    return options.labels[options.texts.index(part)]
