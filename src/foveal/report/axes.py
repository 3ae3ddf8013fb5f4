"""Where the arms of a sweep stand on a page: which key runs along the axis, which become lines."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from foveal.report.read import listed, mapping

LOG_RATIO = 5.0
"""Positive values that span at least this factor stand on a logarithmic axis."""
ZERO_GAP = 0.6
"""How far left of the smallest positive value a zero stands, as a share of the mean step between values."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where one arm is drawn."""

    arm: str
    line: str
    """Name of its line; empty where there is one line."""
    x: float


@dataclass(frozen=True, kw_only=True)
class Axis:
    """The horizontal axis of all figures of a sweep."""

    label: str
    ticks: tuple[tuple[float, str], ...]
    places: tuple[Place, ...]
    numeric: bool
    """Whether neighbours on it are joined by a line."""
    broken_at: float | None = None
    """Where the axis is broken: a zero stands left of a logarithmic scale."""

    @property
    def lines(self) -> dict[str, list[Place]]:
        """The arms of each line, from left to right."""
        found: dict[str, list[Place]] = {}
        for place in self.places:
            found.setdefault(place.line, []).append(place)
        return {name: sorted(places, key=lambda place: place.x) for name, places in found.items()}


def axis_of(arms: Sequence[Mapping[str, Any]]) -> Axis:
    """The key with numbers runs along the axis, the one with most values where there are several; else the
    first key, as names. All other keys that vary make the lines.
    """
    points = [mapping(arm.get("point")) for arm in arms]
    keys = [key for key in dict.fromkeys(key for point in points for key in point)]
    varied = [key for key in keys if len(_distinct(points, key)) > 1] or keys
    numeric = [key for key in varied if all(_is_number(point.get(key)) for point in points)]
    key = max(numeric, key=lambda k: len(_distinct(points, k))) if numeric else (varied or [""])[0]
    values = _distinct(points, key)
    where, broken = (
        _numbers(values) if numeric else ({_text(v): float(i) for i, v in enumerate(values)}, None)
    )
    places = tuple(
        Place(
            arm=str(arm.get("name")),
            line=", ".join(_pair(other, point.get(other)) for other in varied if other != key),
            x=where[_text(point.get(key))],
        )
        for arm, point in zip(arms, points, strict=True)
    )
    return Axis(
        label="" if key == "arm" else key,
        ticks=tuple((x, text) for text, x in where.items()),
        places=places,
        numeric=bool(numeric),
        broken_at=broken,
    )


def _numbers(values: Sequence[Any]) -> tuple[dict[str, float], float | None]:
    """Value as text -> place, and where the axis is broken; the places are logarithms where that spreads the
    values better.
    """
    ordered = sorted(values)
    positive = [value for value in ordered if value > 0]
    if ordered[0] < 0 or len(positive) < 2 or positive[-1] / positive[0] < LOG_RATIO:
        return {_text(value): float(value) for value in ordered}, None
    where = {_text(value): math.log10(value) for value in positive}
    if ordered[0] > 0:
        return where, None
    places = list(where.values())
    gap = sum(b - a for a, b in pairwise(places)) / (len(places) - 1)
    zero = places[0] - (1 + ZERO_GAP) * gap
    return {_text(ordered[0]): zero, **where}, (zero + places[0]) / 2


def _distinct(points: Sequence[Mapping[str, Any]], key: str) -> list[Any]:
    found: list[Any] = []
    for point in points:
        if not any(_text(point.get(key)) == _text(other) for other in found):
            found.append(point.get(key))
    return found


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _pair(key: str, value: object) -> str:
    return _text(value) if key == "arm" else f"{key.rpartition('.')[2]} {_text(value)}"


def _text(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return f"{value:g}"
    if isinstance(value, Mapping):
        return " ".join(_text(inner) for inner in value.values())
    return " ".join(map(_text, listed(value))) if isinstance(value, list) else str(value)
