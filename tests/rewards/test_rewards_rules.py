"""Rule rewards: a gold answer scores 1, a near miss 0; ungradable truths never score 1."""

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foveal.rewards import DEFAULT, REGISTRY
from foveal.rewards.answers.expression import NotReadable, numeral
from foveal.rewards.boxed import last_boxed, reduce_gold, statement
from foveal.rewards.rules import Boxed, Choice, Format, Number
from foveal.rewards.tasks import Task
from foveal.spec import build_component
from foveal.types import Problem, Reward


def problem(answer: str, **meta: object) -> Problem:
    return Problem(id="p", question="q", images=(), answer=answer, meta=meta)


def boxed(content: str) -> str:
    return f"<think>reasons</think> The answer is \\boxed{{{content}}}."


OWN_TESTS = {"facts", "judge", "python"}
"""Rewards of worlds, of a server and of a function: each has its own tests."""


@pytest.mark.parametrize("name", sorted(set(REGISTRY) - OWN_TESTS))
def test_each_reward_gives_its_gold_answer_one(name: str) -> None:
    reward, half = build_component(name, REGISTRY, kind="reward"), "\\frac{1}{2}"
    assert isinstance(reward, Reward) and reward.type == name
    gold = {"choice": "B", "number": "3.5", "boxed": half, "mathruler": half, "format": "7"}[name]
    assert reward(problem(gold), boxed(gold)) == 1.0


@pytest.mark.parametrize(
    "name, gold, miss",
    [("boxed", "12", "13"), ("mathruler", "12", "13"), ("choice", "B", "C"), ("number", "3.5", "3.6")],
)
def test_each_accuracy_reward_gives_a_near_miss_zero(name: str, gold: str, miss: str) -> None:
    reward = build_component(name, REGISTRY, kind="reward")
    assert isinstance(reward, Reward) and reward.is_accuracy
    assert reward(problem(gold), boxed(miss)) == 0.0


def test_the_default_is_nine_tenths_accuracy_and_one_tenth_format() -> None:
    rewards = [build_component(table, REGISTRY, kind="reward") for table in DEFAULT]
    assert [(type(r), getattr(r, "weight", None)) for r in rewards] == [(Boxed, 0.9), (Format, 0.1)]


@pytest.mark.parametrize(
    "text, found",
    [
        ("no box", None),
        (r"\boxed{42", None),
        (r"\boxed{1} then \boxed{2}", "2"),
        (r"\boxed{1} then \boxed{2", "1"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\boxed{42}}", "42"),
        (r"\boxed{\{1,2\}}", r"\{1,2\}"),
        (r"\boxed {42}", "42"),
        (r"} \boxed{}", ""),
    ],
)
def test_last_boxed_is_the_last_balanced_box(text: str, found: str | None) -> None:
    assert last_boxed(text) == found


def test_a_text_of_unclosed_boxes_is_read_in_linear_time() -> None:
    start = time.process_time()
    assert last_boxed("\\boxed{" * 50_000) is None
    assert time.process_time() - start < 1.0


def test_gold_stored_in_a_box_and_a_closing_statement_are_unwrapped() -> None:
    assert reduce_gold(r"$\boxed{21}$") == "21" and reduce_gold(" 21 ") == "21"
    assert statement("<think>B</think>\nSo the final answer is **(C)**.") == "(C)"
    assert statement("<think>only thoughts</think>") == ""


@pytest.mark.parametrize(
    "gold, answer, right",
    [
        ("1/2", "2/4", True),
        ("31/4", "7 3/4", True),
        ("7 3/4", "31/4", True),
        ("7 3/4", "5/2", False),
        ("0.25", r"25\%", True),
        ("25", "25%", True),
        ("25", "24%", False),
        ("-5", "−5", True),
        ("42", "４２", True),
        ("42", "42.", True),
        ("9\\pi", "9π", True),
        ("1/2", "½", True),
        ("45", "45°", True),
        ("1234", "1,234", True),
        ("1024", "2^{10}", True),
        ("\\{1,2\\}", "\\{2,1\\}", True),
        ("(1,2)", "[1,2)", False),
        ("2\\sqrt{3}", "\\sqrt{12}", True),
        ("2\\sqrt{3}", "3.4641", False),
        ("x=5", "5", True),
        ("listen", "silent", False),
        ("the blue one", "one the blue", False),
        ("the blue one", "\\text{The blue one}", True),
        ("C", "(C)", True),
        ("是", "否", False),
        ("12", "", False),
        ("5", "5 or 6", False),
    ],
)
def test_boxed_judges_by_value(gold: str, answer: str, right: bool) -> None:
    assert Boxed()(problem(gold), boxed(answer)) == float(right)


