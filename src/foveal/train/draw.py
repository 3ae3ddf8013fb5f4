"""What a round of sampling draws: the next problems, and completions of them under one or several views."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from foveal.keys import Key, generator
from foveal.types import CLEAN, Completion, Finished, Problem, RolloutEngine, Sampling, ViewName


def exact_counts(shares: Mapping[ViewName, float], total: int) -> dict[ViewName, int]:
    """Whole numbers in proportion to the shares that add up to `total`, by largest remainder.

    A tie goes to the view that is named first.

    >>> exact_counts({"clean": 0.5, "noised": 0.5}, 5)
    {'clean': 3, 'noised': 2}
    """
    whole = sum(shares.values())
    exact = {view: total * share / whole for view, share in shares.items()}
    counts = {view: math.floor(value) for view, value in exact.items()}
    # Remainders that differ by rounding alone are equal: 5 * 0.3 leaves 0.5.
    order = sorted(exact, key=lambda view: -round(exact[view] - counts[view], 9))
    for view in order[: total - sum(counts.values())]:
        counts[view] += 1
    return counts


def draw_groups(
    engine: RolloutEngine,
    problems: Sequence[Problem],
    *,
    sampling: Sampling,
    shares: Mapping[ViewName, float],
    shown: Callable[[Problem, ViewName], Problem],
    key: Key,
    finished: Finished | None = None,
) -> list[tuple[Completion, ...]]:
    """`sampling.group_size` completions of each problem, in the order of the views in `shares`.

    `shown` gives a problem with its pictures under a view. The noise of clean completions is keyed by `key`,
    as it would be without other views, that of others by (*key, view). Each completion carries its view.
    """
    counts = {view: n for view, n in exact_counts(shares, sampling.group_size).items() if n}
    if len(counts) > 1:
        # An update takes products of all completions of a row or of none, and only clean ones have them.
        sampling = replace(sampling, product_tokens=0)
    drawn: dict[ViewName, list[tuple[Completion, ...]]] = {}

    def last(place: int, own: tuple[Completion, ...]) -> None:
        others = {view: groups[place] for view, groups in drawn.items()}
        parts = (others.get(view, own) for view in counts)
        if finished is not None:
            finished(place, sum(parts, ()))

    # The clean pictures come last, so that they are the ones that stay encoded for scoring.
    for view in sorted(counts, key=lambda name: name == CLEAN):
        told = {"finished": last} if finished is not None and len(drawn) == len(counts) - 1 else {}
        drawn[view] = engine.generate(
            problems if view == CLEAN else [shown(problem, view) for problem in problems],
            sampling=replace(sampling, group_size=counts[view]),
            key=key if view == CLEAN else (*key, view),
            view=view,
            **told,
        )
    return [sum((drawn[view][n] for view in counts), ()) for n in range(len(problems))]


def draw_rounds(
    engine: RolloutEngine,
    rounds: Sequence[tuple[int, Sequence[Problem]]],
    *,
    sampling: Sampling,
    shares: Mapping[ViewName, float],
    shown: Callable[[Problem, ViewName], Problem],
    key: Key,
    finished: Callable[[int, Problem, tuple[Completion, ...]], None] | None = None,
) -> list[tuple[Problem, tuple[Completion, ...]]]:
    """Problems, by epoch, with what `draw_groups` draws.

    The epoch is part of the key: small data give a problem several times a step, each time with noise of
    its own. `finished` may be told of places, problems and completions before the others are there.
    """
    found = list[tuple[Problem, tuple[Completion, ...]]]()
    for epoch, problems in rounds:
        tell: Finished | None = None
        if finished is not None:
            tell = partial(_tell, finished, problems, len(found))
        completions = draw_groups(
            engine,
            problems,
            sampling=sampling,
            shares=shares,
            shown=shown,
            key=(*key, epoch),
            finished=tell,
        )
        found += zip(problems, completions, strict=True)
    return found


def _tell(
    finished: Callable[[int, Problem, tuple[Completion, ...]], None],
    problems: Sequence[Problem],
    before: int,
    place: int,
    completions: tuple[Completion, ...],
) -> None:
    """Tell of a problem by its place in all rounds."""
    finished(before + place, problems[place], completions)


class Order:
    """The order of problems: a fresh permutation an epoch, keyed by the seed."""

    def __init__(self, size: int, *, seed: int) -> None:
        self.size, self.seed = size, seed
        self._epoch = -1
        self._permutation: Any = None

    def next(self, place: int, count: int) -> list[tuple[int, list[int]]]:
        """The problems at `count` places from `place` on, counted from the start of training, by epoch."""
        found: list[tuple[int, list[int]]] = []
        while count > 0:
            epoch, within = divmod(place, self.size)
            if epoch != self._epoch:
                self._permutation = generator(self.seed, "order", epoch).permutation(self.size)
                self._epoch = epoch
            taken = self._permutation[within : within + count].tolist()
            found.append((epoch, taken))
            place, count = place + len(taken), count - len(taken)
        return found
