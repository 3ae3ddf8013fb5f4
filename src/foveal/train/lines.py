"""The lines of completions.jsonl."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from foveal.types import Group

DIGITS = 5
"""Significant digits of per-token values."""


def completion_lines(
    step: int,
    groups: Sequence[Group],
    per_token: Mapping[str, Tensor],
    *,
    limit: int,
    token_groups: int,
    pictures: Callable[[Group], list[str]],
) -> list[dict[str, Any]]:
    """A line for each completion of the first `limit` groups; the first `token_groups` of them with per-token
    values and the files of their `pictures`.

    `per_token` has a row for each completion that was trained on, in order: none for one that was excluded.
    """
    lines, row = [], 0
    for index, group in enumerate(groups[:limit]):
        detailed = index < token_groups
        files = pictures(group) if detailed else []
        for place, completion in enumerate(group.completions):
            line = _line(step, group, place) | {"pictures": files}
            lines.append(line)
            if place in group.excluded:
                line["excluded"] = group.excluded[place]
                continue
            if detailed:
                length = len(completion.token_ids)
                line["token_ids"] = list(completion.token_ids)
                line["tokens"] = {
                    name: [_short(value) for value in values[row, :length].tolist()]
                    for name, values in per_token.items()
                    if name != "sampled_logprobs"
                }
            row += 1
    return lines


def _line(step: int, group: Group, place: int) -> dict[str, Any]:
    """What is written of any completion."""
    completion = group.completions[place]
    return {
        "step": step,
        "problem_id": group.problem.id,
        "completion": place,
        "question": group.problem.asked,
        "answer": group.problem.answer,
        "text": completion.text,
        "finish": completion.finish,
        "policy_version": completion.policy_version,
        "view": completion.view,
        "reward": group.rewards[place],
        "correct": group.correct[place],
        "breakdown": {name: values[place] for name, values in group.breakdown.items()},
    }


def _short(value: float) -> float | None:
    return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
