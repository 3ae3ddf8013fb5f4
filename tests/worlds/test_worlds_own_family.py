"""A world family of one's own, named in a config by its import path."""

from pathlib import Path

import pytest

from foveal.config import load
from foveal.spec import FovealError
from foveal.tables import add_plugin_folder
from foveal.worlds import FAMILIES

MODULE = """
from foveal.worlds import Family, Question, Reading
from PIL import Image


class Shades(Family):
    name = "shades_of_mine"

    def question(self, rng):
        target = "dark" if rng.integers(2) else "light"
        choices = ("dark", "light")
        return Question(template="shade", text="Dark or light?", choices=choices, target=target)

    def scene(self, question, rng):
        low = 0 if question.target == "dark" else 128
        return {"level": int(rng.integers(low, low + 128))}

    def picture_count(self, scene):
        return 1

    def render(self, scene, *, noise, rng):
        return (Image.new("RGB", (56, 56), (scene["level"],) * 3),)

    def solve(self, scene, question):
        return "dark" if scene["level"] < 128 else "light"

    def facts(self, scene, question, *, grade):
        return ""

    def think(self, scene, question):
        return f"I see {scene['level']}. So {self.solve(scene, question)}."

    def read(self, scene, question, text):
        return Reading(stated=None, attributes={}, arithmetic=True, conclusion=None)


def make():
    return Shades()


class Counting(Shades):
    name = "counting"


nothing = 3
"""


@pytest.fixture(autouse=True)
def module(tmp_path: Path) -> None:
    (tmp_path / "own_world_of_mine.py").write_text(MODULE)
    add_plugin_folder(tmp_path)


def test_a_family_is_chosen_by_the_path_of_its_class_or_of_what_makes_it() -> None:
    for name in ("Shades", "make"):
        table = {"type": "world", "families": [f"own_world_of_mine:{name}", "relations"], "size": 30}
        problems = list(load(None, overrides=["objective.type=grpo"], data=None or "world").data.load()[:1])
        assert problems[0].meta["family"] in FAMILIES
        config = load({"data": table, "objective": {"type": "grpo"}, "rewards": ["boxed", "facts"]})
        found = list(config.data.load())
        assert {problem.meta["family"] for problem in found} == {"shades_of_mine", "relations"}
        own = next(problem for problem in found if problem.meta["family"] == "shades_of_mine")
        level = own.images[0].getpixel((0, 0))[0]
        assert own.answer == ("dark" if level < 128 else "light")
        facts = config.rewards[1]
        assert facts(own, "dark") == 0.0


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("own_world_of_mine:Shade", "has no 'Shade'"),
        ("own_world_of_mine:nothing", "is a int; expected a class derived from foveal.worlds.Family"),
        ("own_world_of_mine:Counting", "has the name 'counting', which is that of Counting; give it a name"),
        ("nowhere_at_all:Shades", "No module named 'nowhere_at_all'"),
        ("countng", "unknown world family 'countng'"),
    ],
)
def test_what_is_no_family_is_refused(path: str, hint: str) -> None:
    config = load({"data": {"type": "world", "families": [path]}, "objective": "grpo", "rewards": ["boxed"]})
    with pytest.raises(FovealError, match=hint):
        config.data.load()


def test_a_problem_of_a_file_never_imports_what_its_meta_names() -> None:
    from dataclasses import replace

    from foveal.worlds import judge, make_problem

    problem = make_problem("counting", split="train", seed=0, index=0, render=False)
    strange = replace(problem, meta={**problem.meta, "family": "own_world_of_mine:Shades"})
    with pytest.raises(FovealError, match="unknown world family"):
        judge(strange, "dark")
