"""Text for training a tokenizer: all words, numbers and marks of the worlds."""

from collections.abc import Iterator
from itertools import cycle, islice

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
