"""The judge: gold chains of thought are right in everything, each kind of error is told from the others."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foveal.types import Problem
from foveal.worlds import FAMILIES, WorldError, WorldSettings, judge, make_problem, question_of
from foveal.worlds.judge import boxed_answer


def problems(family, n=60, template=None):
    mixed = WorldSettings(grade={"low": 1, "medium": 1, "high": 1}, shortcut_word="random")
    made = (
        make_problem(family, split="train", seed=2, index=i, settings=mixed, render=False) for i in range(n)
    )
    return [p for p in made if template in (None, p.meta["template"])]


def other_choice(problem):
    return next(c for c in problem.meta["choices"] if c != problem.answer)


def gold(problem):
    return problem.meta["chain_of_thought"]


def with_box(text, answer):
    return text[: text.rindex("\\boxed")] + f"\\boxed{{{answer}}}"


def with_conclusion(text, answer):
    return with_box(re.sub(r"So [^.]*\. </think>", f"So {answer}. </think>", text), answer)


@pytest.mark.parametrize("family", FAMILIES)
def test_gold_is_correct_with_every_attribute_right(family):
    named = set()
    for problem in problems(family, n=300):
        verdict = judge(problem, gold(problem))
        assert verdict.kind == "correct" and verdict.follows is True and verdict.boxed == problem.answer
        assert all(right == stated for right, stated in verdict.attributes.values())
        named |= {name for name, (_, stated) in verdict.attributes.items() if stated}
    shapes = {"colour", "shape", "position"}
    assert named == {"triangles": {"length", "angle"}, "circles": {"length"}}.get(family, shapes)


@pytest.mark.parametrize("family", FAMILIES)
def test_spaces_and_line_breaks_between_words_do_not_matter(family):
    for problem in problems(family):
        spaced = (
            re.sub(r"([.,{}])", r" \1 ", gold(problem))
            .replace(" So", "\nSo")
            .replace("\\boxed {", "\\boxed{ ")
        )
        verdict = judge(problem, spaced)
        assert verdict.kind == "correct" and verdict.follows is True
        assert verdict.attributes == judge(problem, gold(problem)).attributes


@pytest.mark.parametrize("family", FAMILIES)
def test_reading_another_scene_faithfully_is_a_perception_error(family):
    made, found = problems(family), 0
    for problem in made:
        kind, question = FAMILIES[family], question_of(problem)
        for other in made:
            answer = kind.solve(other.meta["scene"], question)
            if answer not in (None, problem.answer):
                text = f"<think> {kind.think(other.meta['scene'], question)} </think> \\boxed{{{answer}}}"
                verdict = judge(problem, text)
                assert verdict.kind == "perception"
                assert any(right < stated for right, stated in verdict.attributes.values())
                found += 1
                break
    assert found > 30


@pytest.mark.parametrize("family", FAMILIES)
def test_a_wrong_conclusion_from_right_facts_is_a_reasoning_error(family):
    for problem in problems(family):
        verdict = judge(problem, with_conclusion(gold(problem), other_choice(problem)))
        assert verdict.kind == "reasoning" and verdict.follows is True


@pytest.mark.parametrize("family", FAMILIES)
def test_a_box_that_differs_from_the_conclusion_is_an_inconsistency(family):
    for problem in problems(family):
        verdict = judge(problem, with_box(gold(problem), other_choice(problem)))
        assert verdict.kind == "inconsistency" and verdict.follows is False


def test_a_wrong_tally_of_right_facts_is_a_calculation_error():
    for problem in problems("counting"):
        wrong = str(int(problem.answer) + 1)
        text = re.sub(r"D \d\. So", f"D {wrong}. So", with_conclusion(gold(problem), wrong))
        assert judge(problem, text).kind == "calculation"
    for problem in problems("panels", template="more"):
        text = re.sub(r"Count C \d", "Count C 7", with_conclusion(gold(problem), other_choice(problem)))
        assert judge(problem, text).kind == "calculation"


@pytest.mark.parametrize("family", ["triangles", "circles"])
def test_a_wrong_equation_from_right_facts_is_a_calculation_error(family):
    for problem in problems(family):
        text = re.sub(r"= \d+", "= 77", with_conclusion(gold(problem), other_choice(problem)))
        assert judge(problem, text).kind == "calculation"


def test_a_wrong_half_of_a_chord_is_a_calculation_error():
    for problem in problems("circles"):
        text = re.sub(r"half is \d+", "half is 77", with_conclusion(gold(problem), other_choice(problem)))
        assert judge(problem, text).kind == "calculation"


@pytest.mark.parametrize("family", FAMILIES)
def test_without_a_box_or_readable_facts_it_is_a_format_error(family):
    problem = problems(family)[0]
    wrong = other_choice(problem)
    for text in (
        "",
        gold(problem).split("\\boxed")[0],
        "\\boxed{}",
        f"\\boxed{{{problem.answer}",
        f"I do not know. \\boxed{{{wrong}}}",
        f"<think> I see nothing. So {wrong}. </think> \\boxed{{{wrong}}}",
    ):
        assert judge(problem, text).kind == "format", text


@pytest.mark.parametrize("family", FAMILIES)
def test_a_right_box_is_correct_whatever_else_is_said(family):
    problem = problems(family)[0]
    for text in (f"\\boxed{{ {problem.answer.upper()} }}", f"\\boxed{{9}} then \\boxed{{{problem.answer}.}}"):
        assert judge(problem, text).kind == "correct"


def test_a_wrong_fact_that_does_not_matter_is_counted_but_not_blamed():
    problem = make_problem("counting", split="train", seed=0, index=0, render=False)
    assert problem.meta["template"] == "colour"
    text = with_conclusion(gold(problem), "3").replace("D yellow circle", "D yellow square")
    verdict = judge(problem, text)
    assert verdict.kind == "reasoning"
    assert verdict.attributes == {"colour": (3, 3), "shape": (2, 3), "position": (2, 2)}


def test_attributes_of_a_misread_listing_by_hand():
    problem = make_problem("counting", split="train", seed=0, index=0, render=False)
    # The scene is green star, none, blue star, yellow circle.
    text = "<think> I see A blue star B red circle C green star D none. </think> \\boxed{0}"
    verdict = judge(problem, text)
    # Colour: none of three. Shape: A and C. Position: blue star and green star exist, both elsewhere.
    assert verdict.attributes == {"colour": (0, 3), "shape": (2, 3), "position": (0, 2)}
    # One green object is stated, as there is, so the mistake lies after the facts.
    assert verdict.kind == "reasoning" and verdict.follows is None


def test_a_cell_left_out_counts_as_empty():
    problem = make_problem("counting", split="train", seed=0, index=0, render=False)
    text = "<think> I see B none C blue star D yellow circle. Count B 0 C 0 D 0. So 0. </think> \\boxed{0}"
    assert judge(problem, text).kind == "perception"


def test_a_sum_may_be_written_in_either_order():
    problem = problems("triangles", n=200, template="hypotenuse")[0]
    text = re.sub(r"(\d+) \+ (\d+) =", r"\2 + \1 =", gold(problem))
    assert judge(problem, with_conclusion(text, other_choice(problem))).kind == "reasoning"


def test_a_box_may_hold_braces_and_the_last_one_counts():
    assert boxed_answer("\\boxed{\\frac{1}{2}}") == "\\frac{1}{2}"
    assert boxed_answer("\\boxed{1} or \\boxed { 2 }") == "2"
    assert (
        boxed_answer("\\boxed{1") is None and boxed_answer("\\boxed{ }") is None and boxed_answer("1") is None
    )


def test_a_problem_of_no_world_is_refused():
    with pytest.raises(WorldError, match="foveal.worlds"):
        judge(Problem(id="q", question="?", images=(), answer="1"), "\\boxed{1}")


WORDS = (
    "<think> </think> I see So Count The half is legs leg hypotenuse angle short chord radius distance x and "
    "picture Same A B C D E F none red circle blue star top left yes 0 1 2 3 4 5 6 8 9 10 16 25 100 "
    "999999999 + - / = . , \\boxed{ } { ²"
).split()


@settings(max_examples=300, deadline=None)
@given(
    words=st.lists(st.sampled_from(WORDS), max_size=40), tail=st.sampled_from(["", "\\boxed{1}", "\\boxed{x"])
)
def test_no_text_breaks_the_judge(words, tail):
    for family in FAMILIES:
        for index in range(3):
            problem = make_problem(family, split="heldout", seed=1, index=index, render=False)
            verdict = judge(problem, " ".join(words) + tail)
            assert all(0 <= right <= stated for right, stated in verdict.attributes.values())
            right_box = verdict.boxed is not None and verdict.boxed.rstrip(" .") == problem.answer
            assert (verdict.kind == "correct") >= right_box


@settings(max_examples=200, deadline=None)
@given(text=st.text(max_size=80))
def test_any_characters_are_judged(text):
    problem = make_problem("triangles", split="train", seed=0, index=0, render=False)
    assert judge(problem, f"I see legs {text} \\boxed{{{text}}}").kind
    assert judge(
        problem, "I see legs " + "9" * 5000 + " and 3, hypotenuse x. \\boxed{" + "8" * 5000 + "}"
    ).kind
