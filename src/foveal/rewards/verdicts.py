"""From the values of rewards to a graded group: sums, and which completions can be compared."""

import math
from collections.abc import Mapping, Sequence
from typing import TypeVar

from foveal.rewards.settings import OnFailure
from foveal.types import Completion, Group, Problem, Reward

T = TypeVar("T")

Values = Sequence[Sequence[float | None]]
"""By reward, then by completion."""
Failures = Mapping[tuple[int, int], str]
"""Why there is no value, by reward and completion."""


def graded_group(
    problem: Problem,
    completions: Sequence[Completion],
    values: Values,
    failures: Failures,
    *,
    rewards: Sequence[Reward],
    names: Sequence[str],
    accuracy: int,
    counting: Sequence[int],
    on_failure: OnFailure,
) -> Group:
    """The group of one problem: total = sum over rewards of weight * value, NaN where a counting one failed.

    `accuracy`: the reward that decides what is correct; `counting`: those that training uses.
    """
    totals = []
    for place, column in enumerate(zip(*values, strict=True)):
        known = [(reward.weight, v) for reward, v in zip(rewards, column, strict=True) if v is not None]
        lost = any((index, place) in failures for index in counting)
        totals.append(math.nan if lost else sum((weight * value for weight, value in known), 0.0))
    marked = {
        name: tuple(reward.segment(problem, completion.text) for completion in completions)
        for name, reward in zip(names, rewards, strict=True)
        if type(reward).segment is not Reward.segment
    }
    return Group(
        problem=problem,
        completions=tuple(completions),
        rewards=tuple(totals),
        correct=tuple(value is not None and value >= 0.5 for value in values[accuracy]),
        breakdown={name: tuple(column) for name, column in zip(names, values, strict=True)},
        segments=marked,
        excluded=excluded(
            len(completions), values, failures, names=names, counting=counting, on_failure=on_failure
        ),
        failed=frozenset(place for reward, place in failures if reward == accuracy),
    )


def excluded(
    size: int,
    values: Values,
    failures: Failures,
    *,
    names: Sequence[str],
    counting: Sequence[int],
    on_failure: OnFailure,
) -> dict[int, str]:
    """Completions whose sum of rewards cannot be compared with the others', by place, and why.

    One that a counting reward failed on; with "drop_group" then all. And one that a counting reward gives no
    value (None) though it gives others of the group one: its sum lacks a part that theirs have. Where a
    reward gives nobody a value nothing is lacking.
    """
    found: dict[int, str] = {}
    for (reward, place), reason in sorted(failures.items()):
        if reward in counting:
            found.setdefault(place, f"reward {names[reward]!r} failed: {reason}")
    if found and on_failure == "drop_group":
        first = min(found)
        return {place: found.get(place, f"completion {first}: {found[first]}") for place in range(size)}
    left = [place for place in range(size) if place not in found]
    for reward in counting:
        given = [place for place in left if values[reward][place] is not None]
        if given:
            for place in left:
                if values[reward][place] is None:
                    found.setdefault(place, f"reward {names[reward]!r} gives it no value, and others one")
    return dict(sorted(found.items()))


def comparable(group: Group) -> Group:
    """The group of the completions that can be compared; itself where that is all of them."""
    if not group.excluded:
        return group
    kept = [place for place in range(len(group.completions)) if place not in group.excluded]

    def part(values: Sequence[T]) -> tuple[T, ...]:
        return tuple(values[place] for place in kept)

    return Group(
        problem=group.problem,
        completions=part(group.completions),
        rewards=part(group.rewards),
        correct=part(group.correct),
        breakdown={name: part(values) for name, values in group.breakdown.items()},
        segments={name: part(spans) for name, spans in group.segments.items()},
    )
