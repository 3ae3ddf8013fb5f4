"""Right triangles with labels: "find x" from two sides, or from one when the angles are 30, 60, 90 degrees.

A scene is `{"legs": [horizontal, vertical], "hypotenuse": ..., "angle": ..., "corner": ..., "ink": ...}`.
Lengths are labels: a number, "x" for the asked one, "" for a side without label. `angle` is null, or
[degrees, leg at whose end it is marked].
"""

import math

import numpy as np
from PIL.Image import Image

from foveal.worlds.base import Family, Grade, Question, Reading, Scene, pick
from foveal.worlds.cells import conclusion_of, seen_part, thinking_part
from foveal.worlds.draw import INKS, Drawing, Point, label_size
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

SHORT_LEGS = tuple(range(2, 10))
"""Short legs of triangles with angles 30, 60 and 90 degrees."""

SIDE_PX = 112
LONGEST_LEG_PX = 70.0
TEMPLATES = {
    "hypotenuse": tuple(str(c) for _, _, c in TRIPLES),
    "leg": tuple(str(n) for n in sorted({n for a, b, _ in TRIPLES for n in (a, b)})),
    "double": tuple(str(2 * n) for n in SHORT_LEGS),
    "half": tuple(str(n) for n in SHORT_LEGS),
}


class Triangles(Family):
    """Find x: a leg or the hypotenuse by Pythagoras, or from one side of a 30-60-90 triangle."""

    name = "triangles"

    def question(self, rng: np.random.Generator) -> Question:
        """The words are always the same; the template is which side is asked."""
        template = pick(rng, tuple(TEMPLATES))
        choices = TEMPLATES[template]
        return Question(template=template, text="Find x.", choices=choices, target=pick(rng, choices))

    def scene(self, question: Question, rng: np.random.Generator) -> Scene:
        """A triangle whose asked side is the target."""
        target, turned = int(str(question.target)), bool(rng.integers(2))
        angle: list[int] | None = None
        if question.template in ("double", "half"):
            short = target // 2 if question.template == "double" else target
            legs, hypotenuse = [str(short), ""], str(2 * short)
            if question.template == "double":
                hypotenuse = UNKNOWN
            else:
                legs[0] = UNKNOWN
            degrees = (30, 60)[int(rng.integers(2))]
            # 30 degrees are at the end of the long leg (1 here), 60 degrees at the end of the short one.
            angle = [degrees, int((degrees == 30) != turned)]
        else:
            leg = question.template == "leg"
            fitting = [t for t in TRIPLES if target in (t[:2] if leg else t[2:])]
            a, b, c = fitting[int(rng.integers(len(fitting)))]
            legs, hypotenuse = [str(a), str(b)], str(c)
            if leg:
                legs[legs.index(str(target))] = UNKNOWN
            else:
                hypotenuse = UNKNOWN
        return {
            "legs": legs[::-1] if turned else legs,
            "hypotenuse": hypotenuse,
            "angle": angle,
            "corner": int(rng.integers(4)),
            "ink": pick(rng, tuple(INKS)),
        }

    def picture_count(self, scene: Scene) -> int:
        """One picture."""
        return 1

    def render(self, scene: Scene, *, noise: float, rng: np.random.Generator) -> tuple[Image, ...]:
        """The triangle in its true proportions, with a mark at the right angle."""
        drawing = Drawing(SIDE_PX, SIDE_PX, noise=noise, rng=rng)
        ink = scene["ink"]
        width, height = (float(v) * rng.uniform(0.94, 1.0) for v in _legs_px(scene))
        # The right angle is at the origin of (u, v); flips put it in any of the four corners.
        flip_u, flip_v = scene["corner"] in (1, 2), scene["corner"] in (2, 3)
        shift_u, shift_v = 26 + float(rng.uniform(-1, 2)), 22 + float(rng.uniform(-1, 2))

        def at(u: float, v: float) -> Point:
            x, y = shift_u + u, SIDE_PX - shift_v - v
            return (SIDE_PX - x if flip_u else x, SIDE_PX - y if flip_v else y)

        def toward(u: float, v: float) -> Point:
            return (-u if flip_u else u, v if flip_v else -v)

        drawing.line(at(0, 0), at(width, 0), at(0, height), at(0, 0), at(width, 0), ink=ink)
        drawing.line(at(7, 0), at(7, 7), at(0, 7), ink=ink)
        drawing.label_beside(scene["legs"][0], at(width / 2, 0), toward(0, -1), ink=ink)
        drawing.label_beside(scene["legs"][1], at(0, height / 2), toward(-1, 0), ink=ink)
        length = math.hypot(width, height)
        along, out = (-width / length, height / length), (height / length, width / length)
        middle = at(width / 2, height / 2)
        if scene["angle"] is not None:
            degrees, leg = scene["angle"]
            sign = 1 if leg == 0 else -1
            start = (width, 0.0) if leg == 0 else (0.0, height)
            step = label_size("30°")[0] * abs(out[1]) * 0.4
            point = at(start[0] + sign * along[0] * step, start[1] + sign * along[1] * step)
            drawing.label_beside(f"{degrees}°", point, toward(*out), ink=ink)
            # The label of the hypotenuse gives way to that of the angle.
            give = 0.12 * sign
            middle = at(width / 2 + give * (-width), height / 2 + give * height)
        drawing.label_beside(scene["hypotenuse"], middle, toward(*out), ink=ink)
        return (drawing.finish(),)

    def solve(self, scene: Scene, question: Question) -> str | None:
        """The asked length from the labels alone; None when they do not give a whole number."""
        legs, hypotenuse = scene["legs"], scene["hypotenuse"]
        if "" in legs:
            short = next((leg for leg in legs if leg), "")
            if hypotenuse == UNKNOWN and short.isdigit():
                return str(2 * int(short))
            if short == UNKNOWN and hypotenuse.isdigit() and int(hypotenuse) % 2 == 0:
                return str(int(hypotenuse) // 2)
            return None
        if [*legs, hypotenuse].count(UNKNOWN) != 1:
            return None
        if hypotenuse == UNKNOWN:
            root = exact_root(int(legs[0]) ** 2 + int(legs[1]) ** 2)
        else:
            root = exact_root(int(hypotenuse) ** 2 - int(next(n for n in legs if n != UNKNOWN)) ** 2)
        return None if root is None else str(root)

    def facts(self, scene: Scene, question: Question, *, grade: Grade) -> str:
        """One length, or all labels."""
        if grade == "high":
            return ""
        if grade == "low":
            return f"Given {_description(scene)}."
        if scene["hypotenuse"] != UNKNOWN:
            return f"Given hypotenuse {scene['hypotenuse']}."
        known = next(leg for leg in scene["legs"] if leg not in ("", UNKNOWN))
        return f"Given {'short ' if '' in scene['legs'] else ''}leg {known}."

    def think(self, scene: Scene, question: Question) -> str:
        """The labels, one equation, the answer."""
        return f"I see {_description(scene)}. {_working(scene)}. So {self.solve(scene, question)}."

    def read(self, scene: Scene, question: Question, text: str) -> Reading:
        """Labels, equation and conclusion."""
        thinking = thinking_part(text)
        seen = seen_part(thinking)
        pair = first_match(rf"legs\s+{LENGTH}\s+and\s+{LENGTH}", seen)
        short = first_match(rf"short\s+leg\s+{LENGTH}", seen)
        hypotenuse = first_match(rf"hypotenuse\s+{LENGTH}", seen)
        angle = first_match(r"angle\s+(\d+)", seen)
        true_angle = [str(scene["angle"][0])] if scene["angle"] else []
        legs = pair or ((short[0], "") if short else None)
        stated = (
            None if legs is None or hypotenuse is None else {"legs": [*legs], "hypotenuse": hypotenuse[0]}
        )
        return Reading(
            stated=stated,
            attributes={
                "length": together(
                    right_numbers([n for n in legs or () if n], scene["legs"]),
                    right_numbers(hypotenuse or (), [scene["hypotenuse"]]),
                ),
                "angle": (int(list(angle or ()) == true_angle), 1) if angle else (0, 0),
            },
            arithmetic=equations_follow(thinking, _working(stated) if stated else None),
            conclusion=conclusion_of(thinking),
        )


def _legs_px(scene: Scene) -> tuple[float, float]:
    """Lengths of the drawn legs, horizontal and vertical, in their true proportion."""
    width: float
    height: float
    if scene["angle"] is None:
        known = {n for n in (*scene["legs"], scene["hypotenuse"]) if n != UNKNOWN}
        triple = next(t for t in TRIPLES if known <= {str(n) for n in t})
        a, b = triple[:2]
        first = scene["legs"][0]
        flip = first == str(b) or (first == UNKNOWN and scene["legs"][1] == str(a))
        width, height = (b, a) if flip else (a, b)
    else:
        width, height = (math.sqrt(3), 1) if scene["legs"][0] == "" else (1, math.sqrt(3))
    scale = LONGEST_LEG_PX / max(width, height)
    return width * scale, height * scale


def _description(scene: Scene) -> str:
    if scene["angle"] is None:
        return f"legs {scene['legs'][0]} and {scene['legs'][1]} , hypotenuse {scene['hypotenuse']}".replace(
            " ,", ","
        )
    short = next(leg for leg in scene["legs"] if leg)
    return f"angle {scene['angle'][0]}, short leg {short}, hypotenuse {scene['hypotenuse']}"


def _working(scene: Scene) -> str | None:
    """The equation that follows from the labels."""
    legs, hypotenuse = scene["legs"], scene["hypotenuse"]
    known = [int(n) for n in legs if n.isdigit()]
    if "" in legs:
        if hypotenuse == UNKNOWN and known:
            return equation(known[0], "+", known[0])
        return equation(int(hypotenuse), "/", 2) if hypotenuse.isdigit() and not known else None
    if hypotenuse == UNKNOWN and len(known) == 2:
        return equation(known[0] ** 2, "+", known[1] ** 2)
    return (
        equation(int(hypotenuse) ** 2, "-", known[0] ** 2)
        if hypotenuse.isdigit() and len(known) == 1
        else None
    )
