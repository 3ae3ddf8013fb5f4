"""The rules behind the default accuracy reward: options, what data says, reduced truths, hostile input."""

import doctest
import importlib
import pkgutil
import random
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foveal.rewards import answers
from foveal.rewards.answers.choice import options
from foveal.rewards.answers.expression import NotReadable, parse
from foveal.rewards.answers.text import MAX_LENGTH, clean
from foveal.rewards.answers.unit import read_unit
from foveal.rewards.answers.value import same_formula
from foveal.rewards.answers.verdict import verdict
from foveal.rewards.boxed import boxes_together, last_boxed, reduce_gold, statement
from foveal.rewards.rules import Boxed, Choice, Number
from foveal.rewards.tasks import Task
from foveal.types import Problem

ANSWER_FILES = [module.name for module in pkgutil.iter_modules(answers.__path__)]
PATIENCE_S = 6.0
"""CPU seconds for one hostile input: generous, linear rules need some milliseconds."""


def judged(gold: str, text: str, question: str = "q", **meta: Any) -> float | None:
    return Boxed()(Problem(id="p", question=question, images=(), answer=gold, meta=meta), text)


def boxed(content: str) -> str:
    return f"<think>r</think> \\boxed{{{content}}}"


@pytest.mark.parametrize(
    "text, reduced",
    [
        ("<answer> yes </answer>", "yes"),
        ("<think>try \\boxed{7}</think>\n<answer>B</answer>", "B"),
        ("<think>x</think> <answer> \\boxed{\\frac{1}{2}} </answer>", "\\frac{1}{2}"),
        ("<answer>A</answer> no, <answer>C</answer>", "C"),
        ("<ANSWER>5</ANSWER>", "5"),
        ("the sum is $\\boxed{2}$.", "2"),
        ("<think>\\boxed{1}</think> So \\boxed{2}", "2"),
        ("\\boxed{1} and \\boxed{2}", "1, 2"),
        ("Natalia sold 48/2 = 24 clips.\n#### 72", "72"),
        ("Adding them gives 7.\nThe answer is 7.", "7"),
        ("Answer: B", "B"),
        ("答案：B", "B"),
        ("$\\frac{1}{2}$", "\\frac{1}{2}"),
        ("$1$ and $2$", "$1$ and $2$"),
        (" 7 ", "7"),
        ("", None),
        ("   ", None),
        ("<answer></answer>", None),
        ("<think>so it is 7</think>", None),
        ("<think>so it is 7", None),
        ("\\boxed{7", None),
        ("We know that " + "x is a number and " * 30, None),
        ("\n".join(f"step {n}" for n in range(9)), None),
        ("9" * 5000, None),
    ],
)
def test_a_truth_is_reduced_to_its_answer_or_refused(text: str, reduced: str | None) -> None:
    assert reduce_gold(text) == reduced
    if reduced is None:
        assert judged(text, boxed("7")) is None


@given(st.text(alphabet="AB12 +-x/^", min_size=1, max_size=12))
def test_reducing_a_reduced_truth_changes_nothing(text: str) -> None:
    reduced = reduce_gold(text)
    assert reduced is None or reduce_gold(reduced) == reduced


@pytest.mark.parametrize(
    "text, together",
    [
        ("\\boxed{1} and \\boxed{2}", "1, 2"),
        ("$\\boxed{1}$, $\\boxed{2}$, \\boxed{3}", "1, 2, 3"),
        ("\\boxed{1}\\boxed{2}", "1, 2"),
        ("\\boxed{1} then \\boxed{2}", None),
        ("\\boxed{1}. Wait, and \\boxed{2}", None),
        ("\\boxed{1} no no no no \\boxed{2}", None),
        ("<think>\\boxed{1} and </think> \\boxed{2}", None),
        ("\\boxed{0} so far. Now \\boxed{1} and \\boxed{2}", "1, 2"),
        ("\\boxed{5}", None),
        ("\\boxed{1}" + " and more and more" * 9 + "\\boxed{2}", None),
    ],
)
def test_boxes_belong_together_where_something_joins_them(text: str, together: str | None) -> None:
    assert boxes_together(text) == together


TEXTS = ["10 cm", "20 cm", "30 cm", "40 cm"]
LAYOUTS: list[Any] = [
    TEXTS,
    tuple(TEXTS),
    [f"({letter}) {text}" for letter, text in zip("ABCD", TEXTS, strict=True)],
    dict(zip("ABCD", TEXTS, strict=True)),
    {"label": ["A", "B", "C", "D"], "text": TEXTS},
    {"label": ["1", "2", "3", "4"], "text": TEXTS},
    [{"label": letter, "text": text} for letter, text in zip("ABCD", TEXTS, strict=True)],
]


