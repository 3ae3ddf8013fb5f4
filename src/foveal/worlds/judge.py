"""Why an answer is wrong, from what the completion states and the scene of its problem."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from foveal.types import Problem
from foveal.worlds.base import Question, Reading
from foveal.worlds.problems import family_of, question_of

Kind = Literal["correct", "perception", "reasoning", "calculation", "inconsistency", "format"]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The kind of a completion, and for each attribute it names (right, stated).

    `boxed` is the answer in the last box, None without one; `follows` whether it equals the conclusion of the
    chain of thought, None without a conclusion.
    """

    kind: Kind
    attributes: Mapping[str, tuple[int, int]]
    boxed: str | None
    follows: bool | None


def judge(problem: Problem, text: str) -> Verdict:
    """Classify any completion text. The first rule that applies decides:

    1. format: no `\\boxed{...}` with something in it.
    2. correct: the last box equals the gold answer (case, spaces and leading zeros aside), whatever else is
       said.
    3. inconsistency: the chain of thought comes to a conclusion ("So ..."), and the box differs from it.
    4. format: nothing readable is stated about the picture, so that the mistake cannot be placed.
    5. perception: the question, solved on the scene as stated, has another answer than gold, or none. What
       was not stated counts as empty. A wrong fact that does not change the answer is no perception error,
       but counts in `attributes`.
    6. calculation: the facts give gold, and a tally or an equation that is written down does not follow from
       them.
    7. reasoning: facts and arithmetic are right, the conclusion is not.

    `attributes` are counted against the scene of the question, also when other pictures were shown.
    Raises: WorldError for a problem of no world.
    """
    question, family = question_of(problem), family_of(problem.meta["family"])
    reading = family.read(problem.meta["scene"], question, text)
    boxed = boxed_answer(text)
    follows = None if boxed is None or reading.conclusion is None else same(boxed, reading.conclusion)
    kind: Kind
    if boxed is None:
        kind = "format"
    elif same(boxed, problem.answer):
        kind = "correct"
    elif follows is False:
        kind = "inconsistency"
    else:
        kind = _mistake(problem, question, reading)
    return Verdict(kind=kind, attributes=reading.attributes, boxed=boxed, follows=follows)


def _mistake(problem: Problem, question: Question, reading: Reading) -> Kind:
    """The kind of a wrong answer that follows from the chain of thought."""
    if reading.stated is None:
        return "format"
    implied = family_of(problem.meta["family"]).solve(reading.stated, question)
    if implied is None or not same(implied, problem.answer):
        return "perception"
    return "reasoning" if reading.arithmetic else "calculation"


def describes(problem: Problem, text: str) -> bool:
    """Whether a completion describes what is in the picture: it names at least one object that is there, in
    its place. "I see none" describes no picture with an object in it; of a picture without one, a
    completion has to say so cell by cell.

    Raises: WorldError for a problem of no world.
    """
    question, family = question_of(problem), family_of(problem.meta["family"])
    scene = problem.meta["scene"]
    reading = family.read(scene, question, text)
    right = {name: count for name, (count, _) in reading.attributes.items()}
    objects = sum(
        said for _, said in family.read(scene, question, family.think(scene, question)).attributes.values()
    )
    if objects == 0:
        return reading.stated is not None and not any(said for _, said in reading.attributes.values())
    return right.get("position", sum(right.values())) > 0


def boxed_answer(text: str) -> str | None:
    """What stands in the last box, braces inside included; None without a closed box that holds something."""
    start = text.rfind("\\boxed")
    if start < 0:
        return None
    opened = re.match(r"\\boxed\s*\{", text[start:])
    if opened is None:
        return None
    depth, content = 1, text[start + opened.end() :]
    for i, char in enumerate(content):
        depth += (char == "{") - (char == "}")
        if depth == 0:
            return " ".join(content[:i].split()) or None
    return None


def same(answer: str, other: str) -> bool:
    """Whether two answers are the same, apart from case, spaces, a final full stop, and leading zeros."""
    return _normal(answer) == _normal(other)


def _normal(answer: str) -> str:
    plain = " ".join(answer.lower().split()).rstrip(" .")
    return str(int(plain)) if plain.isascii() and plain.isdigit() and len(plain) < 20 else plain
