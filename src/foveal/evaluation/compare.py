"""Paired comparisons of evaluations on the same problems: `comparisons.json`. Imports no torch."""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from foveal.diagnosis.errors import add_flows, flows
from foveal.evaluation import stats
from foveal.evaluation.records import QUANTITIES, Evaluation, cluster_of
from foveal.evaluation.stats import Estimate
from foveal.spec import FovealError

SCHEMA_VERSION = 1

COLD_START = "cold_start"
"""The method name of the model that training began from; it has one evaluation, without a seed."""


@dataclass(frozen=True, kw_only=True)
class _Table:
    """A quantity of the problems that have it, ordered by id, and what is resampled as one unit."""

    values: np.ndarray
    """(problems,), or (2, problems) before and after."""
    clusters: Sequence[Hashable]

    @property
    def change(self) -> "_Table":
        """After minus before."""
        return _Table(values=self.values[1] - self.values[0], clusters=self.clusters)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What changed from evaluation a to evaluation b on the same problems: `b - a`, paired."""

    a: str
    b: str
    problems: int
    differences: Mapping[str, Estimate]
    """By quantity (the names of `QUANTITIES`), where both have it."""
    flows: Mapping[str, Mapping[str, int]]
    """Completions by kind: `flows[from][to]`; sample j of a problem against sample j."""

    def to_json(self) -> dict[str, Any]:
        """Plain numbers."""
        return {
            "a": self.a,
            "b": self.b,
            "problems": self.problems,
            **{name: estimate.to_json() for name, estimate in self.differences.items()},
            "flows": self.flows,
        }


def compare(a: Evaluation, b: Evaluation) -> Comparison:
    """Paired differences `b - a` with bootstrap intervals over problems, and flows between kinds of errors.

    Raises: FovealError, unless both cover exactly the same problems with equally many completions.
    """
    _check_paired(a, b)
    found = {name: _pair(a, b, name) for name in QUANTITIES}
    return Comparison(
        a=a.name,
        b=b.name,
        problems=len(a.records),
        differences={
            name: stats.mean(
                pair.change.values,
                key=("difference", name),
                clusters=pair.clusters,
                bounds=stats.CHANGE,
                level=a.level,
            )
            for name, pair in found.items()
            if pair is not None
        },
        flows=_flows(a, b),
    )


def compare_runs(evaluations: Sequence[Evaluation], *, against: str | None = None) -> dict[str, Any]:
    """Each method, each against the cold start, and every pair of methods (or each method with `against`
    alone): per seed and over seeds.

    Of each quantity: `per_seed` (bootstrap over problems), `two_level` (bootstrap over seeds and problems)
    and
    `over_seeds` (t-interval over seeds). `pairs` has paired differences `b - a`, `methods` the plain means.
    The cold start comes first, then methods in the order in which they are first given.
    Raises: FovealError, for a (method, seed) given twice, or evaluations that cannot be paired.
    """
    by_method: dict[str, dict[int | None, Evaluation]] = {}
    for one in evaluations:
        runs = by_method.setdefault(one.method, {})
        if one.seed in runs:
            raise FovealError(
                f"two evaluations of method {one.method!r} with seed {one.seed}; keep one of them"
            )
        runs[one.seed] = one
    methods = [m for m in by_method if m != COLD_START]
    shown = [COLD_START, *methods] if COLD_START in by_method else methods
    pairs = [(COLD_START, m) for m in methods] if COLD_START in by_method else []
    rivals = [(against, m) for m in methods if m != against and against in by_method]
    pairs += list(combinations(methods, 2)) if against is None else rivals
    rows = [_method_pair(a, b, by_method[a], by_method[b]) for a, b in pairs]
    return {
        "schema_version": SCHEMA_VERSION,
        "level": stats.LEVEL,
        "methods": [_method(m, by_method[m]) for m in shown],
        "pairs": [row for row in rows if row],
    }


def _method(method: str, runs: Mapping[int | None, Evaluation]) -> dict[str, Any]:
    """Plain means of one method; its row of `methods`."""
    seeds = _sorted(runs)
    records = [sorted(runs[seed].records, key=lambda record: record.id) for seed in seeds]
    quantities: dict[str, Any] = {}
    for name, read in QUANTITIES.items():
        tables = [_table([(read(record), cluster_of(record)) for record in one]) for one in records]
        if all(table.values.size for table in tables):
            quantities[name] = _over_seeds(name, seeds, tables, bounds=stats.FRACTION)
    return {"method": method, "seeds": seeds, "problems": len(records[0]), **quantities}


def _method_pair(
    a: str, b: str, runs_a: Mapping[int | None, Evaluation], runs_b: Mapping[int | None, Evaluation]
) -> dict[str, Any] | None:
    """One row of `comparisons.json`; None where the methods share no seed."""
    if a == COLD_START:
        start = next(iter(runs_a.values()))
        paired = {seed: (start, run) for seed, run in runs_b.items()}
    else:
        paired = {seed: (run, runs_b[seed]) for seed, run in runs_a.items() if seed in runs_b}
    if not paired:
        return None
    seeds = _sorted(paired)
    for before, after in paired.values():
        _check_paired(before, after)
    quantities: dict[str, Any] = {}
    for name in QUANTITIES:
        tables = [_pair(*paired[seed], name) for seed in seeds]
        found = [table.change for table in tables if table is not None]
        if len(found) == len(seeds):
            quantities[name] = _over_seeds(name, seeds, found, bounds=stats.CHANGE)
    return {
        "a": a,
        "b": b,
        "seeds": seeds,
        "problems": len(paired[seeds[0]][0].records),
        **quantities,
        "flows": add_flows(_flows(*paired[seed]) for seed in seeds),
    }


def _over_seeds(
    name: str, seeds: Sequence[int | None], tables: Sequence[_Table], *, bounds: stats.Bounds
) -> dict[str, Any]:
    """A quantity of each problem, one table per seed, as intervals."""
    per_seed = [
        stats.mean(table.values, key=("per seed", name), clusters=table.clusters, bounds=bounds)
        for table in tables
    ]
    result: dict[str, Any] = {
        "per_seed": [{"seed": seed, **one.to_json()} for seed, one in zip(seeds, per_seed, strict=True)],
        "over_seeds": stats.over_seeds([one.value for one in per_seed]).to_json(),
    }
    if len({table.values.size for table in tables}) == 1:
        # A problem that lacks the quantity (no donor picture was found) lacks it under every seed.
        grid = np.stack([table.values for table in tables])
        found = stats.two_level(grid, key=("two level", name), clusters=tables[0].clusters)
        result["two_level"] = found.to_json()
    return result


def _table(rows: Iterable[tuple[float | None, Hashable]]) -> _Table:
    known = [(value, cluster) for value, cluster in rows if value is not None]
    return _Table(
        values=np.array([value for value, _ in known], dtype=np.float64),
        clusters=[cluster for _, cluster in known],
    )


def _sorted(seeds: Iterable[int | None]) -> list[int | None]:
    return sorted(seeds, key=lambda seed: (seed is None, seed or 0))


def _check_paired(a: Evaluation, b: Evaluation) -> None:
    ids_a, ids_b = [r.id for r in a.records], [r.id for r in b.records]
    for one, ids in ((a, ids_a), (b, ids_b)):
        if len(set(ids)) != len(ids):
            raise FovealError(
                f"evaluation {one.name!r} has a problem twice; a paired comparison needs each id once"
            )
    if set(ids_a) != set(ids_b):
        only_a, only_b = len(set(ids_a) - set(ids_b)), len(set(ids_b) - set(ids_a))
        raise FovealError(
            f"evaluations {a.name!r} and {b.name!r} are of other problems ({only_a} only in the first, "
            f"{only_b} only in the second); a paired comparison needs the same: evaluate both on one file"
        )
    if a.k != b.k or a.greedy != b.greedy:
        raise FovealError(
            f"evaluations {a.name!r} (k={a.k}, greedy={a.greedy}) and {b.name!r} (k={b.k}, "
            f"greedy={b.greedy}) were drawn in other ways; evaluate both with the same k and greedy"
        )


def _pair(a: Evaluation, b: Evaluation, quantity: str) -> _Table | None:
    """The quantity in a and b where both have it, ordered by id: aligned over seeds too."""
    read = QUANTITIES[quantity]
    after = {record.id: read(record) for record in b.records}
    ordered = sorted(a.records, key=lambda record: record.id)
    both = [(read(record), after[record.id], cluster_of(record)) for record in ordered]
    rows = [(x, y, cluster) for x, y, cluster in both if x is not None and y is not None]
    if not rows:
        return None
    before, later, clusters = zip(*rows, strict=True)
    return _Table(values=np.array([before, later], dtype=np.float64), clusters=clusters)


def _flows(a: Evaluation, b: Evaluation) -> dict[str, dict[str, int]]:
    after = {record.id: record.kinds for record in b.records}
    pairs = [(r.kinds, after[r.id]) for r in a.records]
    both = [(x, y) for x, y in pairs if x is not None and y is not None]
    return flows([kind for x, _ in both for kind in x], [kind for _, y in both for kind in y])
