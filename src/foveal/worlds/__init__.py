"""Procedural visual-reasoning problems with a known scene: no downloads, and every wrong answer can be explained."""

from foveal.worlds.base import Family, Question, Reading, WorldError, WorldSettings
from foveal.worlds.problems import (
    FAMILIES,
    WorldData,
    family_of,
    make_problem,
    moved,
    question_of,
    with_other_picture,
)

__all__ = [
    "FAMILIES",
    "Family",
    "Question",
    "Reading",
    "WorldData",
    "WorldError",
    "WorldSettings",
    "family_of",
    "make_problem",
    "moved",
    "question_of",
    "with_other_picture",
]
