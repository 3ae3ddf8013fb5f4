"""What every world shares: settings, questions, families, and the partition of scenes into splits."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
from PIL.Image import Image
from pydantic import Field, field_validator

from foveal.spec import Config, FovealError

Split = Literal["train", "heldout"]
Grade = Literal["low", "medium", "high"]
ShortcutWord = Literal["none", "random", "right", "wrong", "biased"]

Scene = Mapping[str, Any]
"""Everything symbolic about the pictures of a problem, as JSON values; never the question."""

HELDOUT_ONE_IN = 4
"""One scene in this many is held out."""

STYLE_WORDS = (
    *("amber", "basalt", "cedar", "dune", "ember", "flint", "grove", "haze", "iris", "jade", "kelp", "linen"),
    *(
        "moss",
        "nectar",
        "onyx",
        "pearl",
        "quartz",
        "rust",
        "slate",
        "topaz",
        "umber",
        "velvet",
        "willow",
        "zinc",
    ),
)
"""Words at the end of a question for shortcuts: the n-th stands for the n-th choice of the template."""


class WorldError(FovealError):
    """A problem of a world that cannot be made."""


class WorldSettings(Config):
    """How hard the pictures are, what the text gives away, and whether a word predicts the answer."""

    noise: float = Field(default=1.0, ge=0.0)
    """Upper level of the noise h of a picture: pixel noise sd 14 h, colour noise sd 16 min(h, 2), of 255."""

    noise_low: float = Field(default=0.3, ge=0.0, le=1.0)
    """A picture's h is drawn from U(noise_low, 1) * noise; 1 gives every picture the same level."""

    haze: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Fog over the pictures: each pixel is (1 - haze) of itself and haze of the plain background. Unlike
    noise it shifts everything in one direction, which a policy that meets it for the first time can learn to
    undo."""

    grade: Grade | Mapping[Grade, float] = "high"
    """Vision dependency: "high" (facts only in the picture), "medium", "low" (all in the text), or shares."""

    shortcut: float = Field(default=0.0, ge=0.0, le=1.0)
    """Strength s: a "biased" word stands for the answer with probability s, else it is drawn at random."""

    shortcut_word: ShortcutWord = "none"
    """The style word of the question: absent, random, always right, always wrong, or biased by `shortcut`."""

    @field_validator("grade")
    @classmethod
    def _weights_are_usable(cls, grade: Grade | Mapping[Grade, float]) -> Grade | Mapping[Grade, float]:
        if not isinstance(grade, str) and (min(grade.values(), default=-1.0) < 0 or sum(grade.values()) <= 0):
            raise ValueError("weights of grades must not be negative and must have a positive sum")
        return grade

    def draw_grade(self, rng: np.random.Generator) -> Grade:
        """The grade of one problem."""
        if isinstance(self.grade, str):
            return self.grade
        grades = sorted(self.grade)
        weights = np.array([self.grade[g] for g in grades])
        return grades[int(rng.choice(len(grades), p=weights / weights.sum()))]

    def draw_noise(self, rng: np.random.Generator) -> float:
        """The noise level h of one problem's pictures."""
        return self.noise * float(rng.uniform(self.noise_low, 1.0))


@dataclass(frozen=True, kw_only=True)
class Question:
    """A question without its scene. `about` holds what its words name; `choices` the answers of its template.

    `target` is the answer that the scene is drawn for, uniform over `choices` and independent of the words,
    so that the words alone say nothing about it; None when the scene is drawn freely.
    """

    template: str
    text: str
    about: Mapping[str, str] = field(default_factory=dict)
    choices: tuple[str, ...]
    target: str | None = None


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a chain of thought says, as its family understands it.

    `stated` is the scene as described (None when nothing readable was stated); `attributes` counts, for each
    attribute, (right, stated) against the true scene; `arithmetic` is False when a tally or a calculation
    that was written down is wrong given what was stated; `conclusion` is the last answer before the box, None
    without one.
    """

    stated: Scene | None
    attributes: Mapping[str, tuple[int, int]]
    arithmetic: bool
    conclusion: str | None


class Family(ABC):
    """A kind of problem. Instances may differ in how scenes are drawn, never in how they are solved."""

    name: ClassVar[str]

    @abstractmethod
    def question(self, rng: np.random.Generator) -> Question:
        """A question with the answer that its scene shall give."""

    @abstractmethod
    def scene(self, question: Question, rng: np.random.Generator) -> Scene:
        """A scene in which the answer is `question.target`, drawn from all such scenes."""

    @abstractmethod
    def picture_count(self, scene: Scene) -> int:
        """Number of pictures of a scene."""

    @abstractmethod
    def render(self, scene: Scene, *, noise: float, rng: np.random.Generator) -> tuple[Image, ...]:
        """The pictures, at noise level h = `noise`."""

    @abstractmethod
    def solve(self, scene: Scene, question: Question) -> str | None:
        """The answer; None when the question has none in this scene."""

    @abstractmethod
    def facts(self, scene: Scene, question: Question, *, grade: Grade) -> str:
        """What the text gives away: nothing ("high"), a part ("medium"), or all ("low")."""

    @abstractmethod
    def think(self, scene: Scene, question: Question) -> str:
        """The chain of thought: what is seen, then the reasoning, then `So ANSWER.`"""

    @abstractmethod
    def read(self, scene: Scene, question: Question, text: str) -> Reading:
        """Understand any text as a chain of thought about `scene`."""

    def moves(self, scene: Scene) -> Iterator[Scene]:
        """Scenes with the same objects in other places, best first; none for a family without places."""
        return iter(())


def canonical(scene: Scene) -> str:
    """A scene as text that is equal exactly when the scenes are."""
    return json.dumps(scene, sort_keys=True, separators=(",", ":"))


def split_of(scene: Scene) -> Split:
    """The split that a scene belongs to, in every family and under every seed."""
    digest = hashlib.blake2b(canonical(scene).encode(), digest_size=8).digest()
    return "heldout" if int.from_bytes(digest, "little") % HELDOUT_ONE_IN == 0 else "train"


def pick(rng: np.random.Generator, items: tuple[str, ...] | list[str]) -> str:
    """One of `items`, all equally likely."""
    return items[int(rng.integers(len(items)))]
