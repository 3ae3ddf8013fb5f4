"""A reward for what a completion states of its picture, read against the known scene."""

from pydantic import Field

from foveal.types import Problem, Reward, Span
from foveal.worlds.cells import seen_span
from foveal.worlds.problems import FAMILIES, family_of, question_of


class Facts(Reward):
    """The share of the scene's facts that a completion states rightly, less what it states wrongly.

    value = clip((right - wrong_cost * wrong) / asked, 0, 1), over the attributes of `Verdict.attributes`
    (colour, shape, position; length, angle); asked = the facts of the world's own chain of thought about the
    scene. A cell or a length counts once, as it is first stated, so saying it again earns nothing; saying
    nothing earns 0, the least there is. In a scene without a fact to name (all cells empty) a completion that
    says so gets 1. None for a problem of no world.

    `segment` is the sentence that says what is seen, from which the facts are read.
    """

    type: str = "facts"
    wrong_cost: float = Field(default=1.0, ge=0)
    """What a wrong fact costs, in right ones."""

    def settle(self, problem: Problem, text: str) -> float | None:
        """The value; always plain."""
        if problem.meta.get("family") not in FAMILIES or "asked" not in problem.meta:
            return None
        family, question = family_of(problem.meta["family"]), question_of(problem)
        scene = problem.meta["scene"]
        reading = family.read(scene, question, text)
        whole = family.read(scene, question, family.think(scene, question)).attributes
        stated = reading.attributes
        right = sum(min(good, whole.get(name, (0, 0))[1]) for name, (good, _) in stated.items())
        wrong = sum(said - good for good, said in stated.values())
        asked = sum(said for _, said in whole.values())
        if asked == 0:
            return float(reading.stated is not None and wrong == 0)
        return min(1.0, max(0.0, (right - self.wrong_cost * wrong) / asked))

    def __call__(self, problem: Problem, text: str) -> float | None:
        """The value."""
        return self.settle(problem, text)

    def segment(self, problem: Problem, text: str) -> Span | None:
        """The sentence that says what is seen."""
        return seen_span(text)
