"""Thousands of right and wrong answers over all kinds: no wrong one is paid, right ones are."""

from collections import defaultdict

from answer_kinds import KINDS, Case, cases
from foveal.rewards.rules import Boxed
from foveal.rewards.tasks import Task
from foveal.types import Problem

EACH = 11
SEED = 2026
PAIRS = 5_000
RIGHT_SHARE = 0.99


def settled(case: Case, box: str) -> float | None:
    problem = Problem(id="p", question=case.question, images=(), answer=case.gold, meta=case.meta)
    found = Boxed().settle(problem, f"<think>reasons</think> The answer is \\boxed{{{box}}}.")
    assert not isinstance(found, Task), f"the rules leave {case.gold!r} against {box!r} to a worker"
    return found


def test_no_wrong_answer_is_paid_and_right_ones_are_over_all_kinds() -> None:
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    paid, missed = [], []
    for name, case in cases(EACH, seed=SEED):
        row = counts[name]
        for box in case.right:
            row[0] += 1
            if settled(case, box) != 1.0:
                row[1] += 1
                missed.append((name, case.gold, box))
        for box in case.wrong:
            row[2] += 1
            if settled(case, box) != 0.0:
                row[3] += 1
                paid.append((name, case.gold, box))
    right, lost, wrong, bad = (sum(row[n] for row in counts.values()) for n in range(4))
    print(f"\n{'kind':50s} right missed wrong  paid")
    for name, row in counts.items():
        print(f"{name:50s} {row[0]:5d} {row[1]:6d} {row[2]:5d} {row[3]:5d}")
    print(f"{f'{len(counts)} kinds':50s} {right:5d} {lost:6d} {wrong:5d} {bad:5d}")
    assert paid == []
    assert lost <= (1 - RIGHT_SHARE) * right, missed[:20]
    assert right + wrong >= PAIRS and len(KINDS) == len(counts) >= 25


def test_truths_of_other_cases_are_wrong_unless_they_are_the_same_text() -> None:
    """The truth of one case as the answer to another of its kind: whole tables of near misses."""
    by_kind: dict[str, list[Case]] = defaultdict(list)
    for name, case in cases(8, seed=SEED + 1):
        by_kind[name].append(case)
    skipped = {
        "letters_with_known_options",
        "indices_of_options",
        "truths_in_tags_and_solutions",
        "alternatives",
    }
    paid = [
        (name, one.gold, two.gold)
        for name, rows in by_kind.items()
        for one in rows
        for two in rows
        if name not in skipped and two.gold not in (one.gold, *one.right) and one.gold not in two.right
        if settled(one, two.gold) != 0.0
    ]
    assert paid == []
