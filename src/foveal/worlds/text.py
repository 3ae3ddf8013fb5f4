"""Text for training a tokenizer: all words, numbers and marks of the worlds."""

import re
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import cycle, islice, pairwise

from foveal.worlds.base import STYLE_WORDS, WorldSettings
from foveal.worlds.problems import FAMILIES, make_problem

EVERYTHING = WorldSettings(grade={"low": 1.0, "medium": 1.0, "high": 1.0}, shortcut_word="random")


def corpus(n: int, *, seed: int = 0) -> Iterator[str]:
    """Question and chain of thought of `n` problems of all families in turn, then one text of rare words.

    Grades are mixed and every question has a style word. The last text has all style words and all numbers up
    to 400, so that a small `n` misses none.
    """
    for index, family in enumerate(islice(cycle(FAMILIES), n)):
        problem = make_problem(
            family, split="train", seed=seed, index=index, settings=EVERYTHING, render=False
        )
        yield problem.question
        yield str(problem.meta["chain_of_thought"])
    yield (
        " ".join(f"Style {word}." for word in STYLE_WORDS)
        + " "
        + " ".join(str(number) for number in range(401))
    )


GRAMMAR_SIZE = 200
"""Problems of each family that the grammar is read from; twice as many add no pair of words."""

WORD = re.compile(r"\\?[^\W\d_]+|\d+|[^\w\s]|_")


class Grammar:
    """Which word may follow which in a chain of thought. All numbers count as one word."""

    def __init__(self, texts: Iterable[str]) -> None:
        self.pairs = frozenset(pair for text in texts for pair in pairwise(self._words(text)))

    def share(self, text: str) -> float:
        """The share of neighbouring words, the start included, that the grammar knows; 0 for an empty text.

        Stricter than the share of known words: a closed vocabulary says nothing of their order.
        """
        pairs = list(pairwise(self._words(text)))
        return sum(pair in self.pairs for pair in pairs) / len(pairs) if pairs else 0.0

    @staticmethod
    def _words(text: str) -> list[str]:
        return ["", *("#" if word.isdigit() else word for word in WORD.findall(text))]


@cache
def grammar() -> Grammar:
    """The grammar of all families' chains of thought."""
    return Grammar(
        str(
            make_problem(family, split="train", seed=0, index=i, settings=EVERYTHING, render=False).meta[
                "chain_of_thought"
            ]
        )
        for family in FAMILIES
        for i in range(GRAMMAR_SIZE)
    )
