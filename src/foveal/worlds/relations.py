"""Where objects stand, and what stands beside them. Every object of a scene is there once."""

from collections.abc import Iterator

import numpy as np
from PIL.Image import Image

from foveal.worlds.base import Family, Grade, Question, Reading, Scene, pick
from foveal.worlds.cells import (
    COLOURS,
    NONE,
    OBJECTS,
    OCCUPANCY,
    SHAPES,
    all_cells,
    listing,
    make_scene,
    moved_scenes,
    read_cells,
)
from foveal.worlds.counting import cell_facts
from foveal.worlds.draw import draw_cells_picture

DIRECTIONS = {"left of": (0, -1), "right of": (0, 1), "above": (-1, 0), "below": (1, 0)}
"""(rows, columns) from an object to what is left of it, ..."""

PLACES = ("top left", "top right", "bottom left", "bottom right")


class Relations(Family):
    """Where is X? What colour or shape is the object left of X? Is X above Y? In a picture of 2 x 2 cells."""

    name = "relations"

    def __init__(self, *, cell_px: int = 56) -> None:
        """Pictures of 2 x 2 cells of `cell_px` pixels a side."""
        self.grid = (2, 2)
        self.cell_px = cell_px

    def question(self, rng: np.random.Generator) -> Question:
        """One of four templates about one or two objects that the scene will hold."""
        template = pick(rng, ("where", "colour_beside", "shape_beside", "is_beside"))
        first, second = (OBJECTS[int(i)] for i in rng.permutation(len(OBJECTS))[:2])
        direction = pick(rng, tuple(DIRECTIONS))
        text, choices = {
            "where": (f"Where is the {first}?", PLACES),
            "colour_beside": (f"What colour is the object {direction} the {first}?", COLOURS),
            "shape_beside": (f"What shape is the object {direction} the {first}?", SHAPES),
            "is_beside": (f"Is the {first} {direction} the {second}?", ("yes", "no")),
        }[template]
        about = {"object": first}
        if template != "where":
            about["direction"] = direction
        if template == "is_beside":
            about["other"] = second
        return Question(template=template, text=text, about=about, choices=choices, target=pick(rng, choices))

    def scene(self, question: Question, rng: np.random.Generator) -> Scene:
        """Place what is asked so that the answer is the target; the other cells hold other objects."""
        about, target = question.about, question.target
        cells: list[str | None] = [None] * 4
        if question.template == "where":
            cells[PLACES.index(str(target))] = about["object"]
        elif question.template == "is_beside":
            pairs = [(a, b) for a in range(4) for b in range(4) if a != b]
            fitting = [p for p in pairs if _is_beside(p[0], p[1], about["direction"]) == (target == "yes")]
            a, b = fitting[int(rng.integers(len(fitting)))]
            cells[a], cells[b] = about["object"], about["other"]
        else:
            spots = [(a, b) for a in range(4) for b in range(4) if _neighbour(a, about["direction"]) == b]
            a, b = spots[int(rng.integers(len(spots)))]
            cells[a] = about["object"]
            cells[b] = pick(rng, [o for o in OBJECTS if target in o.split() and o != about["object"]])
        free = [o for o in OBJECTS if o not in cells and o != about.get("other")]
        order = iter(rng.permutation(len(free)))
        filled = [
            cell if cell is not None else free[int(next(order))] if rng.random() < OCCUPANCY else NONE
            for cell in cells
        ]
        return make_scene([filled], grid=self.grid)

    def picture_count(self, scene: Scene) -> int:
        """One picture."""
        return 1

    def render(self, scene: Scene, *, noise: float, rng: np.random.Generator) -> tuple[Image, ...]:
        """The cells of the scene."""
        return (
            draw_cells_picture(all_cells(scene), grid=self.grid, cell_px=self.cell_px, noise=noise, rng=rng),
        )

    def solve(self, scene: Scene, question: Question) -> str | None:
        """The answer; None when an object is missing or not unique, or nothing stands at the asked place."""
        cells, about = all_cells(scene), question.about
        first, second = about["object"], about.get("other")
        if cells.count(first) != 1 or (second is not None and cells.count(second) != 1):
            return None
        place = cells.index(first)
        if question.template == "where":
            return PLACES[place]
        if second is not None:
            return "yes" if _is_beside(place, cells.index(second), about["direction"]) else "no"
        beside = _neighbour(place, about["direction"])
        if beside is None or cells[beside] == NONE:
            return None
        return cells[beside].split()[0 if question.template == "colour_beside" else 1]

    def facts(self, scene: Scene, question: Question, *, grade: Grade) -> str:
        """The top row, or all cells."""
        return cell_facts(scene, grade=grade)

    def think(self, scene: Scene, question: Question) -> str:
        """List the cells, say where the named objects are and what is beside them, then conclude."""
        cells, about = all_cells(scene), question.about
        place = cells.index(about["object"])
        steps = [f"I see {listing(cells)}.", f"The {about['object']} is {PLACES[place]}."]
        if question.template == "is_beside":
            steps.append(f"The {about['other']} is {PLACES[cells.index(about['other'])]}.")
        elif question.template != "where":
            beside = next(b for b in range(4) if _neighbour(place, about["direction"]) == b)
            steps.append(f"The {cells[beside]} is {PLACES[beside]}.")
        return " ".join([*steps, f"So {self.solve(scene, question)}."])

    def read(self, scene: Scene, question: Question, text: str) -> Reading:
        """Listing and conclusion; there is no arithmetic in this family."""
        return read_cells(scene, question, text)

    def moves(self, scene: Scene) -> Iterator[Scene]:
        """The cells in another order."""
        return moved_scenes(scene)


def _neighbour(place: int, direction: str) -> int | None:
    """The cell next to `place` in this direction; None outside the picture."""
    rows, columns = DIRECTIONS[direction]
    row, column = place // 2 + rows, place % 2 + columns
    return row * 2 + column if 0 <= row < 2 and 0 <= column < 2 else None


def _is_beside(first: int, second: int, direction: str) -> bool:
    """Whether `first` stands in this direction of `second`, in whichever row or column."""
    rows, columns = DIRECTIONS[direction]
    return (first // 2 - second // 2) * rows > 0 or (first % 2 - second % 2) * columns > 0
