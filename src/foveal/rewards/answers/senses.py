"""What an answer can be: a number with its unit, a ratio, a list or tuple, a region, or an equation."""

from dataclasses import dataclass
from typing import Literal

from foveal.rewards.answers.expression import Node
from foveal.rewards.answers.unit import Unit

Kind = Literal["list", "set", "(", "["]


@dataclass(frozen=True, kw_only=True)
class Scalar:
    """One value. `digits`: the numeral where the value is written as a plain one; `bare_letter`: the unit is
    one letter right behind the number, which may as well be a variable (`12m`)."""

    formula: Node
    unit: Unit | None = None
    percent: bool = False
    digits: str = ""
    bare_letter: bool = False
    name: str = ""


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """Values with colons between them."""

    parts: tuple[Node, ...]
    name: str = ""


@dataclass(frozen=True, kw_only=True)
class Group:
    """Values side by side (`list`), in braces (`set`), or in brackets: a tuple or an interval."""

    kind: Kind
    items: tuple["Reading", ...]
    name: str = ""


@dataclass(frozen=True, kw_only=True)
class Interval:
    """From `low` to `high`; None is infinity."""

    low: Node | None
    high: Node | None
    low_closed: bool
    high_closed: bool


@dataclass(frozen=True, kw_only=True)
class Region:
    """A union of intervals and points, in the order of writing."""

    pieces: tuple[Interval, ...]
    name: str = ""


@dataclass(frozen=True, kw_only=True)
class Equation:
    """Left minus right is zero."""

    left: Node
    right: Node
    name: str = ""


Reading = Scalar | Ratio | Group | Region | Equation
