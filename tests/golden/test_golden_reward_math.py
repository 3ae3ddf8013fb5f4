"""The official reward function's values (`data/README.md`); `FOVEAL_GOLDEN`: another folder, same format."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from foveal.compat.mathruler import Score, compute_score, extract_boxed_content
from foveal.rewards.grading import Grader
from foveal.rewards.layout import without_tag_spaces
from foveal.rewards.mathruler import Mathruler
from foveal.rewards.rules import Format
from foveal.types import Completion, Problem

FILE = Path(os.environ.get("FOVEAL_GOLDEN") or Path(__file__).parent / "data") / "reward_math.json"
CASES = json.loads(FILE.read_text())["cases"] if FILE.is_file() else []
EXACT = 1e-9

Case = Mapping[str, Any]
every_case = pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])


@every_case
def test_reward_math(case: Case) -> None:
    response, expected = case["inputs"]["response"], case["expected"]
    assert extract_boxed_content(without_tag_spaces(response)) == expected["extracted"]
    found = compute_score(response, case["inputs"]["ground_truth"])
    assert found == Score(
        overall=pytest.approx(expected["overall"], abs=EXACT),
        format=expected["format"],
        accuracy=expected["accuracy"],
    )


def test_reward_math_by_the_rewards_of_a_run() -> None:
    items = [
        (
            Problem(id=case["id"], question="q", images=(), answer=case["inputs"]["ground_truth"]),
            [
                Completion(
                    token_ids=(1,), sampled_logprobs=(0.0,), text=case["inputs"]["response"], finish="stop"
                )
            ],
        )
        for case in CASES
    ]
    with Grader([Mathruler(weight=0.9, as_published=True), Format(weight=0.1)]) as grader:
        groups = grader.grade_many(items)
    for group, case in zip(groups, CASES, strict=True):
        expected = case["expected"]
        assert group.rewards == pytest.approx((expected["overall"],), abs=EXACT), case["id"]
        assert group.breakdown["mathruler"] == (expected["accuracy"],), case["id"]
        assert group.breakdown["format"] == (expected["format"],), case["id"]
    assert grader.failures == grader.timeouts == 0
