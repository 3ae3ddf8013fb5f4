"""Whether the true answer of multiple choice is one of the options, by the rules that grade completions."""

from functools import lru_cache

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
    short = len(answer) <= LONGEST

    def same(one: str, two: str) -> bool:
        return short and len(one) <= LONGEST and len(two) <= LONGEST and by_value(one, two, PLAIN) is True

    return all(choice.chosen(prepared(truth), among, same) is not None for truth in alternatives(answer))
