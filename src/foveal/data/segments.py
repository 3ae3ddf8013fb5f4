"""From a part of a completion's text to its tokens."""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Bool
from torch import Tensor

from foveal.types import Group, Span

INCOMPLETE = "\ufffd"
"""What the first bytes of a letter decode to until its last one is there."""


def token_span(token_ids: Sequence[int], span: Span, decode: Callable[[Sequence[int]], str]) -> Span:
    """The tokens that hold the characters of `span`: the first one's place, and the one behind the last.

    Token i holds the characters by which the decoded text grows from i to i + 1 tokens, so this is exact
    where decoding tokens from the left never takes letters back. A token that is half inside counts; one
    that decodes to nothing belongs to what stands before it.
    """

    def grown(count: int) -> int:
        return len(decode(token_ids[:count]).rstrip(INCOMPLETE))

    places = range(len(token_ids) + 1)
    first = max(bisect_right(places, span[0], key=grown) - 1, 0)
    behind = bisect_left(places, span[1], key=grown)
    return first, max(min(behind, len(token_ids)), first)


def segment_masks(
    groups: Sequence[Group], *, width: int, decode: Callable[[Sequence[int]], str]
) -> Mapping[str, Bool[Tensor, "B T"]]:
    """For each reward that marks parts, the tokens of each completion's part; none where it marks none."""
    rows = sum(len(group.completions) for group in groups)
    names = dict.fromkeys(name for group in groups for name in group.segments)
    found = {name: torch.zeros(rows, width, dtype=torch.bool) for name in names}
    row = 0
    for group in groups:
        for g, completion in enumerate(group.completions):
            for name, spans in group.segments.items():
                span = spans[g]
                if span is not None:
                    first, behind = token_span(completion.token_ids, span, decode)
                    found[name][row, first:behind] = True
            row += 1
    return found


def breakdown_values(groups: Sequence[Group]) -> Mapping[str, Tensor]:
    """The values of each reward [B]; NaN where a completion could not be graded."""
    names = dict.fromkeys(name for group in groups for name in group.breakdown)
    nothing = float("nan")
    return {
        name: torch.tensor(
            [
                nothing if value is None else value
                for group in groups
                for value in group.breakdown.get(name, (None,) * len(group.completions))
            ],
            dtype=torch.float32,
        )
        for name in names
    }
