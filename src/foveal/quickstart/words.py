"""What a model does with a style word: held-out accuracy with the word random, wrong and right, how many
answers follow a wrong word, and how many completions describe the picture at all.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from foveal.config import RunConfig
from foveal.evaluation.records import Evaluation
from foveal.jobs.worker import first_problems
from foveal.policy.model import Policy
from foveal.train.assess import assess_policy
from foveal.types import Problem
from foveal.worlds.judge import boxed_answer, describes, same

WordMode = Literal["random", "wrong", "right"]

WORD_MODES: tuple[WordMode, ...] = ("wrong", "random", "right")
"""What the style word of a held-out question says about its answer."""


def word_problems(config: RunConfig, mode: WordMode, *, count: int) -> Sequence[Problem]:
    """The first problems of the configuration's data with this kind of word; scenes are those of any mode."""
    data = config.data.model_copy(update={"shortcut_word": mode})
    return first_problems(config.model_copy(update={"data": data}), count)


def measure_words(
    policy: Policy,
    config: RunConfig,
    *,
    count: int,
    modes: Sequence[WordMode],
    name: str,
    method: str,
    seed: int | None,
    folder: Path,
) -> dict[str, float | None]:
    """The shortcut columns of a row of `summary.json`; evaluations are saved as `folder/NAME-MODE`.

    `follow` and `describes` are measured with the wrong word, accuracy with another problem's picture and
    perception errors with the random one.
    """
    row: dict[str, float | None] = {}
    for mode in modes:
        problems = word_problems(config, mode, count=count)
        found = assess_policy(
            policy,
            config,
            problems,
            samples=0,
            progress=None,
            name=f"{name}-{mode}",
            method=method,
            seed=seed,
            other_picture=mode == "random",
        )
        found.save(folder / f"{name}-{mode}")
        row[f"accuracy_{mode}"] = found.accuracy.value
        if mode == "wrong":
            row["follow"] = follow_share(found, problems)
            row["describes"] = describe_share(found, problems)
        if mode == "random":
            for quantity in ("accuracy_other_picture", "perception_error_fraction"):
                estimate = found.estimate(quantity)
                row[quantity] = None if estimate is None else estimate.value
    return row


def follows_word(problem: Problem, text: str) -> bool:
    """Whether the answer is the one that the style word stands for."""
    boxed = boxed_answer(text)
    return boxed is not None and same(boxed, str(problem.meta["shortcut"]["answer"]))


def follow_share(found: Evaluation, problems: Sequence[Problem]) -> float:
    """Share of answers that the style word stands for."""
    pairs = zip(found.records, problems, strict=True)
    return sum(follows_word(problem, record.texts[0]) for record, problem in pairs) / len(problems)


def describe_share(found: Evaluation, problems: Sequence[Problem]) -> float:
    """Share of completions that describe the picture; see `foveal.worlds.judge.describes`."""
    pairs = zip(found.records, problems, strict=True)
    return sum(describes(problem, record.texts[0]) for record, problem in pairs) / len(problems)
