"""Procedural visual-reasoning problems with a known scene: no downloads, every wrong answer explained."""

from foveal.worlds.base import Family, Question, Reading, WorldError, WorldSettings
from foveal.worlds.judge import Verdict, judge
from foveal.worlds.problems import (
    FAMILIES,
    WorldData,
    family_of,
    make_problem,
    moved,
    question_of,
    with_other_picture,
)
from foveal.worlds.text import corpus

__all__ = [
    "FAMILIES",
    "Family",
    "Question",
    "Reading",
    "Verdict",
    "WorldData",
    "WorldError",
    "WorldSettings",
    "corpus",
    "family_of",
    "judge",
    "make_problem",
    "moved",
    "question_of",
    "with_other_picture",
]
