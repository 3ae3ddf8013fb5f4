"""What the cold start imitates: solutions in weighted pieces, blank pictures, and labels of visual tokens."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from foveal.perturbations.occlude import PatchMask
from foveal.types import IMAGE_MARK, PerturbationContext, Problem
from foveal.worlds.base import Scene
from foveal.worlds.cells import COLOURS, NONE, SHAPES
from foveal.worlds.tiny import TOKEN_SIDE

CELL_FAMILIES = ("counting", "relations", "panels")
"""Families whose scenes are objects in cells."""

HIDDEN_RANGE = (0.6, 1.0)
"""Part of a blanked picture that is hidden; the low end keeps the edge to ordinary pictures soft."""


def solution(problem: Problem, *, listing_weight: float) -> list[tuple[str, float]]:
    """The chain of thought in two pieces: what is seen, with `listing_weight`, and what follows from it."""
    text = str(problem.meta["chain_of_thought"])
    seen, stop, rest = text.partition(".")
    return [(seen + stop, listing_weight), (rest, 1.0)]


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
