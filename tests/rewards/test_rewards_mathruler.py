"""The reward `mathruler`: the papers' verdicts, save two mistakes, under the limits of grading."""

import sys

import pytest

from foveal.rewards import REGISTRY
from foveal.rewards.grading import Grader
from foveal.rewards.mathruler import Mathruler
from foveal.rewards.rules import Boxed
from foveal.rewards.tasks import Task
from foveal.spec import ConfigError, build_component
from foveal.types import Completion, Problem

SLOW = "(x+y+1)**60*(x-y+2)**50"
"""A product that sympy expands for more than 20 seconds."""


def problem(answer: str) -> Problem:
    return Problem(id="p", question="q", images=(), answer=answer)


def completion(text: str) -> Completion:
    return Completion(token_ids=(1,), sampled_logprobs=(0.0,), text=text, finish="stop")


def test_the_reward_settles_text_at_once_and_leaves_algebra_to_a_worker() -> None:
    reward = Mathruler()
    assert reward.settle(problem("1/2"), "\\boxed{\\frac12}") == 1.0
    assert reward.settle(problem("1/2"), "\\boxed{2/4}") == 0.0
    task = reward.settle(problem("x+1"), "\\boxed{1+x}")
    assert task == Task(target="foveal.compat.mathruler:grade_answer_strictly", arguments=("1+x", "x+1"))
    assert reward(problem("x+1"), "\\boxed{1+x}") == 1.0


def test_the_reward_removes_white_space_at_tags_as_papo_or_leaves_it_as_cppo() -> None:
    text = "\\boxed{5\\text{ /s}}"
    assert Mathruler()(problem("5"), text) == 0.0
    assert Mathruler(allow_spaces=False)(problem("5"), text) == 1.0


@pytest.mark.parametrize(
    ("truth", "text", "ours", "published"),
    [
        ("None", "no box", 0.0, 1.0),
        ("None", "\\boxed{None}", 1.0, 1.0),
        ("", "\\boxed{}", None, 1.0),
        (" ", "\\boxed{%}", None, 1.0),
        ("%", "\\boxed{}", None, 1.0),
        ("day", "\\boxed{year}", 0.0, 1.0),
        ("day", "\\boxed{\\text{year}}", 0.0, 1.0),
        ("day", "\\boxed{day}", 1.0, 1.0),
        ("3", "no box", 0.0, 0.0),
    ],
)
def test_the_reward_is_right_where_the_official_code_is_mistaken_unless_asked(
    truth: str, text: str, ours: float | None, published: float
) -> None:
    assert Mathruler()(problem(truth), text) == ours
    assert Mathruler(as_published=True)(problem(truth), text) == published


@pytest.mark.parametrize(
    ("truth", "text", "by_value", "by_mathruler"),
    [
        ("1/2", "\\boxed{2/4}", 1.0, 0.0),
        ("0.25", "\\boxed{25\\%}", 1.0, 0.0),
        ("-5", "\\boxed{−5}", 1.0, 0.0),
        ("9\\pi", "\\boxed{9π}", 1.0, 0.0),
        ("1/2", "\\boxed{½}", 1.0, 0.0),
        ("45", "\\boxed{45°}", 1.0, 0.0),
        ("1024", "\\boxed{2^{10}}", 1.0, 0.0),
        ("\\{1,2\\}", "\\boxed{\\{2,1\\}}", 1.0, 0.0),
        ("7 3/4", "\\boxed{73/4}", 0.0, 1.0),
        ("at", "\\boxed{ta}", 0.0, 1.0),
        ("42", "\\boxed{42} \\boxed{1", 1.0, 0.0),
        ("42", "\\boxed {42}", 1.0, 0.0),
        ("42", "\\boxed{1} \\boxed{42}", 1.0, 1.0),
        ("31/4", "\\boxed{7 3/4}", 1.0, 1.0),
    ],
)
def test_the_two_graders_differ_where_the_guide_says(
    truth: str, text: str, by_value: float, by_mathruler: float
) -> None:
    assert Boxed()(problem(truth), text) == by_value
    assert Mathruler()(problem(truth), text) == by_mathruler


def test_an_answer_on_which_sympy_hangs_costs_the_limit_and_not_the_run() -> None:
    with Grader([Mathruler()], cpu_limit_s=1.0) as grader:
        group = grader.grade(
            problem("x+1"),
            [
                completion(f"\\boxed{{{text}}}")
                for text in ("(x+y+1)**60*(x-y+2)**50", "1+x", "x+\\sqrt{1}", "x+2")
            ],
        )
    assert group.breakdown["mathruler"] == (None, 1.0, 1.0, 0.0)
    assert (grader.timeouts, grader.failures) == (1, 0)


def test_without_pylatexenc_the_config_is_refused_and_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "pylatexenc.latex2text", None)
    with pytest.raises(ConfigError, match=r"pip install 'foveal\[compat\]'"):
        build_component("mathruler", REGISTRY, kind="reward")
