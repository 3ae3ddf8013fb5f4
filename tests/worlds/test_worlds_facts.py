"""The reward for facts: gold is 1, silence and repetition earn nothing, wrong facts cost."""

import re
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foveal.rewards import REGISTRY
from foveal.rewards.grading import Grader
from foveal.rewards.rules import Boxed
from foveal.spec import build_component
from foveal.types import Completion, Problem
from foveal.worlds import FAMILIES, make_problem
from foveal.worlds.base import Split
from foveal.worlds.cells import all_cells, seen_part, seen_span, thinking_part
from foveal.worlds.facts import Facts

PARTS = ("I see", ".", "<think>", "</think>", "\\boxed{1}", " A red circle", "x ")


def problems(family: str, n: int = 40) -> list[Problem]:
    return [make_problem(family, split="train", seed=3, index=i, render=False) for i in range(n)]


def gold(problem: Problem) -> str:
    return str(problem.meta["chain_of_thought"])


def cells_of(problem: Problem) -> list[str]:
    return all_cells(problem.meta["scene"])


@cache
def counting(objects: int) -> Problem:
    """The first counting problem with so many objects in its four cells; the empty scene is held out."""
    split: Split = "train" if objects else "heldout"
    found = (make_problem("counting", split=split, seed=3, index=i, render=False) for i in range(4000))
    return next(p for p in found if sum(cell != "none" for cell in cells_of(p)) == objects)


def said(cells: list[str]) -> str:
    listed = " ".join(f"{'ABCD'[i]} {cell}" for i, cell in enumerate(cells))
    return f"<think> I see {listed}. Count A 1. So 1. </think> \\boxed{{1}}"


@pytest.mark.parametrize("family", FAMILIES)
def test_the_gold_chain_of_thought_earns_one_and_its_facts_are_marked(family: str) -> None:
    reward = build_component("facts", REGISTRY, kind="reward")
    assert isinstance(reward, Facts)
    for problem in problems(family):
        text = gold(problem)
        assert reward(problem, text) == 1.0
        span = reward.segment(problem, text)
        assert span is not None and text[slice(*span)] == seen_part(thinking_part(text))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "text", ["", "\\boxed{1}", "So 3. \\boxed{3}", "<think> hm </think> \\boxed{2}", "I see."]
)
def test_a_completion_that_states_nothing_earns_nothing(family: str, text: str) -> None:
    assert all(Facts()(problem, text) == 0.0 for problem in problems(family, 10))


def test_each_object_counts_three_facts_and_a_wrong_one_costs_a_right_one() -> None:
    problem = counting(4)
    cells = cells_of(problem)
    colour, shape = cells[1].split()
    other = "red" if colour != "red" else "blue"
    wrong = [cells[0], f"{other} {shape}", *cells[2:]]
    right = 4 + 3 + sum(a == b for a, b in zip(wrong, cells, strict=True) if a in cells)
    misplaced = sum(cell in cells and cells[i] != cell for i, cell in enumerate(wrong))
    assert Facts()(problem, said(wrong)) == pytest.approx(max(0.0, (right - 1 - misplaced) / 12))
    assert Facts(wrong_cost=0.0)(problem, said(wrong)) == pytest.approx(right / 12)
    assert Facts(wrong_cost=100.0)(problem, said(wrong)) == 0.0


def test_what_is_left_out_is_missing_and_what_is_repeated_earns_nothing_more() -> None:
    problem = counting(4)
    cells = cells_of(problem)
    half = said(cells[:2])
    assert Facts()(problem, half) == 0.5
    again = half.replace("I see ", f"I see {' '.join(f'A {cells[0]}' for _ in range(9))} ")
    assert Facts()(problem, again) == 0.5
    twice = half.replace(". Count", f". I see A {cells[0]} B {cells[1]} C {cells[2]}. Count")
    assert Facts()(problem, twice) == 0.5


def test_a_scene_without_objects_asks_to_say_so() -> None:
    problem = counting(0)
    assert Facts()(problem, said(["none"] * 4)) == 1.0
    assert Facts()(problem, said(["red circle", "none", "none", "none"])) == 0.0
    assert Facts()(problem, "\\boxed{0}") == 0.0


@settings(deadline=None, max_examples=200)
@given(parts=st.lists(st.sampled_from(PARTS), max_size=8))
def test_the_marked_part_is_the_sentence_that_is_read(parts: list[str]) -> None:
    text = "".join(parts)
    span = seen_span(text)
    if span is None:
        return
    assert 0 <= span[0] < span[1] <= len(text)
    assert text[slice(*span)].replace("<think>", " ").strip() == seen_part(thinking_part(text)).strip()


@settings(deadline=None, max_examples=100)
@given(
    cells=st.lists(st.sampled_from(["red circle", "blue star", "none", "green square", ""]), max_size=8),
    objects=st.integers(0, 4),
)
def test_the_value_lies_in_zero_to_one(cells: list[str], objects: int) -> None:
    text = "I see " + " ".join(f"{'ABCDEFGH'[i]} {cell}" for i, cell in enumerate(cells))
    value = Facts(wrong_cost=0.3)(counting(objects), text)
    assert value is not None and 0.0 <= value <= 1.0


def test_a_problem_of_no_world_cannot_be_graded() -> None:
    plain = Problem(id="p", question="q", images=(), answer="1")
    assert Facts()(plain, "I see A red circle.") is None
    named = Problem(id="p", question="q", images=(), answer="1", meta={"family": "counting"})
    assert Facts()(named, "I see A red circle.") is None


def test_the_grader_keeps_values_and_marks_of_each_completion() -> None:
    problem = counting(4)
    texts = (said(cells_of(problem)), "\\boxed{1}")
    completions = tuple(
        Completion(token_ids=(1,), sampled_logprobs=(0.0,), text=text, finish="stop") for text in texts
    )
    with Grader((Boxed(), Facts(weight=0.0))) as grader:
        group = grader.grade(problem, completions)
    assert group.breakdown["facts"] == (1.0, 0.0)
    assert group.rewards == tuple(group.breakdown["boxed"])
    assert set(group.segments) == {"facts"}
    marked = group.segments["facts"]
    assert marked[0] is not None and re.match(r" A \w+ \w+ B", texts[0][slice(*marked[0])])
