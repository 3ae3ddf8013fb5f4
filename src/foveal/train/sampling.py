"""Dynamic sampling: rounds of groups are drawn until enough are kept."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from foveal.spec import FovealError

G = TypeVar("G")

WhenNoneKept = Literal["draw_more", "keep_all"]
"""What a round is worth of which no group is kept: nothing, or all of its groups (PAPO's code)."""

WhenShort = Literal["go_on", "stop"]
"""What happens with too few groups after the last round: the step goes on with those, or the run stops
(PAPO's code)."""


@dataclass(frozen=True, kw_only=True)
class Gathered(Generic[G]):
    """The groups of a step, and what they took."""

    groups: list[G]
    rounds: int
    drawn: int
    """Groups of all rounds, dropped ones included."""


def gather_groups(
    rounds: Iterable[Sequence[G]],
    *,
    keeps: Callable[[G], bool],
    wanted: int,
    limit: int | None,
    when_none_kept: WhenNoneKept = "draw_more",
    when_short: WhenShort = "go_on",
) -> Gathered[G]:
    """Take rounds until `wanted` groups are kept, `limit` rounds at most (None: no limit); the rest is cut.

    A round is drawn only when it is needed. When no group at all is kept up to the limit, the last round's
    are returned as they are: their advantages decide.

    Raises: FovealError for too few groups under when_short = "stop".
    """
    kept, last, taken, drawn = list[G](), list[G](), 0, 0
    for groups in rounds:
        last, taken, drawn = list(groups), taken + 1, drawn + len(groups)
        chosen = [group for group in last if keeps(group)]
        kept += chosen or (last if when_none_kept == "keep_all" else [])
        if len(kept) >= wanted or taken == limit:
            break
    if len(kept) < wanted and when_short == "stop":
        raise FovealError(
            f"{taken} rounds of sampling gave {len(kept)} of {wanted} groups that the objective keeps; raise "
            'sampling.max_refills, set sampling.when_short = "go_on", or train on problems that are neither '
            "too easy nor too hard"
        )
    return Gathered(groups=(kept or last)[:wanted], rounds=taken, drawn=drawn)
