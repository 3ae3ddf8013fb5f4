"""What the cold start imitates: solutions of a teacher, who may confuse words, and labels of tokens."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from foveal.perturbations.occlude import PatchMask
from foveal.types import IMAGE_MARK, PerturbationContext, Problem
from foveal.worlds.base import Scene
from foveal.worlds.cells import COLOURS, NONE, SHAPES
from foveal.worlds.problems import family_of, question_of
from foveal.worlds.tiny import TOKEN_SIDE

CELL_FAMILIES = ("counting", "relations", "panels")
"""Families whose scenes are objects in cells."""

LOOKS = 8
HIDDEN_RANGE = (0.6, 1.0)
"""Part of a blanked picture that is hidden; the low end keeps the edge to ordinary pictures soft."""


def solution(problem: Problem, *, listing_weight: float) -> list[tuple[str, float]]:
    """The chain of thought in two pieces: what is seen, with `listing_weight`, and what follows from it."""
    text = str(problem.meta["chain_of_thought"])
    seen, stop, rest = text.partition(".")
    return [(seen + stop, listing_weight), (rest, 1.0)]


def careless(
    problem: Problem,
    *,
    confusions: Mapping[str, str],
    overlooked: Sequence[int],
    rate: float,
    rng: np.random.Generator,
) -> Problem:
    """The problem with the solution of a teacher who confuses words, overlooks cells, and reasons on.

    An object that the question names is known by its name. A look from which nothing follows is repeated, and
    the truth is seen in the end. Pictures stay, and so do problems of several pictures.
    """
    family, question, scene = family_of(problem.meta["family"]), question_of(problem), problem.meta["scene"]
    if problem.meta["family"] not in CELL_FAMILIES or len(scene["pictures"]) > 1:
        return problem
    named = set(question.about.values())

    def look(place: int, cell: str) -> str:
        miss = rng.random() < rate
        words = (confusions.get(word, word) if rng.random() < rate else word for word in cell.split())
        return cell if cell in named else NONE if miss and place in overlooked else " ".join(words)

    for _ in range(LOOKS):
        cells = [look(place, cell) for place, cell in enumerate(scene["pictures"][0])]
        seen = {**scene, "pictures": [cells]}
        answer = family.solve(seen, question)
        if answer is not None:
            text = f"<think> {family.think(seen, question)} </think> \\boxed{{{answer}}}"
            return dataclasses.replace(problem, meta={**problem.meta, "chain_of_thought": text})
    return problem


def blanked(problem: Problem, rng: np.random.Generator) -> Problem:
    """The problem with most of each picture in its mean colour, answered without a look."""
    hide = PatchMask(ratio=float(rng.uniform(*HIDDEN_RANGE)), fill="mean")
    images = tuple(hide(image, rng=rng, context=PerturbationContext()) for image in problem.images)
    text = f"<think> I see {NONE}. So {problem.answer}. </think> \\boxed{{{problem.answer}}}"
    meta = {**problem.meta, "chain_of_thought": text}
    return dataclasses.replace(problem, images=images, meta=meta)


def without_marks(problem: Problem) -> Problem:
    """The problem without pictures and without the marks that stand for them."""
    return dataclasses.replace(problem, question=problem.question.replace(IMAGE_MARK, "").strip(), images=())


def cell_labels(problems: Sequence[Problem]) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """For each picture, the colour, shape and cell of every visual token; 0 is an empty cell."""
    found = []
    for problem in problems:
        scene: Scene = problem.meta["scene"]
        rows, columns = scene["grid"]
        for cells, image in zip(scene["pictures"], problem.images, strict=True):
            height, width = image.height // TOKEN_SIDE, image.width // TOKEN_SIDE
            y, x = np.divmod(np.arange(height * width), width)
            place = y * rows // height * columns + x * columns // width
            found.append(
                (
                    np.array([_label(cells[cell], COLOURS, 0) for cell in place]),
                    np.array([_label(cells[cell], SHAPES, 1) for cell in place]),
                    place,
                )
            )
    return found


def _label(cell: str, names: Sequence[str], word: int) -> int:
    return 0 if cell == NONE else 1 + names.index(cell.split()[word])
