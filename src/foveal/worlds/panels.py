"""Several pictures of coloured shapes: which one differs, which has more, how many in all."""

from collections.abc import Iterator

import numpy as np
from PIL.Image import Image

from foveal.worlds.base import Family, Grade, Question, Reading, Scene, pick
from foveal.worlds.cells import (
    COLOURS,
    NONE,
    OBJECTS,
    SHAPES,
    all_cells,
    draw_cells,
    listing,
    listing_of_scene,
    make_scene,
    matches,
    moved_scenes,
    read_cells,
    running_tally,
)
from foveal.worlds.draw import draw_cells_picture

SAME = "same"
MOST_IN_ALL = 3


class Panels(Family):
    """Two or three pictures of `grid` cells of `cell_px` each."""

    name = "panels"

    def __init__(self, *, grid: tuple[int, int] = (1, 2), cell_px: int = 56) -> None:
        """Pictures of `grid` (rows, columns) cells."""
        self.grid = grid
        self.cell_px = cell_px

    def question(self, rng: np.random.Generator) -> Question:
        """One of three templates; the two that count ask for a colour or for a shape."""
        template = pick(rng, ("differs", "more", "total"))
        kind = pick(rng, ("colour", "shape"))
        value = pick(rng, COLOURS if kind == "colour" else SHAPES)
        words = f"{value} objects" if kind == "colour" else f"{value}s"
        text, choices = {
            "differs": ("Which picture differs from the others?", ("1", "2", "3")),
            "more": (f"Which picture has more {words}?", ("1", "2", SAME)),
            "total": (
                f"How many {words} are there in both pictures?",
                tuple(map(str, range(MOST_IN_ALL + 1))),
            ),
        }[template]
        about = {} if template == "differs" else {kind: value}
        return Question(template=template, text=text, about=about, choices=choices, target=pick(rng, choices))

    def scene(self, question: Question, rng: np.random.Generator) -> Scene:
        """Pictures whose answer is the target; their cells are independent otherwise."""
        size = self.grid[0] * self.grid[1]
        colour, shape = question.about.get("colour"), question.about.get("shape")
        if question.template == "differs":
            usual = draw_cells(rng, size, matching=None)
            odd = list(usual)
            place = int(rng.integers(size))
            odd[place] = pick(rng, [content for content in (NONE, *OBJECTS) if content != usual[place]])
            pictures = [odd if question.target == str(p + 1) else usual for p in range(3)]
        elif question.template == "total":
            cells = draw_cells(rng, 2 * size, matching=int(str(question.target)), colour=colour, shape=shape)
            pictures = [cells[:size], cells[size:]]
        else:
            pairs = [
                (a, b) for a in range(size + 1) for b in range(size + 1) if _more(a, b) == question.target
            ]
            counts = pairs[int(rng.integers(len(pairs)))]
            pictures = [draw_cells(rng, size, matching=n, colour=colour, shape=shape) for n in counts]
        return make_scene(pictures, grid=self.grid)

    def picture_count(self, scene: Scene) -> int:
        """Two or three."""
        return len(scene["pictures"])

    def render(self, scene: Scene, *, noise: float, rng: np.random.Generator) -> tuple[Image, ...]:
        """One picture a panel."""
        grid = (scene["grid"][0], scene["grid"][1])
        return tuple(
            draw_cells_picture(cells, grid=grid, cell_px=self.cell_px, noise=noise, rng=rng)
            for cells in scene["pictures"]
        )

    def solve(self, scene: Scene, question: Question) -> str | None:
        """The number of a picture, of objects, or "same"; None when no single picture differs."""
        pictures = scene["pictures"]
        if question.template == "differs":
            odd = [p for p, cells in enumerate(pictures) if pictures.count(cells) == 1]
            return str(odd[0] + 1) if len(pictures) == 3 and len(odd) == 1 else None
        if len(pictures) != 2:
            return None
        first, second = (_count(cells, question) for cells in pictures)
        return str(first + second) if question.template == "total" else _more(first, second)

    def facts(self, scene: Scene, question: Question, *, grade: Grade) -> str:
        """The first picture, or all."""
        if grade == "high":
            return ""
        if grade == "medium":
            return f"The first is picture 1 {listing(scene['pictures'][0])}."
        return f"The pictures are {listing_of_scene(scene)}."

    def think(self, scene: Scene, question: Question) -> str:
        """List the pictures, count along them or say which two are alike, then conclude."""
        pictures, answer = scene["pictures"], self.solve(scene, question)
        seen = f"I see {listing_of_scene(scene)}."
        size = len(pictures[0])
        if question.template == "differs":
            alike = [str(p + 1) for p in range(len(pictures)) if str(p + 1) != answer]
            return f"{seen} Same {' and '.join(alike)}. So {answer}."
        if question.template == "total":
            return f"{seen} Count {running_tally(all_cells(scene), question)}. So {answer}."
        counts = [running_tally(cells, question, first=p * size) for p, cells in enumerate(pictures)]
        return f"{seen} Count {counts[0]}. Count {counts[1]}. So {answer}."

    def read(self, scene: Scene, question: Question, text: str) -> Reading:
        """Listing, tallies and conclusion."""
        return read_cells(scene, question, text, restart=question.template != "total")

    def moves(self, scene: Scene) -> Iterator[Scene]:
        """The cells of all pictures in another order."""
        return moved_scenes(scene)


def _count(cells: list[str], question: Question) -> int:
    colour, shape = question.about.get("colour"), question.about.get("shape")
    return sum(matches(cell, colour=colour, shape=shape) for cell in cells)


def _more(first: int, second: int) -> str:
    return SAME if first == second else "1" if first > second else "2"
