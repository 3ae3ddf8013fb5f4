"""Problems of the worlds: made by key, as data, and with the pictures of another problem or moved objects."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL.Image import Image

from foveal.keys import generator
from foveal.problem import IMAGE_MARK, Problem, Problems
from foveal.worlds.base import (
    STYLE_WORDS,
    Family,
    Question,
    Scene,
    Split,
    WorldError,
    WorldSettings,
    canonical,
    split_of,
)
from foveal.worlds.circles import Circles
from foveal.worlds.counting import Counting
from foveal.worlds.draw import veil
from foveal.worlds.panels import Panels
from foveal.worlds.relations import Relations
from foveal.worlds.triangles import Triangles

FAMILIES: dict[str, Family] = {
    family.name: family for family in (Counting(), Relations(), Panels(), Triangles(), Circles())
}
"""The families by name."""

DEFAULT_SETTINGS = WorldSettings()
SCENES_TRIED = 200
QUESTIONS_TRIED = 50


def family_of(name: str | Family) -> Family:
    """The family of this name. Raises: WorldError for an unknown one."""
    if isinstance(name, Family):
        return name
    if name not in FAMILIES:
        raise WorldError(f"unknown world family {name!r}; known: {', '.join(FAMILIES)}")
    return FAMILIES[name]


def make_problem(
    family: str | Family,
    *,
    split: Split,
    seed: int,
    index: int,
    settings: WorldSettings = DEFAULT_SETTINGS,
    render: bool = True,
) -> Problem:
    """The problem of this key; settings change its looks and words, never its scene or its answer.

    `render=False` leaves the pictures out, for work on the text alone.
    Raises: WorldError for an unknown family or split.
    """
    kind = family_of(family)
    if split not in ("train", "heldout"):
        raise WorldError(f"unknown split {split!r} of world {kind.name!r}; known: train, heldout")
    key = ("world", kind.name, split, seed, index)
    question, scene = _draw(kind, split, generator(*key, "scene"))
    answer = kind.solve(scene, question)
    if answer is None:
        raise WorldError(
            f"world {kind.name!r} drew a scene in which its question has no answer: {canonical(scene)}"
        )
    grade = settings.draw_grade(generator(*key, "grade"))
    pixel_rng = generator(*key, "pixels")
    noise = settings.draw_noise(pixel_rng)
    word, points_to = _style_word(question.choices, answer, settings, generator(*key, "style"))
    marks = " ".join([IMAGE_MARK] * kind.picture_count(scene))
    style = f"Style {word}." if word else ""
    words = (marks, kind.facts(scene, question, grade=grade), question.text, style)
    meta: dict[str, Any] = {
        "source": "world",
        "family": kind.name,
        "split": split,
        "template": question.template,
        "grade": grade,
        "scene": scene,
        "asked": {"text": question.text, "about": dict(question.about)},
        # Each answer is its own label: questions show no letters, so a letter must not be right.
        "choices": {choice: choice for choice in question.choices},
        "chain_of_thought": f"<think> {kind.think(scene, question)} </think> \\boxed{{{answer}}}",
        "noise": noise,
        "haze": settings.haze,
        "shortcut": {
            "mode": settings.shortcut_word,
            "strength": settings.shortcut,
            "word": word,
            "answer": points_to,
        },
    }
    return Problem(
        id=f"world/{kind.name}/{split}/{seed}/{index}",
        question=" ".join(part for part in words if part),
        images=_pictures(kind, scene, noise=noise, haze=settings.haze, rng=pixel_rng) if render else (),
        answer=answer,
        meta=meta,
    )


def _pictures(
    family: Family, scene: Scene, *, noise: float, haze: float, rng: np.random.Generator
) -> tuple[Image, ...]:
    return tuple(veil(image, haze=haze) for image in family.render(scene, noise=noise, rng=rng))


def _draw(family: Family, split: Split, rng: np.random.Generator) -> tuple[Question, Scene]:
    """A question, and a scene of the split in which the answer is the question's target."""
    for _ in range(QUESTIONS_TRIED):
        question = family.question(rng)
        # Only the scene is redrawn, so the split changes neither how often a question comes nor its answers.
        for _ in range(SCENES_TRIED):
            scene = family.scene(question, rng)
            if split_of(scene) == split:
                return question, scene
    raise WorldError(
        f"world {family.name!r} has no scene of the split {split!r} in {QUESTIONS_TRIED * SCENES_TRIED} draws"
    )


def _style_word(
    choices: tuple[str, ...], answer: str, settings: WorldSettings, rng: np.random.Generator
) -> tuple[str | None, str | None]:
    """The style word and the answer that it stands for."""
    luck, anywhere, elsewhere = (
        rng.random(),
        int(rng.integers(len(choices))),
        int(rng.integers(len(choices) - 1)),
    )
    gold = choices.index(answer)
    if settings.shortcut_word == "none":
        return None, None
    place = {
        "random": anywhere,
        "right": gold,
        "wrong": (gold + 1 + elsewhere) % len(choices),
        "biased": gold if luck < settings.shortcut else anywhere,
    }[settings.shortcut_word]
    return STYLE_WORDS[place], choices[place]