@pytest.mark.parametrize("gold", ["\\begin{tikz} \\foo", "\\foo_3(7)", "Na_2+"])
def test_a_truth_that_cannot_be_parsed_is_right_only_as_the_same_string(gold: str) -> None:
    """Another answer is wrong, not left out: it would leave the group of which the right one stays."""
    assert Boxed()(problem(gold), boxed(gold)) == 1.0
    for answer in ("3", "x", "\\frac{1}{2}", "@@", "#"):
        assert Boxed()(problem(gold), boxed(answer)) == 0.0


@pytest.mark.parametrize("gold", ["!!", "?", "____", "\u2014", "Answers may vary."])
def test_a_truth_that_states_nothing_is_never_graded(gold: str) -> None:
    for answer in (gold, "3", "x"):
        assert Boxed()(problem(gold), boxed(answer)) is None


def test_an_empty_truth_is_not_graded_and_a_missing_box_is_wrong() -> None:
    assert Boxed()(problem(" "), boxed("")) is None
    assert Boxed()(problem("None"), "no box at all") == 0.0


def test_plain_integers_and_words_are_settled_without_algebra_at_twenty_thousand_a_second() -> None:
    reward, count = Boxed(), 20_000
    texts = [boxed(str(n % 7)) for n in range(count // 2)] + [
        boxed("red" if n % 2 else "blue") for n in range(count // 2)
    ]
    golds = [problem("3")] * (count // 2) + [problem("red")] * (count // 2)
    start = time.process_time()
    values = [reward.settle(gold, text) for gold, text in zip(golds, texts, strict=True)]
    spent = time.process_time() - start
    assert not any(isinstance(value, Task) for value in values)
    assert values.count(1.0) == len([n for n in range(count // 2) if n % 7 == 3]) + count // 4
    assert count / spent > 20_000


def test_a_hard_comparison_is_left_to_a_worker() -> None:
    task = Boxed().settle(problem("2"), boxed("\\binom{2}{1}"))
    assert isinstance(task, Task) and task.arguments == ("2", "\\binom{2}{1}")
    assert Boxed()(problem("2"), boxed("\\binom{2}{1}")) == 1.0


def test_constants_that_are_too_large_to_compute_are_wrong_at_once() -> None:
    for box in ("9^{9^{9^{9}}}", "10^{99999}", "99999!", "1.6e-5000"):
        assert Boxed().settle(problem("2"), boxed(box)) == 0.0
    assert Boxed()(problem("10^{99999}"), boxed("10^{99998}")) == 0.0
    assert Boxed()(problem("1.6e-500"), boxed("1.7e-500")) == 0.0


@given(st.integers(), st.integers())
def test_two_integers_are_equal_exactly_when_their_values_are(left: int, right: int) -> None:
    assert Boxed()(problem(str(left)), boxed(str(right))) == float(left == right)
    assert Boxed()(problem(f"+00{abs(left)}"), boxed(str(abs(left)))) == 1.0


@pytest.mark.parametrize(
    "text, right",
    [
        ("\\boxed{B}", True),
        ("\\boxed{b}", True),
        ("\\boxed{(B)}", True),
        ("\\boxed{B.}", True),
        ("\\boxed{\\text{B}}", True),
        ("\\boxed{B. 14 cm}", True),
        ("\\boxed{B. 12 cm}", False),
        ("\\boxed{14 cm}", True),
        ("\\boxed{14cm2}", False),
        ("<think>A or B</think> (B)", True),
        ("<think>A or B</think> The correct answer is B.", True),
        ("<think>B</think> I like B and A", False),
        ("<think>B</think> \\boxed{C}", False),
        ("\\boxed{A}", False),
        ("", False),
    ],
)
def test_choice_reads_letters_and_option_texts(text: str, right: bool) -> None:
    options = ["12 cm", "14 cm", "16 cm", "none of them"]
    assert Choice()(problem("B", choices=options), text) == float(right)
    assert Choice()(problem("14 cm", choices=dict(zip("ABCD", options, strict=True))), text) == float(right)


def test_choice_strips_letters_written_into_options_and_obeys_require_box() -> None:
    row = problem("A", choices=["A. 12", "B. 14"])
    assert Choice()(row, "\\boxed{12}") == 1.0 and Choice()(row, "\\boxed{14}") == 0.0
    assert Choice()(row, "(A)") == 1.0 and Choice(require_box=True)(row, "(A)") == 0.0


def test_choice_without_an_option_as_truth_is_not_graded() -> None:
    assert Choice()(problem("12 apples"), "\\boxed{A}") is None
    assert Choice()(problem("E", choices=["1", "2"]), "\\boxed{A}") is None


@pytest.mark.parametrize(
    "gold, answer, right",
    [
        ("1000", "1000.09", True),
        ("1000", "1000.2", False),
        ("0.25", "25%", True),
        ("25%", "0.25", True),
        ("25", "25 %", True),
        ("1,234.5", "1234.5", True),
        ("\\frac{3}{4}", "0.75", True),
        ("3\\times 10^{8}", "300000000", True),
        ("3e8", "3.1e8", False),
        ("12 cm^2", "12", True),
        ("$15", "15 dollars", True),
        ("0", "0.0001", False),
        ("5", "five", True),
        ("5", "six", False),
    ],
)
def test_number_compares_within_the_tolerance(gold: str, answer: str, right: bool) -> None:
    assert Number()(problem(gold), boxed(answer)) == float(right)


def test_number_tolerances_are_inclusive_and_a_truth_that_is_no_number_is_not_graded() -> None:
    assert Number(absolute=0.5, relative=0.0)(problem("10"), boxed("10.5")) == 1.0
    assert Number(absolute=0.5, relative=0.0)(problem("10"), boxed("10.51")) == 0.0
    assert Number()(problem("red"), boxed("1")) is None
    assert Number()(problem("7"), "The answer is 7 cm.") == 1.0
    assert Number(require_box=True)(problem("7"), "The answer is 7 cm.") == 0.0


@pytest.mark.parametrize("text", ["1e999999999", "9" * 5000, "0." + "1" * 500])
def test_hostile_numerals_are_not_read(text: str) -> None:
    with pytest.raises(NotReadable):
        numeral(text)
    assert Number()(problem(text), boxed("1")) is None and Number()(problem("1"), boxed(text)) == 0.0


PUBLISHED = re.compile(r"<think>.*</think>.*\\boxed\{.*\}.*", re.DOTALL)


@settings(max_examples=400)
@given(
    st.lists(
        st.sampled_from(["<think>", "</think>", "\\boxed{", "}", " ", "\n", "a", "<", ">", "/", "think"]),
        max_size=9,
    )
)
def test_format_agrees_with_the_published_pattern(parts: list[str]) -> None:
    text = "".join(parts)
    stripped = re.sub(r"\s*(<|>|/)\s*", r"\1", text)
    assert Format()(problem("1"), text) == float(PUBLISHED.fullmatch(stripped) is not None)
    assert Format(allow_spaces=False)(problem("1"), text) == float(PUBLISHED.fullmatch(text) is not None)


@pytest.mark.parametrize(
    "text, right",
    [
        ("<think>a</think> \\boxed{1}", True),
        ("\n< think >a< / think > \\boxed{1} ok", True),
        ("<think>\\boxed{1}</think> done", False),
        ("Well, <think>a</think> \\boxed{1}", False),
        ("<THINK>a</THINK>\\boxed{1}", False),
        ("<think>a</think>\\boxed{1", False),
        ("\\boxed{1}", False),
    ],
)
def test_format_wants_thoughts_and_then_a_box(text: str, right: bool) -> None:
    assert Format()(problem("1"), text) == float(right)
