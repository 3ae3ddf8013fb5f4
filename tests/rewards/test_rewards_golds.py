"""True answers graded against themselves."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from PIL import Image

from foveal.cli import main
from foveal.rewards.adapters import reward_from
from foveal.rewards.golds import check_golds
from foveal.rewards.grading import Grader
from foveal.rewards.judge import Judge
from foveal.rewards.rules import Boxed, Choice, Format, Number
from foveal.rewards.settings import GradingConfig
from foveal.spec import ConfigError
from foveal.types import Problem, Reward


def problem(answer: str, name: str = "p", **meta: Any) -> Problem:
    return Problem(id=name, question="q", images=(), answer=answer, meta=meta)


def report(answers: Sequence[str], *rewards: Reward, **given: Any) -> Any:
    with Grader(rewards, GradingConfig(retries=0)) as grader:
        return check_golds(grader, [problem(a, str(n)) for n, a in enumerate(answers)], **given)


def test_golds_that_their_reward_reads_are_right_and_nothing_is_told() -> None:
    found = report(["7", "\\frac{1}{2}", "x+1", "\\boxed{7}"], Boxed(), Format())
    assert (found.checked, found.right, found.lines(), found.rewards) == (4, 4, [], ("boxed",))
    found.require()


def test_each_gold_is_judged_by_the_accuracy_reward_that_reads_it() -> None:
    """A mixed set: a letter is for the one, a number for the other."""
    found = report(["B", "3.5", "a dog"], Choice(), Number())
    (bad,) = found.bad
    assert (bad.id, bad.gold, bad.values) == ("2", "a dog", {"choice": None, "number": None})
    first, second = found.lines()
    assert (
        "1 of the 3 golds checked are not 1.0 by their own reward (choice, number); 1 of them cannot" in first
    )
    assert second == "  '2': 'a dog' -> choice None, number None"
    found.require()


def test_a_run_in_which_no_gold_can_be_graded_is_refused_and_names_some() -> None:
    found = report([f"dog {n}" for n in range(9)], Number())
    assert len(found.lines()) == 7 and found.lines()[-1] == "  and 4 more"
    with pytest.raises(
        ConfigError, match="none of the 9 golds can be graded by number: '0': 'dog 0' -> number None"
    ):
        found.require()


@pytest.mark.parametrize(
    "gold", ["see the figure above", "Answers may vary", "____", "?", "\u2014", "N.A. - \\boxed{?}"]
)
def test_a_gold_that_states_nothing_is_not_right_for_being_the_same_text(gold: str) -> None:
    found = report([gold, gold], Boxed())
    assert (found.right, found.ungradable) == (0, 2)
    with pytest.raises(ConfigError, match=r"name the column of the true answer \(data\.answer_column\)"):
        found.require()


@pytest.mark.parametrize(
    "gold", ["3\u5c0f\u65f620\u5206", "AB \\parallel CD", "<5", ">", "C++", "A+", "Na+", ">50%", "10+", "O-"]
)
def test_golds_that_no_formula_holds_are_right_as_they_are_written(gold: str) -> None:
    assert report([gold], Boxed()).right == 1


def test_a_sample_is_the_same_each_time_and_no_larger_than_asked() -> None:
    answers = ["x"] * 50
    first, second = (report(answers, Number(), sample=10) for _ in range(2))
    assert first.checked == 10 and [b.id for b in first.bad] == [b.id for b in second.bad]
    assert len({b.id for b in first.bad}) == 10


class Tagged(Reward):
    """Reads another form than a box."""

    is_accuracy: ClassVar[bool] = True

    def settle(self, problem: Problem, text: str) -> float:
        return float(text == f"<answer>{problem.answer}</answer>")


class Stating(Tagged):
    def gold(self, problem: Problem) -> str:
        return f"<answer>{problem.answer}</answer>"


def test_a_reward_of_ones_own_may_say_how_a_right_completion_reads() -> None:
    """One that does not say so is listed, but no reason to refuse: it gives values."""
    found = report(["1", "2"], Tagged())
    assert found.right == 0 and found.ungradable == 0
    found.require()
    assert report(["1", "2"], Stating()).right == 2

    def mine(problem: Problem, text: str) -> float:
        return float(text == f"#### {problem.answer}")

    function = reward_from(mine).model_copy(update={"gold": "#### {answer}"})
    assert report(["1", "2"], function).right == 2


def test_a_function_that_fails_on_every_gold_is_told_of_and_may_train() -> None:
    """It may not fail on what a model writes; one that gives no gold a value, without failing, is refused."""

    def mine(problem: Problem, text: str) -> float:
        raise KeyError("column")

    def none(problem: Problem, text: str) -> None:
        return None

    found = report(["1", "2"], reward_from(mine))
    found.require()
    assert "KeyError: 'column'" in found.lines()[1]
    assert found.lines()[-1].startswith("mine fails on each of them; the run goes on")
    with pytest.raises(ConfigError, match="none of the 2 golds can be graded by none"):
        report(["1", "2"], reward_from(none)).require()


class Pictured(Sequence[Problem]):
    """Problems as of a file: cheap without their pictures."""

    def __init__(self, count: int) -> None:
        self.count, self.opened = count, 0

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: Any) -> Any:
        self.opened += 1
        return replace(self.text(index), images=(Image.new("RGB", (4, 4), (index, 0, 0)),))

    def text(self, index: int) -> Problem:
        return problem(str(index), str(index))


def reads_red(problem: Problem, text: str) -> float:
    """By the colour of the picture alone."""
    return float(f"{{{problem.images[0].getpixel((0, 0))[0]}}}" in text)


def test_a_function_that_reads_the_picture_gets_it_with_the_golds() -> None:
    def trl(prompts: Any, completions: Any, images: Any, **columns: Any) -> list[float]:
        return [
            float(f"{{{i[0].getpixel((0, 0))[0]}}}" in c) for i, c in zip(images, completions, strict=True)
        ]

    def notebook(problem: Problem, text: str) -> float:
        return reads_red(problem, text)

    for reward in (
        reward_from(notebook),
        reward_from(trl).model_copy(update={"send_images": True}),
        reward_from(reads_red).model_copy(update={"send_images": True}),
    ):
        problems = Pictured(40)
        with Grader([reward], GradingConfig(retries=0)) as grader:
            found = check_golds(grader, problems)
        assert (found.checked, found.right, problems.opened) == (40, 40, 40), found.lines()
    problems = Pictured(40)
    with Grader([Boxed()], GradingConfig(retries=0)) as grader:
        assert (check_golds(grader, problems).right, problems.opened) == (40, 0)


def test_a_judge_is_not_asked_as_it_costs_money() -> None:
    judge = Judge(base_url="http://127.0.0.1:9/v1", model="m")
    found = report(["1"], judge)
    assert found.checked == 0 and found.rewards == ()
    found.require()
    assert report(["1"], judge, judges=True).ungradable == 1


def test_a_run_that_cannot_be_graded_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Public case: the reward `choice` over golds that name no option."""
    (tmp_path / "rows.jsonl").write_text('{"question": "Which?", "answer": "a brown dog"}\n' * 2)
    words = [
        "objective={type='grpo'}",
        "rewards=[{type='choice'}]",
        "data.text_only=true",
        "steps=1",
        "threads=1",
    ]
    out = tmp_path / "run"
    assert main(["train", "--data", str(tmp_path / "rows.jsonl"), "--out", str(out), *words]) == 2
    assert "answers that no reward can grade (2)" in capsys.readouterr().err
    assert not out.exists()
    assert (
        main(
            [
                "train",
                "--data",
                str(tmp_path / "rows.jsonl"),
                "--out",
                str(out),
                *words,
                "grading.check_golds=0",
                "sampling.group_size=2",
                "sampling.prompts_per_step=1",
                "sampling.max_new_tokens=2",
            ]
        )
        == 0
    )