@pytest.mark.parametrize("choices", LAYOUTS)
@pytest.mark.parametrize("gold", ["B", "(B)", "20 cm", "B. 20 cm"])
@pytest.mark.parametrize("reward", [Boxed(), Choice()])
def test_options_in_every_layout_and_truth(reward: Boxed | Choice, gold: str, choices: Any) -> None:
    assert options(choices) == dict(zip("ABCD", TEXTS, strict=True))
    problem = Problem(id="p", question="q", images=(), answer=gold, meta={"choices": choices})
    for right in ("B", "b", "(B)", "B.", "B. 20 cm", "B: 20 cm", "20 cm", "20", "200 mm", "Option B", "Ｂ"):
        assert reward(problem, boxed(right)) == 1.0, right
    for wrong in (
        "A",
        "C. 20 cm",
        "B. 30 cm",
        "30 cm",
        "20 kg",
        "A or B",
        "B, C",
        "BC",
        "E",
        "blue",
        "2",
        "",
    ):
        assert reward(problem, boxed(wrong)) == 0.0, wrong


def test_an_answer_of_free_form_rows_is_read_beside_empty_options() -> None:
    assert judged("24", boxed("24"), choices=[]) == 1.0
    assert judged("24", boxed("24"), choices=None, options=["a", "b"]) == 1.0
    assert judged("blue", boxed("B"), options=["red", "blue"]) == 1.0


def test_the_precision_of_a_data_set_rounds_both_sides() -> None:
    meta = {"precision": 1.0, "answer_type": "float"}
    for box, right in (("1.2", 1), ("1.24", 1), ("1.15", 1), ("1.25", 0), ("6/5", 1), ("-1.2", 0), ("12", 0)):
        assert judged("1.2", boxed(box), **meta) == float(right), box
    assert judged("1.2", boxed("1.24")) == judged("1.2", boxed("1.24"), precision=float("nan")) == 0.0
    assert judged("1", boxed("1.2"), precision=0, answer_type="integer") == 0.0
    assert judged("3.14", boxed("\\pi"), precision=2, answer_type="float") == 1.0
    assert judged("3.14", boxed("\\pi")) == 0.0


def test_the_unit_of_a_data_set_belongs_to_a_bare_truth() -> None:
    for box, right in (("12", 1), ("12 cm", 1), ("120 mm", 1), ("12 m", 0), ("12 kg", 0), ("12 cm^2", 0)):
        assert judged("12", boxed(box), unit="cm") == float(right), box
    assert judged("12", boxed("12 m")) == 1.0


def test_a_percent_sign_is_its_hundredth_unless_a_percentage_was_asked() -> None:
    assert judged("0.5", boxed("0.5\\%")) == 0.0
    assert judged("0.5", boxed("0.5\\%"), question="By what percent does it grow?") == 1.0
    assert judged("0.5\\%", boxed("0.5")) == 0.0 and judged("0.5\\%", boxed("0.005")) == 1.0


@pytest.mark.parametrize(
    "one, two, agree",
    [
        ("km/h", "m/s", True),
        ("kg m/s^2", "N", True),
        ("N m", "J", True),
        ("square metres", "m^2", True),
        ("m s^{-1}", "m/s", True),
        ("miles per hour", "km/h", True),
        ("mL", "cm^3", True),
        ("degrees", "°", True),
        ("people", "persons", True),
        ("boxes", "box", True),
        ("cm", "cm^2", False),
        ("W", "J", False),
        ("g", "people", False),
        ("$", "€", False),
        ("s", "m", False),
    ],
)
def test_units_agree_when_they_measure_the_same(one: str, two: str, agree: bool) -> None:
    left, right = read_unit(one), read_unit(two)
    assert left is not None and right is not None and left.agrees(right) is agree


@pytest.mark.parametrize(
    "text", ["12", "x", "", "hundred", "minus", "and a half", "cm or", "and", "^2", "more"]
)
def test_what_is_no_unit(text: str) -> None:
    assert read_unit(text) is None


