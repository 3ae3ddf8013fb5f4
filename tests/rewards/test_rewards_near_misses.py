"""Answers that look like the truth and are another one, beside forms that look different and are the same."""

from typing import Any

import pytest

from foveal.rewards.rules import Boxed, Choice, Number
from foveal.types import Problem

PERCENT_GIVEN = "A 20% discount is given. What is the ratio of the prices?"
PERCENT_ASKED = "By what percent does it grow?"


def judged(reward: Any, gold: str, box: str, question: str = "q", **meta: Any) -> float | None:
    problem = Problem(id="p", question=question, images=(), answer=gold, meta=meta)
    found: float | None = reward(problem, f"<think>r</think> \\boxed{{{box}}}")
    return found


OPTIONS: list[tuple[list[str], str, list[str], list[str]]] = [
    (
        ["12", "15"],
        "B",
        ["15", "15.0", "B. 15", "B. 15 cm", "B. 15 (largest)"],
        [
            "-15",
            "1.5",
            "15\\%",
            "A. 15",
            "B. -15",
            "B. 1.5",
            "B. - 15",
            "B. not 15",
            "B. 15 and A",
            "B. 15 or 12",
        ],
    ),
    (["1", "\\frac12"], "B", ["0.5", "\\frac{1}{2}"], ["-\\frac12", "B. -\\frac12"]),
    (["(2,1)", "(1,2)"], "B", ["(1, 2)"], ["(-1,2)", "B. (-1,2)"]),
    (["5%", "10%"], "B", ["10\\%", "10 percent", "10"], ["1.0\\%", "-10\\%", "100\\%"]),
    (["2", "3"], "B", ["3"], ["3!", "3/", "-3", "3\\%"]),
    (["2", "-2"], "A", ["2", "A. 2"], ["-2", "B", "A. -2"]),
    (["2", "-2"], "B", ["-2", "B. -2", "B"], ["2", "A", "B. 2"]),
    (["2", "-2"], "-2", ["-2", "B"], ["2", "A"]),
    (["1.5", "15"], "A", ["1.5", "A. 1.5"], ["15", "A. 15"]),
    (["a+b", "a-b", "ab", "a/b"], "B", ["a-b", "a - b", "-b+a", "B"], ["a+b", "ab", "a/b", "b-a", "A - b"]),
    (["2010-2015", "2015-2020"], "A", ["2010 to 2015", "A. 2010-2015"], ["2015-2020", "-5"]),
    (["yes", "no"], "no", ["no", "B"], ["N", "yes", "A"]),
    (["cat", "dog", "cow"], "A, C", ["AC", "CA", "(A), (C)", "cat, cow"], ["A", "AB", "(A), (B)", "ABC"]),
    (["cat", "dog"], "1", ["1"], ["A", "B", "cat", "dog"]),
    (["10", "20", "30", "40"], "3", ["3"], ["D", "40"]),
]


@pytest.mark.parametrize("texts, gold, right, wrong", OPTIONS)
def test_options_that_differ_by_a_sign_or_a_point(
    texts: list[str], gold: str, right: list[str], wrong: list[str]
) -> None:
    assert [box for box in right if judged(Boxed(), gold, box, choices=texts) != 1.0] == []
    assert [box for box in wrong if judged(Boxed(), gold, box, choices=texts) != 0.0] == []
    if gold.isalpha():
        assert [box for box in right if judged(Choice(), gold, box, choices=texts) != 1.0] == []
        assert [box for box in wrong if judged(Choice(), gold, box, choices=texts) != 0.0] == []


def test_an_index_is_a_truth_only_where_the_problem_says_so() -> None:
    for kind, gold in (("index", "1"), ("index_from_1", "2")):
        meta = {"choices": ["cat", "dog", "cow"], "answer_kind": kind}
        for reward in (Boxed(), Choice()):
            assert judged(reward, gold, "B", **meta) == judged(reward, gold, gold, **meta) == 1.0
            assert judged(reward, gold, "C", **meta) == judged(reward, gold, "cat", **meta) == 0.0


