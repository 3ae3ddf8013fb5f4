"""What is measured of a style word: who follows it, and what counts as a description of the picture."""

import pytest

from foveal.quickstart.words import describe_share, follow_share, follows_word
from foveal.types import Problem
from foveal.worlds import FAMILIES, WorldSettings, make_problem
from foveal.worlds.judge import describes

WRONG = WorldSettings(shortcut_word="wrong")


def problems(family: str, n: int = 60) -> list[Problem]:
    return [
        make_problem(family, split="heldout", seed=0, index=i, settings=WRONG, render=False) for i in range(n)
    ]


def seen(problem: Problem) -> list[str]:
    return [cell for picture in problem.meta["scene"]["pictures"] for cell in picture]


def by_the_word(problem: Problem) -> str:
    answer = problem.meta["shortcut"]["answer"]
    return f"<think> I see none. So {answer}. </think> \\boxed{{{answer}}}"


@pytest.mark.parametrize("family", FAMILIES)
def test_the_worlds_own_chain_of_thought_describes_every_picture(family: str) -> None:
    assert all(describes(p, str(p.meta["chain_of_thought"])) for p in problems(family))


@pytest.mark.parametrize("family", ["counting", "relations"])
def test_i_see_none_describes_nothing(family: str) -> None:
    own = problems(family)
    assert not any(describes(p, by_the_word(p)) for p in own)
    assert not any(describes(p, f"\\boxed{{{p.answer}}}") for p in own)


def test_a_description_names_something_that_is_there_in_its_place() -> None:
    problem = next(p for p in problems("relations") if "none" not in seen(p))
    cells = seen(problem)
    one = f"<think> I see A {cells[0]}. So {problem.answer}. </think> \\boxed{{{problem.answer}}}"
    elsewhere = one.replace(f"A {cells[0]}", f"A {cells[1]}")
    assert describes(problem, one) and not describes(problem, elsewhere)
    assert not describes(problem, one.replace(cells[0], "none"))


def test_an_empty_picture_is_described_cell_by_cell() -> None:
    empty = next(p for p in problems("counting", n=600) if set(seen(p)) == {"none"})
    assert describes(empty, "<think> I see A none B none C none D none. So 0. </think> \\boxed{0}")
    assert not describes(empty, "<think> I see none. So 0. </think> \\boxed{0}")
    assert not describes(empty, "<think> I see A red circle B none C none D none. So 0. </think> \\boxed{0}")


def test_an_answer_follows_the_word_whatever_is_said_before() -> None:
    for problem in problems("relations"):
        answer = problem.meta["shortcut"]["answer"]
        assert answer != problem.answer
        assert follows_word(problem, by_the_word(problem))
        assert follows_word(problem, f"\\boxed{{ {answer.upper()} }}")
        assert not follows_word(problem, str(problem.meta["chain_of_thought"]))
        assert not follows_word(problem, f"So {answer}.")


def test_shares_count_problems() -> None:
    from foveal.evaluation.records import Evaluation, ProblemRecord

    own = problems("relations", n=4)
    texts = [by_the_word(own[0]), *(str(p.meta["chain_of_thought"]) for p in own[1:])]
    records = tuple(
        ProblemRecord(
            id=p.id, answer=p.answer, correct=(True,), texts=(text,), lengths=(1,), truncated=(False,)
        )
        for p, text in zip(own, texts, strict=True)
    )
    found = Evaluation(records=records, k=1, greedy=True, max_new_tokens=9)
    assert follow_share(found, own) == 0.25 and describe_share(found, own) == 0.75