@pytest.mark.parametrize(
    "one, two",
    [
        ("4/3\\pi", "\\frac{4\\pi}{3}"),
        ("1/2x", "\\frac{x}{2}"),
        ("a/2b", "\\frac{a}{2b}"),
        ("1/(2)x", "\\frac{x}{2}"),
        ("1/(2x)", "\\frac{1}{2x}"),
        ("2\\sqrt3/3", "\\frac{2}{\\sqrt{3}}"),
        ("\\sqrt[3]{-8}", "-2"),
        ("\\sin^2 x+\\cos^2 x", "1"),
        ("\\log_2 8", "3"),
        ("\\log 1000", "3"),
        ("\\ln e^2", "2"),
        ("5!", "120"),
        ("|-3|", "3"),
        ("x^{-1}", "1/x"),
        ("\\frac1{2}", "0.5"),
        ("e^{i\\pi}", "-1"),
        ("(2+i)(2-i)", "5"),
        ("-2^2", "-4"),
        ("2^-1", "1/2"),
        ("2\\cdot-3", "-6"),
        ("x\\sin\\pi", "0"),
        ("\\sqrt{2}\\sqrt{2}-2", "0"),
    ],
)
def test_formulas_are_read_as_they_are_meant(one: str, two: str) -> None:
    assert same_formula(parse(clean(one)), parse(clean(two)))


@pytest.mark.parametrize(
    "one, two",
    [
        ("\\sqrt{x^2}", "x"),
        ("|x|", "x"),
        ("12345678901234567\\sqrt{2}", "12345678901234568\\sqrt{2}"),
        ("10^{-30}\\pi", "10^{-31}\\pi"),
        ("\\sin 30", "1/2"),
        ("x^2", "2x"),
        ("x+y", "x-y"),
        ("x", "X"),
    ],
)
def test_formulas_that_differ_are_told_apart(one: str, two: str) -> None:
    assert not same_formula(parse(clean(one)), parse(clean(two)))


@pytest.mark.parametrize(
    "text", ["2^3^4", "1 2", "√" * 200, "(" * 60 + "1" + ")" * 60, "x_", "import os", "a.b", "\\foo"]
)
def test_what_is_no_formula_is_refused(text: str) -> None:
    with pytest.raises(NotReadable):
        parse(text)


