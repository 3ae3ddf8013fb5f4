"""Scenes of coloured shapes in cells: how they are named, listed, drawn at random, and read back from text.

A scene is `{"grid": [rows, columns], "pictures": [[cell, ...], ...]}`; a cell is "red circle" or "none", in
raster order. Cells are named A, B, C, ... over all pictures, so that a listing needs no other address: "A red
circle B none".
"""

import re
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from foveal.keys import generator
from foveal.types import Span
from foveal.worlds.base import Question, Reading, Scene, canonical, pick

COLOURS = ("red", "green", "blue", "yellow")
SHAPES = ("circle", "square", "triangle", "star")
OBJECTS = tuple(f"{colour} {shape}" for colour in COLOURS for shape in SHAPES)
NONE = "none"
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
OCCUPANCY = 0.8
"""Probability that a cell holds an object when nothing is asked of it."""

MOVES_TRIED = 60
_CELL = re.compile(rf"\b([A-Z])\s+({NONE}|(?:{'|'.join(COLOURS)})\s+(?:{'|'.join(SHAPES)}))\b")
_TALLY = re.compile(r"\b([A-Z])\s+(\d+)\b")


def make_scene(pictures: Iterable[Sequence[str]], *, grid: tuple[int, int]) -> Scene:
    """A scene of these pictures."""
    return {"grid": list(grid), "pictures": [list(cells) for cells in pictures]}


def all_cells(scene: Scene) -> list[str]:
    """The cells of all pictures in the order of their letters."""
    return [cell for cells in scene["pictures"] for cell in cells]


def matches(cell: str, *, colour: str | None = None, shape: str | None = None) -> bool:
    """Whether the cell holds an object of this colour and this shape (None: any)."""
    if cell == NONE:
        return False
    cell_colour, cell_shape = cell.split()
    return colour in (None, cell_colour) and shape in (None, cell_shape)


def draw_cells(
    rng: np.random.Generator,
    count: int,
    *,
    matching: int | None,
    colour: str | None = None,
    shape: str | None = None,
) -> list[str]:
    """Independent cells, given that exactly `matching` of them match (None: no condition).

    Cells are independent, so placing the matching ones at random and drawing each cell from its own side of
    the condition gives the same distribution as drawing whole scenes until the number is right.
    """
    fitting = [o for o in OBJECTS if matches(o, colour=colour, shape=shape)]
    other = [o for o in OBJECTS if o not in fitting]
    share = OCCUPANCY * len(fitting) / len(OBJECTS)
    if matching is None:
        is_match = rng.random(count) < share
    else:
        is_match = np.zeros(count, dtype=bool)
        is_match[rng.permutation(count)[:matching]] = True
    none_share = (1 - OCCUPANCY) / (1 - share) if other else 1.0
    return [
        pick(rng, fitting) if match else NONE if rng.random() < none_share else pick(rng, other)
        for match in is_match
    ]


def listing(cells: Sequence[str], *, first: int = 0) -> str:
    """The cells by name: "A red circle B none"."""
    return " ".join(f"{LETTERS[first + i]} {cell}" for i, cell in enumerate(cells))


def listing_of_scene(scene: Scene) -> str:
    """All cells by name, headed by their picture when there are several: "picture 1 A red circle ..."."""
    pictures = scene["pictures"]
    if len(pictures) == 1:
        return listing(pictures[0])
    size = len(pictures[0])
    return " ".join(f"picture {p + 1} {listing(cells, first=p * size)}" for p, cells in enumerate(pictures))


def running_tally(cells: Sequence[str], question: Question, *, first: int = 0, start: int = 0) -> str:
    """The number of matching cells so far after each cell: "A 1 B 1 C 2"."""
    parts, count = [], start
    for i, cell in enumerate(cells):
        count += matches(cell, colour=question.about.get("colour"), shape=question.about.get("shape"))
        parts.append(f"{LETTERS[first + i]} {count}")
    return " ".join(parts)


