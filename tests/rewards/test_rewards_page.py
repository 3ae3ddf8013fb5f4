"""docs/rewards.md: every example is judged as the page says, and every disagreement stands in its table."""

import json
import re
from pathlib import Path

import pytest

from foveal.rewards.boxed import last_boxed
from foveal.rewards.rules import Boxed
from foveal.types import Problem

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "rewards.md").read_text()
CASES = json.loads((ROOT / "tests" / "golden" / "data" / "reward_math.json").read_text())["cases"]


def rows(heading: str) -> list[list[str]]:
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    table = [line for line in section.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table]


def spans(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def judged(gold: str, box: str) -> float | None:
    problem = Problem(id="p", question="q", images=(), answer=gold)
    return Boxed()(problem, f"<think>r</think> \\boxed{{{box}}}")


@pytest.mark.parametrize("row", rows("Kind by kind"), ids=lambda row: row[0])
def test_every_example_is_judged_as_the_page_says(row: list[str]) -> None:
    (gold,) = spans(row[1])
    assert judged(gold, gold) == 1.0
    right, wrong = spans(row[2]), spans(row[3])
    assert right and wrong
    assert [box for box in right if judged(gold, box) != 1.0] == []
    assert [box for box in wrong if judged(gold, box) != 0.0] == []


def test_the_page_names_at_least_25_kinds() -> None:
    assert len({row[0] for row in rows("Kind by kind")}) >= 25


def test_every_disagreement_with_the_other_graders_stands_in_the_table() -> None:
    found = {}
    for case in CASES:
        response, gold = case["inputs"]["response"], case["inputs"]["ground_truth"]
        ours = Boxed()(Problem(id="p", question="q", images=(), answer=gold), response)
        verify = float(case["math_verify"]["boxed_gold_with_strings"])
        ruler = case["expected"]["accuracy"]
        if not ours == verify == ruler:
            box = last_boxed(response)
            found[case["id"]] = [
                f"`{gold}`",
                f"`{box}`" if box else "no box",
                *map(int, (ours, verify, ruler)),
            ]
    stated = {row[0]: [*row[1:3], *map(int, row[3:6])] for row in rows("Where other graders judge otherwise")}
    assert stated == found
    assert all(row[6] for row in rows("Where other graders judge otherwise"))
