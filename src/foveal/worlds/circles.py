"""Circles with a chord: radius, chord, and its distance from the centre; two are given, one is asked.

A scene is `{"chord": ..., "radius": ..., "distance": ..., "turn": ..., "side": ...}`: the three labels ("x"
is asked), the direction of the chord from the centre in steps of 45 degrees, and on which side the radius is
drawn.
"""

import math
import re

import numpy as np
from PIL.Image import Image

from foveal.worlds.base import Family, Grade, Question, Reading, Scene, pick
from foveal.worlds.cells import conclusion_of, seen_part, thinking_part
from foveal.worlds.draw import Drawing, Point
from foveal.worlds.figures import (
    LENGTH,
    TRIPLES,
    UNKNOWN,
    equation,
    equations_follow,
    exact_root,
    first_match,
    right_numbers,
    together,
)

PARTS = ("chord", "radius", "distance")
CIRCLES = tuple(
    {"chord": 2 * half, "radius": c, "distance": distance}
    for a, b, c in TRIPLES
    for half, distance in ((a, b), (b, a))
)
"""Circles in which half the chord, the distance and the radius are whole numbers."""

SIDE_PX = 112
RADIUS_PX = 50.0
TURNS = 8
PART_INKS = {"chord": "blue", "radius": "red", "distance": "green"}