HOSTILE = {
    "spaces": " " * 120_000,
    "spaces before degrees": "45" + " " * 120_000 + "^ \\circ",
    "digits": "9" * 100_000,
    "braces": "{" * 40_000,
    "unclosed boxes": "\\boxed{" * 20_000,
    "boxes": "\\boxed{1} and " * 3_000,
    "roots": "\\sqrt" * 190,
    "signs of roots": "√" * 990,
    "brackets": "(" * 499 + "1" + ")" * 499,
    "commas": "1," * 499,
    "words": "a. " * 330,
    "dots": "a." * 490 + "5",
    "names": "pi " * 330 + "=",
    "minus": "-" * 999,
    "towers": "2^" * 400 + "2",
    "factorials": "9" + "!" * 900,
    "large factorial": "99999!",
    "large power": "(x+1)^{99999999}",
    "numerals": "1e999999",
    "ands": "1 and " * 160,
    "equals": "x=" * 490 + "1",
    "fonts": "\\text{" * 160 + "1" + "}" * 160,
    "dollars": "$" * 999,
    "colons": "1:" * 490,
    "intervals": "[1,2]\\cup" * 100,
    "plus-minus": "\\pm 1" * 160,
    "answer is": "the answer is " * 70,
    "tags": "<answer>" * 20_000,
    "thoughts": "<think>" * 20_000,
    "chinese": "二" * 900,
    "labels": "A. " * 330,
    "quotes": "['" * 490,
    "quoted list": "['a', " * 160,
    "units": "5 " + "m/" * 480,
    "thousands": "1" + ",000" * 240,
    "months": "March " * 160,
    "matrix": "\\begin{pmatrix}" + "1 & " * 200 + "1\\end{pmatrix}",
    "matrix that never ends": "\\begin{pmatrix}" + "{1} & " * 160,
    "hours": "1 h " * 240,
    "absolute": "|" * 999,
    "builder": "\\{x|" * 200,
    "capitals": "AB" * 490,
    "elements": "H2" * 490,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_input_costs_no_more_than_its_length(name: str) -> None:
    text = HOSTILE[name]
    start = time.process_time()
    for gold, answer in (
        (text, "5"),
        ("5", text),
        ("B", text),
        ("x^2+1", text),
        (text, text[:-1]),
        ("the dog", text),
    ):
        problem = Problem(id="p", question=text, images=(), answer=gold, meta={"choices": ["1", text]})
        for reward in (Boxed(), Choice(), Number()):
            found = reward.settle(problem, f"\\boxed{{{answer}}}")
            assert found is None or isinstance(found, Task) or found in (0.0, 1.0)
            bare = Problem(id="p", question="q", images=(), answer=gold)
            assert reward.settle(bare, f"\\boxed{{{answer}}}") in (None, 0.0, 1.0) or reward.type == "boxed"
    statement(text), reduce_gold(text), boxes_together(text), last_boxed(text), clean(text)
    assert time.process_time() - start < PATIENCE_S


PIECES = (
    "1 2 10 0.5 x y \\pi π √ \\sqrt { } ( ) [ ] , ; : = < > \\le \\in \\cup \\infty ^ _ / * + - ! | % "
    "\\% ° $ \\$ cm kg km/h people and or A B A. (B) \\frac \\text{ \\{ \\} \\pm \\approx million March "
    "2024 3:45 pm yes 是 度 二十 ½ ² × ' \" . \\\\ \\boxed{ \\begin{pmatrix} & \\sin \\log \\left \\right ~ "
    "\\, <answer> </think> #### e i 1e5 - hours minutes \\triangle to k \\langle \\R no solution"
).split()


@settings(max_examples=250, deadline=None)
@given(
    st.lists(st.sampled_from(PIECES), max_size=9),
    st.lists(st.sampled_from(PIECES), max_size=9),
    st.booleans(),
)
def test_the_rules_never_raise_and_pay_a_text_for_itself(
    one: list[str], two: list[str], spaced: bool
) -> None:
    gold, answer = ((" " if spaced else "").join(parts) for parts in (one, two))
    for about in ({}, {"choices": ["1", "x", "A", "cm"]}, {"precision": 2, "unit": "cm"}):
        problem = Problem(id="p", question="q", images=(), answer=gold, meta=about)
        for reward in (Boxed(), Choice(), Number()):
            assert (
                reward.settle(problem, f"\\boxed{{{answer}}}") in (None, 0.0, 1.0) or reward.type == "boxed"
            )
    if gold.strip():
        assert verdict(gold, gold) is True


@pytest.mark.parametrize("name", ["boxed", *(f"answers.{name}" for name in ANSWER_FILES)])
def test_examples_in_the_docstrings(name: str) -> None:
    found = doctest.testmod(importlib.import_module(f"foveal.rewards.{name}"))
    assert found.failed == 0


@pytest.mark.parametrize(
    "box", ["\\lfloor 5 \\rfloor \\text{ kg}", "\\binom{5}{1}\\%", "\\max(5, 4) \\text{ million}"]
)
def test_words_that_the_reader_of_formulas_drops_are_not_dropped(box: str) -> None:
    assert judged("5 cm", boxed(box)) == 0.0 and judged("5", boxed(box)) == 0.0


@pytest.mark.parametrize(
    "gold, box, right",
    [
        ("-1<x<1", "|x|<1", True),
        ("|x| \\ge 2", "(-\\infty,-2]\\cup[2,\\infty)", True),
        ("|x| \\ge 2", "x \\ge 2", False),
        ("1\\leq|z|\\leq \\frac{3}{2}", "[-\\frac{3}{2},-1]\\cup[1,\\frac{3}{2}]", True),
        ("1\\leq|z|\\leq 2", "1 \\le z \\le 2", False),
        ("1-2x > 5", "x < -2", True),
        ("1-2x > 5", "x > -2", False),
    ],
)
def test_inequalities_are_solved_where_they_are_linear(gold: str, box: str, right: bool) -> None:
    assert judged(gold, boxed(box)) == float(right)


def test_each_alternative_is_compared_where_formulas_are() -> None:
    gold = "['x^2', '\\lfloor x \\rfloor + 1']"
    assert judged(gold, boxed("1+\\lfloor x \\rfloor")) == 1.0
    assert judged(gold, boxed("2+\\lfloor x \\rfloor")) == 0.0


def test_longer_answers_than_the_rules_read_are_right_only_as_the_same_text() -> None:
    long = "1" + "+1" * MAX_LENGTH
    assert verdict("5", long) is False and verdict(long, "5") is False and verdict(long, long) is True


def test_mutated_numbers_are_never_equal() -> None:
    rng = random.Random(5)
    for _ in range(800):
        number = f"{rng.randint(1, 10 ** rng.randint(1, 9))}" + rng.choice(["", f".{rng.randint(1, 9)}"])
        place = rng.randrange(len(number))
        if number[place] == ".":
            continue
        digit = rng.choice([sign for sign in "123456789" if sign != number[place]])
        other = number[:place] + digit + number[place + 1 :]
        form = rng.choice(
            [
                "{}",
                "{} cm",
                "{}\\pi",
                "\\sqrt{{{}}}",
                "x={}",
                "({}, 1)",
                "{}%",
                "\\${}",
                "[{},\\infty)",
                "{}x+1",
            ]
        )
        assert verdict(form.format(number), form.format(other)) is False, (number, other, form)
