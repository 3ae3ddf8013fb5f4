"""Kinds of errors: their shares, and what became of each between two evaluations. Imports nothing heavy."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from foveal.spec import FovealError

KINDS = ("correct", "perception", "reasoning", "calculation", "inconsistency", "format")
"""Verdicts on a completion, in the order in which they are shown.

Of a wrong completion: what it states about the picture leads to another answer ("perception"); a tally or an
equation does not follow from what is stated ("calculation"); facts and arithmetic are right but not the
conclusion ("reasoning"); the final answer differs from the conclusion ("inconsistency"); it cannot be read
("format"). `foveal.worlds.judge` decides.
"""

PERCEPTION = "perception"


def shares(kinds: Iterable[str]) -> dict[str, float]:
    """Share of each kind among ALL completions, right ones included; the shares sum to 1.

    >>> shares(["correct", "perception", "correct", "perception"])["perception"]
    0.5
    """
    count = Counter(kinds)
    total = sum(count.values())
    return {kind: count[kind] / total for kind in ordered(count)} if total else {}


def flows(before: Sequence[str], after: Sequence[str]) -> dict[str, dict[str, int]]:
    """Completions that went from one kind to another: `flows[from][to]`, paired in the given order.

    A pool chosen for its failures improves by itself when it is merely sampled again (regression to the
    mean), so a flow out of "perception" is evidence only beside the same flow of a control run.
    """
    if len(before) != len(after):
        raise FovealError(f"flows need the same completions twice, got {len(before)} and {len(after)} kinds")
    count = Counter(zip(before, after, strict=True))
    known = ordered([*before, *after])
    return {a: {b: count[a, b] for b in known if count[a, b]} for a in known if a in set(before)}


def add_flows(many: Iterable[Mapping[str, Mapping[str, int]]]) -> dict[str, dict[str, int]]:
    """Flows summed, over seeds say."""
    total: Counter[tuple[str, str]] = Counter()
    for one in many:
        for a, row in one.items():
            for b, number in row.items():
                total[a, b] += number
    known = ordered(kind for pair in total for kind in pair)
    return {a: {b: total[a, b] for b in known if total[a, b]} for a in known if any(a == p[0] for p in total)}


def ordered(kinds: Iterable[str]) -> list[str]:
    """Each kind once: known ones in the order of `KINDS`, others behind them by name."""
    present = set(kinds)
    return [k for k in KINDS if k in present] + sorted(present - set(KINDS))
