"""Counting coloured shapes in the cells of one picture."""

from collections.abc import Iterator

import numpy as np
from PIL.Image import Image

from foveal.worlds.base import Family, Grade, Question, Reading, Scene, pick
from foveal.worlds.cells import (
    COLOURS,
    SHAPES,
    all_cells,
    draw_cells,
    listing,
    make_scene,
    matches,
    moved_scenes,
    read_cells,
    running_tally,
)
from foveal.worlds.draw import draw_cells_picture


def cell_facts(scene: Scene, *, grade: Grade) -> str:
    """What the text says of the cells of one picture: nothing, the top row, or all."""
    cells = all_cells(scene)
    columns = scene["grid"][1]
    if grade == "high":
        return ""
    if grade == "medium":
        return f"The top row is {listing(cells[:columns])}."
    return f"The cells are {listing(cells)}."


class Counting(Family):
    """How many {colour} {shape}s, {colour} objects, or {shape}s are there?

    `balanced`: the answer is uniform over the choices of the template; else every cell is drawn freely, so
    that the question says nothing about any cell either.
    """

    name = "counting"

    def __init__(self, *, grid: tuple[int, int] = (2, 2), cell_px: int = 56, balanced: bool = True) -> None:
        """Pictures of `grid` (rows, columns) cells of `cell_px` pixels a side."""
        self.grid = grid
        self.cell_px = cell_px
        self.balanced = balanced

    def question(self, rng: np.random.Generator) -> Question:
        """One of three templates, with a colour, a shape, or both."""
        template = pick(rng, ("colour_shape", "colour", "shape"))
        colour, shape = pick(rng, COLOURS), pick(rng, SHAPES)
        # More than two equal objects, or three of a colour, would fill the scene with what is asked.
        most = (2 if template == "colour_shape" else 3) if self.balanced else self.grid[0] * self.grid[1]
        choices = tuple(str(n) for n in range(most + 1))
        about = {
            "colour_shape": {"colour": colour, "shape": shape},
            "colour": {"colour": colour},
            "shape": {"shape": shape},
        }[template]
        words = {
            "colour_shape": f"{colour} {shape}s",
            "colour": f"{colour} objects",
            "shape": f"{shape}s",
        }[template]
        target = pick(rng, choices)
        return Question(
            template=template,
            text=f"How many {words} are there?",
            about=about,
            choices=choices,
            target=target if self.balanced else None,
        )

    def scene(self, question: Question, rng: np.random.Generator) -> Scene:
        """Cells with the asked number of matching objects."""
        cells = draw_cells(
            rng,
            self.grid[0] * self.grid[1],
            matching=None if question.target is None else int(question.target),
            colour=question.about.get("colour"),
            shape=question.about.get("shape"),
        )
        return make_scene([cells], grid=self.grid)

    def picture_count(self, scene: Scene) -> int:
        """One picture."""
        return 1

    def render(self, scene: Scene, *, noise: float, rng: np.random.Generator) -> tuple[Image, ...]:
        """The cells of the scene."""
        grid = (scene["grid"][0], scene["grid"][1])
        return (draw_cells_picture(all_cells(scene), grid=grid, cell_px=self.cell_px, noise=noise, rng=rng),)

    def solve(self, scene: Scene, question: Question) -> str | None:
        """The number of matching cells."""
        colour, shape = question.about.get("colour"), question.about.get("shape")
        return str(sum(matches(cell, colour=colour, shape=shape) for cell in all_cells(scene)))

    def facts(self, scene: Scene, question: Question, *, grade: Grade) -> str:
        """The top row, or all cells."""
        return cell_facts(scene, grade=grade)

    def think(self, scene: Scene, question: Question) -> str:
        """List the cells, then count along them."""
        cells = all_cells(scene)
        tally = running_tally(cells, question)
        return f"I see {listing(cells)}. Count {tally}. So {self.solve(scene, question)}."

    def read(self, scene: Scene, question: Question, text: str) -> Reading:
        """Listing, tally and conclusion."""
        return read_cells(scene, question, text)

    def moves(self, scene: Scene) -> Iterator[Scene]:
        """The cells in another order."""
        return moved_scenes(scene)
