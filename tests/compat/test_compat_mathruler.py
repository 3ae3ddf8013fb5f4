"""The grader that agrees with mathruler.

`data/mathruler_pairs.json` holds pairs of answers written for this test, a few for each rule and each way of
spelling, with the verdict that mathruler 0.1.0 (Python 3.11, sympy 1.14.0, pylatexenc 2.11) gave on them, and
texts with the content of their box. Made by calling `grade_answer(answer, truth)` and
`extract_boxed_content(text)` of that package in an environment of its own.
"""

import json
import re
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foveal.compat.mathruler import (
    Score,
    compute_score,
    extract_boxed_content,
    grade_answer,
    grade_answer_strictly,
    grade_quickly,
)
from foveal.compat.mathruler_forms import math_form, prm_form
from foveal.compat.mathruler_reader import is_zero
from foveal.rewards.layout import without_tag_spaces
from foveal.spec import ConfigError

SEEN = json.loads((Path(__file__).parent / "data" / "mathruler_pairs.json").read_text())


@pytest.mark.parametrize("row", SEEN["pairs"], ids=[repr(row["truth"]) for row in SEEN["pairs"]])
def test_verdicts_are_those_of_mathruler(row: Mapping[str, Any]) -> None:
    truth, answers = row["truth"], [*row["right"], *row["wrong"]]
    assert [answer for answer in answers if grade_answer(answer, truth)] == row["right"]
    quick = {answer: grade_quickly(answer, truth) for answer in answers}
    assert all(quick[answer] in (True, None) for answer in row["right"])
    assert all(quick[answer] in (False, None) for answer in row["wrong"])


def test_the_strict_verdict_differs_only_for_a_truth_of_which_a_form_is_empty() -> None:
    for row in SEEN["pairs"]:
        truth = row["truth"]
        for answer in (*row["right"], *row["wrong"]):
            if grade_answer_strictly(answer, truth) != (answer in row["right"]):
                assert answer in row["right"] and "" in (math_form(truth), prm_form(truth))


@pytest.mark.parametrize(("text", "content"), SEEN["boxes"])
def test_boxes_are_read_as_mathruler_reads_them(text: str, content: str) -> None:
    assert extract_boxed_content(text) == content


def test_an_answer_or_a_truth_of_none_is_wrong() -> None:
    assert not grade_answer(None, "1") and not grade_answer("1", None) and not grade_answer(None, None)


@settings(max_examples=300)
@given(st.lists(st.sampled_from(["<", ">", "/", " ", "\n", "\u00a0", "a", "think", "1"]), max_size=12))
def test_white_space_at_tags_goes_as_by_the_published_substitution(parts: list[str]) -> None:
    text = "".join(parts)
    assert without_tag_spaces(text) == re.sub(r"\s*(<|>|/)\s*", r"\1", text)


def test_hostile_texts_are_settled_in_linear_time() -> None:
    start = time.process_time()
    assert without_tag_spaces(" " * 200_000 + "x" + " " * 200_000).strip() == "x"
    assert extract_boxed_content("\\boxed{" * 50_000) == "None"
    assert grade_quickly("1,234" * 40_000 + " " * 40_000, "7") is False
    assert grade_quickly("- " * 100_000 + "cm" + " " * 100_000, "7") is False
    assert time.process_time() - start < 2.0


def test_the_score_is_nine_tenths_accuracy_and_one_tenth_format() -> None:
    text = "< think >a< / think > \\boxed{5\\text{ /s}}"
    assert compute_score(text, "5/s") == Score(overall=1.0, format=1.0, accuracy=1.0)
    assert compute_score(text, "5") == Score(overall=0.1, format=1.0, accuracy=0.0)
    assert compute_score(text, "5", strip_tags=False) == Score(overall=0.9, format=0.0, accuracy=1.0)
    assert compute_score(text, "5/s", format_weight=0.5).overall == 1.0
    assert compute_score("\\boxed{1}", "1", format_weight=0.25).overall == 0.75


def test_without_pylatexenc_latex_is_an_error_that_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "pylatexenc.latex2text", None)
    assert grade_answer("12 cm", "12")
    with pytest.raises(ConfigError, match=r"pip install 'foveal\[compat\]'"):
        grade_answer("\\pi", "3")


@pytest.mark.parametrize(
    ("truth", "answer"),
    [
        ("x==1", "x==2"),  # Python subtracts False from False
        ("x!=1", "x!=2"),
        ("1|2", "3+0x"),
        ("5<<1", "10x/x"),
        ("0.2[1]x", "19x/90"),
        ("ff(x,2)", "x(x-1)"),
        ("1_0x", "10x"),
        ("1e400x", "1e400x+0"),
        ("2**4000x", "2**4000x+0"),
        ("(x+y)**200", "(y+x)**200"),
        ("1+" * 300 + "x", "300+x"),
        ("(" * 50 + "x" + ")" * 50, "0+x"),
    ],
)
def test_what_is_no_formula_or_too_large_is_wrong_where_mathruler_says_right(truth: str, answer: str) -> None:
    """The table of docs/security.md."""
    assert not grade_answer(answer, truth)


@pytest.mark.parametrize(
    "answer",
    [
        "x+9**9**9**9", "9**9**9**9", "2**2**2**2**2**2", "99!!x", "((9!)!)!", "((99**99)**99)**99",
        "x+1e9999999",
        "9" * 4000 + "x", "sqrt(" * 200 + "2" + ")" * 200, "(" * 100_000, "-" * 100_000 + "x", "x!" * 1000,
        "pi**pi**pi**pi", "(x+1)**9999", "2**(0-9**99)",
    ],
)  # fmt: skip
def test_towers_of_powers_cost_neither_time_nor_memory(answer: str) -> None:
    start = time.process_time()
    assert not grade_answer(answer, "x+1")
    assert time.process_time() - start < 2.0


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="0123xy+-*/^().!,_[]'\\\"j\n√²", max_size=14))
def test_any_text_is_a_verdict(text: str) -> None:
    assert is_zero(f"({text})-(x)".replace("^", "**")) in (True, False)
