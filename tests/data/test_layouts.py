"""Every layout of the field opens, without options or with the one that the message names."""

from pathlib import Path

import PIL.Image
import pytest

from foveal.data.checks import validate
from layout_cases import BEGIN, CASES, END, PAGE, Case, opened, page_table, refusal


def color_of(name: str) -> object:
    return PIL.Image.new("RGB", (1, 1), name).getpixel((0, 0))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_layout_gives_question_pictures_answer_and_options(tmp_path: Path, case: Case) -> None:
    problems = opened(case, tmp_path)
    validate(problems, decode=True)
    problem = problems[0]
    assert problem.question == case.asks
    assert problem.answer == case.answer
    assert [image.getpixel((0, 0)) for image in problem.images] == [color_of(name) for name in case.colors]
    assert problem.meta.get("choices") == case.choices
    for key, value in case.more.items():
        if key == "turns":
            assert [(turn.role, turn.text) for turn in problem.turns] == value
        else:
            assert (getattr(problem, key) if key in ("system", "id") else problem.meta[key]) == value
    if "system" not in case.more:
        assert problem.system is None
    assert problems.text(0).question == problem.question and problems.text(0).marks == len(case.colors)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_layout_that_does_not_open_says_the_one_option_to_set(tmp_path: Path, case: Case) -> None:
    path = case.write(tmp_path)
    said = refusal(path)
    assert case.refused in said and bool(case.refused) == bool(case.options)
    assert (said == "") == (not case.options), said
    assert len(said) < 1000


def test_the_table_of_the_page_is_the_one_that_the_files_give() -> None:
    assert len(CASES) >= 25
    shown = PAGE.read_text().partition(BEGIN)[2].partition(END)[0].strip()
    assert shown == page_table(), "run: python tests/layout_cases.py --write"