class Circles(Family):
    """Find x: the chord, the radius or the distance."""

    name = "circles"

    def question(self, rng: np.random.Generator) -> Question:
        """The words are always the same; the template is which part is asked."""
        template = pick(rng, PARTS)
        choices = tuple(str(n) for n in sorted({circle[template] for circle in CIRCLES}))
        return Question(
            template=template,
            text="The dot is the centre. Find x.",
            choices=choices,
            target=pick(rng, choices),
        )

    def scene(self, question: Question, rng: np.random.Generator) -> Scene:
        """A circle whose asked part is the target."""
        fitting = [c for c in CIRCLES if str(c[question.template]) == question.target]
        circle = fitting[int(rng.integers(len(fitting)))]
        labels = {part: UNKNOWN if part == question.template else str(circle[part]) for part in PARTS}
        return {**labels, "turn": int(rng.integers(TURNS)), "side": int(rng.integers(2))}

    def picture_count(self, scene: Scene) -> int:
        """One picture."""
        return 1

    def render(self, scene: Scene, *, noise: float, rng: np.random.Generator) -> tuple[Image, ...]:
        """The circle in its true proportions; each label has the colour of its line."""
        drawing = Drawing(SIDE_PX, SIDE_PX, noise=noise, rng=rng)
        radius = RADIUS_PX * float(rng.uniform(0.96, 1.0))
        ox, oy = SIDE_PX / 2 + rng.uniform(-3, 3, 2)
        turn = scene["turn"] * 2 * math.pi / TURNS + float(rng.uniform(-0.06, 0.06))
        out = (math.cos(turn), math.sin(turn))
        side = 1 if scene["side"] else -1
        across = (-side * out[1], side * out[0])
        circle = _whole(scene)
        far, half = (
            radius * circle["distance"] / circle["radius"],
            radius * circle["chord"] / 2 / circle["radius"],
        )

        def at(outward: float, sideways: float) -> Point:
            return (
                float(ox + out[0] * outward + across[0] * sideways),
                float(oy + out[1] * outward + across[1] * sideways),
            )

        drawing.circle((float(ox), float(oy)), radius)
        drawing.line(at(far, -half), at(far, half), ink=PART_INKS["chord"])
        drawing.line(at(0, 0), at(far, 0), ink=PART_INKS["distance"])
        # The mark of the right angle keeps away from the label that is nearer.
        mark = -6 if far > 0.7 * radius else 6
        drawing.line(at(far - 6, 0), at(far - 6, mark), at(far, mark), ink=PART_INKS["distance"])
        slant = math.radians(35)
        tip = (-radius * math.cos(slant), radius * math.sin(slant))
        drawing.line(at(0, 0), at(*tip), ink=PART_INKS["radius"])
        drawing.circle((float(ox), float(oy)), 2.4, filled=True)
        drawing.label_beside(
            scene["distance"], at(far * 0.42, 0), (-across[0], -across[1]), ink=PART_INKS["distance"]
        )
        drawing.label_beside(
            scene["chord"], at(far, max(half * 0.5, 10)), (-out[0], -out[1]), ink=PART_INKS["chord"]
        )
        normal = (
            -out[0] * math.sin(slant) - across[0] * math.cos(slant),
            -out[1] * math.sin(slant) - across[1] * math.cos(slant),
        )
        drawing.label_beside(
            scene["radius"], at(tip[0] * 0.55, tip[1] * 0.55), normal, ink=PART_INKS["radius"]
        )
        return (drawing.finish(),)

    def solve(self, scene: Scene, question: Question) -> str | None:
        """The asked part from the labels alone; None when they do not give a whole number."""
        asked = [part for part in PARTS if scene[part] == UNKNOWN]
        known = {part: int(scene[part]) for part in PARTS if scene[part] != UNKNOWN}
        if len(asked) != 1 or known.get("chord", 0) % 2:
            return None
        if asked[0] == "radius":
            root = exact_root((known["chord"] // 2) ** 2 + known["distance"] ** 2)
        elif asked[0] == "distance":
            root = exact_root(known["radius"] ** 2 - (known["chord"] // 2) ** 2)
        else:
            root = exact_root(known["radius"] ** 2 - known["distance"] ** 2)
        return None if root is None else str(2 * root if asked[0] == "chord" else root)

    def facts(self, scene: Scene, question: Question, *, grade: Grade) -> str:
        """One length, or all labels."""
        if grade == "high":
            return ""
        if grade == "low":
            return f"Given {_description(scene)}."
        part = next(part for part in PARTS if scene[part] != UNKNOWN)
        return f"Given {part} {scene[part]}."

    def think(self, scene: Scene, question: Question) -> str:
        """The labels, half the chord and one equation, the answer."""
        half, sum_ = f"The half is {_half(scene)}.", f"{_working(scene)}."
        steps = [sum_, half] if scene["chord"] == UNKNOWN else [half, sum_]
        return " ".join([f"I see {_description(scene)}.", *steps, f"So {self.solve(scene, question)}."])

    def read(self, scene: Scene, question: Question, text: str) -> Reading:
        """Labels, half, equation and conclusion."""
        thinking = thinking_part(text)
        seen = seen_part(thinking)
        found = {part: first_match(rf"{part}\s+{LENGTH}", seen) for part in PARTS}
        stated = {part: value[0] for part, value in found.items() if value is not None}
        whole = stated if len(stated) == len(PARTS) else None
        half = re.search(r"half\s+is\s+(\d+)", thinking)
        return Reading(
            stated=whole,
            attributes={
                "length": together(*(right_numbers([v], [scene[part]]) for part, v in stated.items()))
            },
            arithmetic=whole is None
            or (
                equations_follow(thinking, _working(whole))
                and (half is None or half.group(1) == str(_half(whole)))
            ),
            conclusion=conclusion_of(thinking),
        )


def _whole(scene: Scene) -> dict[str, int]:
    """The circle with the asked part filled in."""
    return next(c for c in CIRCLES if all(scene[part] in (UNKNOWN, str(c[part])) for part in PARTS))


def _description(scene: Scene) -> str:
    return ", ".join(f"{part} {scene[part]}" for part in PARTS)


def _half(scene: Scene) -> int | None:
    """Half the chord, from its label or from the other two parts."""
    if scene["chord"] != UNKNOWN:
        return int(scene["chord"]) // 2
    if UNKNOWN in (scene["radius"], scene["distance"]):
        return None
    return exact_root(int(scene["radius"]) ** 2 - int(scene["distance"]) ** 2)


def _working(scene: Scene) -> str | None:
    """The equation that follows from the labels."""
    asked = [part for part in PARTS if scene[part] == UNKNOWN]
    if len(asked) != 1:
        return None
    squares = {part: int(scene[part]) ** 2 for part in ("radius", "distance") if scene[part] != UNKNOWN}
    if asked[0] == "chord":
        return equation(squares["radius"], "-", squares["distance"])
    half = (int(scene["chord"]) // 2) ** 2
    if asked[0] == "distance":
        return equation(squares["radius"], "-", half)
    return equation(half, "+", squares["distance"])