TEXTS: list[tuple[str, list[str], list[str]]] = [
    (
        "2010-2015",
        ["2010 to 2015", "2010–2015", "from 2010 to 2015"],
        ["-5", "2010-2016", "2010", "2015-2010"],
    ),
    ("50-60", ["50 - 60", "between 50 and 60", "50~60"], ["60-70", "-10", "50", "60-50"]),
    ("2019-20", ["2019-2020"], ["1999", "2019-21", "2018-20"]),
    (
        "5-10 years",
        ["5 to 10 years", "5 years to 10 years", "5-10"],
        ["10-15 years", "-5 years", "5-10 months"],
    ),
    ("100-150 mg", ["0.1-0.15 g"], ["-50 mg", "100-150 kg", "150 mg"]),
    ("555-1234", ["555-1234"], ["-679", "555-1235"]),
    ("\\$5-\\$10", ["\\$5 to \\$10", "5-10"], ["-5", "€5-€10"]),
    ("50\\%-60\\%", ["50-60\\%", "50\\% to 60\\%"], ["-10\\%", "50\\%-61\\%"]),
    ("20 to 25", ["20-25"], ["-5", "20-26"]),
    ("2x-3", ["-3+2x"], ["2x-4", "3-2x"]),
    ("3-2i", ["-2i+3"], ["3+2i"]),
    ("10-2x", ["2(5-x)"], ["8x"]),
    ("3小时20分", ["200分钟", "3 hours 20 minutes"], ["3小时", "320分", "5小时"]),
    ("上午9:30", ["9:30", "9:30 am"], ["下午9:30", "21:30", "9:31"]),
    ("AB \\parallel CD", ["CD \\parallel AB", "AB//CD"], ["AB \\perp CD", "AB", "AB \\parallel EF"]),
    ("\\angle 1 = \\angle 2", ["\\angle 2=\\angle 1"], ["\\angle 1", "\\angle 1=\\angle 3"]),
    ("AD=BC", ["BC=AD"], ["BC", "AD=BD", "AD"]),
    ("<5", ["< 5"], ["5", ">5", "<6", "x"]),
    (">", [">"], ["<", "=", "5"]),
    ("C++", ["C++"], ["C", "Java", "\\text{C}"]),
    ("A+", ["A+"], ["A", "B", "A-", "\\frac{1}{2}"]),
    ("Na+", ["Na+"], ["Na", "K+"]),
    (">50%", [">50\\%"], ["50\\%", "<50\\%"]),
    ("10+", ["10+"], ["10", "11+"]),
    ("O-", ["O-"], ["O", "O+"]),
    ("it increases by 2.5 units", ["It increases by 2.5 units."], ["it increases by 25 units"]),
    ("version 3.10", ["Version 3.10"], ["version 310", "version 3.1"]),
    ("Increases by -2", ["increases by -2"], ["increases by 2"]),
    ("from -5 to 5 volts", ["from -5 to 5 volts."], ["from 5 to -5 volts", "from 5 to 5 volts"]),
    ("Figure 1.5", ["figure 1.5"], ["Figure 15"]),
    ("x-y", ["-y+x"], ["xy", "x y"]),
    ("covid-19", ["COVID 19"], ["covid 1.9"]),
    ("7", ["7"], ["7th"]),
    ("3rd", ["third"], ["3", "4th"]),
    ("18th century", ["18th Century"], ["18", "18 centuries"]),
    ("90 degrees clockwise", ["90 degrees clockwise."], ["90", "90 degrees counterclockwise"]),
    ("C", ["c", "C. 5"], ["C = 5"]),
    ("2,3", ["3,2"], ["2.3"]),
    ("\\frac{dy}{dx}", ["\\frac{dy}{dx}"], ["y/x", "\\frac{y}{x}"]),
    ("120", ["120°"], ["120 rad"]),
    ("-2", ["负2", "负二"], ["2"]),
    ("①③", ["①、③", "③①"], ["①", "①②"]),
    ("30元", ["￥30"], ["30美元"]),
    ("A", ["选项A", "A项"], ["选项B", "B项"]),
    ("AC", ["CA", "(A), (C)"], ["A", "(A), (B)"]),
    ("left", ["on the left"], ["on the right", "right"]),
    ("80\\%", ["八成"], ["七成"]),
    ("So $\\boxed{3}$, check: $\\boxed{3}=3$", ["3"], ["3, 3"]),
    ("$\\boxed{3}$, $\\boxed{3}$", ["3"], ["6"]),
    ("Half is $\\boxed{3}$ and hence the area is $\\boxed{9}$", ["9"], ["3", "3, 9"]),
    ("$x=\\boxed{3}$ or $x=\\boxed{9}$", ["9, 3"], ["3", "9"]),
]


@pytest.mark.parametrize("gold, right, wrong", TEXTS, ids=[row[0] for row in TEXTS])
def test_near_misses_are_wrong_and_other_spellings_right(
    gold: str, right: list[str], wrong: list[str]
) -> None:
    assert [box for box in right if judged(Boxed(), gold, box) != 1.0] == []
    assert [box for box in wrong if judged(Boxed(), gold, box) != 0.0] == []


def test_a_percent_sign_has_the_reading_that_was_asked_for() -> None:
    assert judged(Boxed(), "0.5", "0.5\\%", PERCENT_GIVEN) == 0.0
    assert judged(Boxed(), "0.5", "50\\%", PERCENT_GIVEN) == 1.0
    assert judged(Boxed(), "0.5", "0.5\\%", PERCENT_ASKED) == 1.0
    assert judged(Boxed(), "0.5", "50\\%", PERCENT_ASKED) == 0.0
    assert judged(Boxed(), "25", "25\\%", PERCENT_ASKED) == 1.0


def test_a_range_is_no_number_within_a_tolerance() -> None:
    assert judged(Number(), "50-60", "-10") is None