class WorldData(Problems):
    """Problems of several families, made when asked for; item i depends on (families, split, seed, i) alone.

    Raises: WorldError for an unknown family, or weights that are not positive in sum.
    """

    def __init__(
        self,
        families: Mapping[str, float] | Sequence[str],
        *,
        split: Split,
        seed: int,
        size: int,
        settings: WorldSettings = DEFAULT_SETTINGS,
    ) -> None:
        weights = families if isinstance(families, Mapping) else {name: 1.0 for name in families}
        for name in weights:
            family_of(name)
        values = np.array(list(weights.values()), dtype=float)
        if len(values) == 0 or values.min() < 0 or values.sum() <= 0:
            raise WorldError(
                f"weights of world families {dict(weights)!r} must be at least 0 with a positive sum"
            )
        self.names = tuple(weights)
        self.shares = values / values.sum()
        self.split: Split = split
        self.seed = seed
        self.size = size
        self.settings = settings

    def __len__(self) -> int:
        return self.size

    def problem(self, place: int) -> Problem:
        """Made from (families, split, seed, place)."""
        rng = generator("world", "mix", self.split, self.seed, place)
        name = self.names[int(rng.choice(len(self.names), p=self.shares))]
        return make_problem(name, split=self.split, seed=self.seed, index=place, settings=self.settings)


def question_of(problem: Problem) -> Question:
    """The question of a problem, as its family knows it. Raises: WorldError for a problem of no world."""
    if "asked" not in problem.meta or "scene" not in problem.meta:
        raise WorldError(
            f"problem {problem.id!r} has no scene in its meta; expected a problem of foveal.worlds"
        )
    asked = problem.meta["asked"]
    return Question(
        template=problem.meta["template"],
        text=asked["text"],
        about=asked["about"],
        choices=tuple(problem.meta["choices"]),
        target=problem.answer,
    )


def with_other_picture(problem: Problem, donors: Sequence[Problem]) -> Problem:
    """The problem with the pictures of a donor with another answer, to its own question and to this one.

    The donor has the same family, as many pictures, of the same sizes. One whose scene answers this question
    (otherwise) is preferred to one whose scene has no answer to it. The scene of the result stays that of the
    question; `meta["shown_scene"]` is that of the pictures. Raises: WorldError when no donor fits.
    """
    question, family = question_of(problem), family_of(problem.meta["family"])
    start = int(generator("donor", problem.id).integers(max(len(donors), 1)))
    spare: Problem | None = None
    sizes = [image.size for image in problem.images]
    for step in range(len(donors)):
        donor = donors[(start + step) % len(donors)]
        if donor.meta.get("family") != family.name or donor.answer == problem.answer:
            continue
        if [image.size for image in donor.images] != sizes or donor.meta["scene"] == problem.meta["scene"]:
            continue
        answer = family.solve(donor.meta["scene"], question)
        if answer is not None and answer != problem.answer:
            return _shown(problem, donor.images, donor.meta["scene"], donor=donor.id)
        if answer is None:
            spare = spare or donor
    if spare is None:
        raise WorldError(
            f"none of {len(donors)} donors has pictures with another answer to {problem.id!r}; give more"
        )
    return _shown(problem, spare.images, spare.meta["scene"], donor=spare.id)


def moved(problem: Problem) -> Problem | None:
    """The problem with pictures of the same objects in other cells; None where nothing can be moved.

    Another answer to the question is preferred among the moves that change as many cells. The scene of the
    result stays that of the question; `meta["shown_scene"]` is that of the pictures.
    """
    question, family = question_of(problem), family_of(problem.meta["family"])
    scenes = list(family.moves(problem.meta["scene"]))
    if not scenes:
        return None
    kept = [
        sum(a == b for a, b in zip(_places(s), _places(problem.meta["scene"]), strict=True)) for s in scenes
    ]
    best = [s for s, k in zip(scenes, kept, strict=True) if k == min(kept)]
    other = [s for s in best if family.solve(s, question) not in (problem.answer, None)]
    scene = (other or best)[0]
    images = _pictures(
        family,
        scene,
        noise=problem.meta["noise"],
        haze=problem.meta["haze"],
        rng=generator("moved", problem.id, "pixels"),
    )
    return _shown(problem, images, scene, donor=None)


def _places(scene: Scene) -> list[str]:
    return [cell for cells in scene.get("pictures", ()) for cell in cells]


def _shown(problem: Problem, images: tuple[Any, ...], scene: Scene, *, donor: str | None) -> Problem:
    """The problem with other pictures; question, answer and scene stay."""
    meta = {**problem.meta, "shown_scene": scene, "donor": donor}
    return Problem(id=problem.id, question=problem.question, images=images, answer=problem.answer, meta=meta)