def moved_scenes(scene: Scene) -> Iterator[Scene]:
    """Other scenes with the cells permuted, those first in which most occupied cells hold something else."""
    cells = all_cells(scene)
    rng = generator("moved", canonical(scene))
    orders = [np.roll(np.arange(len(cells)), shift) for shift in range(1, len(cells))]
    orders += [rng.permutation(len(cells)) for _ in range(MOVES_TRIED)]
    candidates = [[cells[k] for k in order] for order in orders]
    occupied = [i for i, cell in enumerate(cells) if cell != NONE]
    candidates.sort(key=lambda new: sum(new[i] == cells[i] for i in occupied))
    size = len(scene["pictures"][0])
    for new in candidates:
        if new != cells:
            pictures = [new[p : p + size] for p in range(0, len(new), size)]
            yield make_scene(pictures, grid=(scene["grid"][0], scene["grid"][1]))


def thinking_part(text: str) -> str:
    """The chain of thought of a completion: what stands before `</think>`, or before the last box."""
    body = text.split("</think>")[0] if "</think>" in text else text.rpartition("\\boxed")[0] or text
    return body.replace("<think>", " ")


def seen_part(thinking: str) -> str:
    """The sentence that says what is seen; all of the text when it does not say so."""
    _, mark, rest = thinking.partition("I see")
    return (rest if mark else thinking).split(".")[0]


def seen_span(text: str) -> Span | None:
    """Where the sentence of `seen_part` stands in a whole completion; None when it is blank."""
    end = text.find("</think>") if "</think>" in text else max(text.rfind("\\boxed"), 0) or len(text)
    start = text.find("I see", 0, end)
    start = start + len("I see") if start >= 0 else 0
    stop = text.find(".", start, end)
    span = start, stop if stop >= 0 else end
    return span if text[span[0] : span[1]].replace("<think>", "").strip() else None


def conclusion_of(thinking: str) -> str | None:
    """What stands after the last "So", up to the end of its sentence."""
    found = re.findall(r"\bSo\s+([^.<\\]+)", thinking)
    return found[-1].strip() if found else None


def stated_cells(thinking: str, count: int) -> list[str | None]:
    """The contents of each cell as stated; None for a cell that was not stated readably."""
    cells: list[str | None] = [None] * count
    for letter, content in _CELL.findall(seen_part(thinking)):
        place = LETTERS.index(letter)
        if place < count and cells[place] is None:
            cells[place] = " ".join(content.split())
    return cells


def cell_attributes(stated: Sequence[str | None], truth: Sequence[str]) -> dict[str, tuple[int, int]]:
    """(right, stated) for colour, shape and position.

    Colour and shape count the objects that were stated, against what stands in that cell. Position counts the
    stated objects that are in the scene at all, and is right for those that stand where they were stated.
    """
    named = [(i, cell) for i, cell in enumerate(stated) if cell is not None and cell != NONE]
    pairs = [(cell.split(), truth[i].split()) for i, cell in named]
    known = [(i, cell) for i, cell in named if cell in truth]
    return {
        "colour": (sum(said[0] == true[0] for said, true in pairs), len(pairs)),
        "shape": (sum(said[1] == true[-1] for said, true in pairs), len(pairs)),
        "position": (sum(truth[i] == cell for i, cell in known), len(known)),
    }


def read_cells(scene: Scene, question: Question, text: str, *, restart: bool = False) -> Reading:
    """Read listing, tally and conclusion. `restart`: the tally begins anew with each picture.

    A cell that was not stated counts as empty. The tally is checked against the stated cells, entry by entry.
    """
    thinking = thinking_part(text)
    truth = all_cells(scene)
    stated = stated_cells(thinking, len(truth))
    filled = [cell or NONE for cell in stated]
    size = len(scene["pictures"][0])
    pictures = [filled[p : p + size] for p in range(0, len(filled), size)]
    right_tally: dict[str, str] = {}
    for p, cells in enumerate(pictures):
        start = 0 if restart or p == 0 else int(list(right_tally.values())[-1])
        right_tally |= dict(_TALLY.findall(running_tally(cells, question, first=p * size, start=start)))
    after = thinking.partition("Count")[2]
    arithmetic = all(right_tally.get(letter) == number for letter, number in _TALLY.findall(after))
    some = any(cell is not None for cell in stated)
    return Reading(
        stated=make_scene(pictures, grid=(scene["grid"][0], scene["grid"][1])) if some else None,
        attributes=cell_attributes(stated, truth),
        arithmetic=arithmetic,
        conclusion=conclusion_of(thinking),
    )
