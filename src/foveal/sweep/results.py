"""`sweep.json`: what the runs of a sweep found, and how sure the differences between arms are."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from foveal.evaluation import stats
from foveal.evaluation.compare import COLD_START, compare_runs
from foveal.evaluation.records import QUANTITIES, Evaluation
from foveal.jobs.folder import read_settings, write
from foveal.report.read import number, read_jsonl
from foveal.spec import FovealError
from foveal.sweep.plan import PLAN, SCHEMA_VERSION

RESULTS = "sweep.json"
LAST_STEPS = 5
"""Training metrics are means over so many last steps: one step's are noise."""
GUARD = "guard"
"""Kind of the lines of metrics.jsonl that the collapse guard writes."""


def collect(out: Path, *, failures: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Read what is finished in a sweep's folder and write `sweep.json`; returns it.

    `failures`: run -> what it said. A run that is not finished is a row without numbers.
    Raises: FovealError, when the folder holds no sweep.
    """
    plan = read_settings(out, PLAN)
    if plan is None:
        raise FovealError(f"no sweep in {out}: it has no {PLAN}; give the --out of a foveal sweep")
    rows, evaluations = [], []
    for arm in plan["arms"]:
        for seed in range(plan["seeds"]):
            row, found = _run(out, arm, seed, failures or {})
            rows.append(row)
            evaluations += [found] if found is not None else []
    start = _evaluation(out, COLD_START) if plan["comparable"] else None
    results = {
        "schema_version": SCHEMA_VERSION,
        **{name: plan[name] for name in ("name", "command", "seeds", "problems", "axes", "arms")},
        "last_steps": LAST_STEPS,
        "start": None if start is None else _shares(start),
        "runs": rows,
        "comparisons": _comparisons(plan, evaluations, start),
        "notes": _notes(),
    }
    write(out / RESULTS, results)
    return results


def _run(
    out: Path, arm: Mapping[str, Any], seed: int, failures: Mapping[str, str]
) -> tuple[dict[str, Any], Evaluation | None]:
    """A row of `runs`, and its evaluation where it is finished."""
    name = f"{arm['name']}-seed{seed}"
    found = _evaluation(out, name)
    lines = read_jsonl(out / "runs" / name / "metrics.jsonl")
    steps = [line for line in lines if line.get("kind") == "step"]
    row: dict[str, Any] = {
        "name": name,
        "arm": arm["name"],
        "seed": seed,
        "overrides": [*arm["overrides"], f"seed={seed}"],
        "folder": f"runs/{name}",
        "finished": found is not None,
        "failure": failures.get(name),
        "steps": len(steps),
        **(_shares(found) if found is not None else dict.fromkeys(QUANTITIES)),
        "last": _last(steps),
        "guard": [line for line in lines if line.get("kind") == GUARD],
    }
    done = out / "jobs" / f"{name}.done.json"
    if done.is_file():
        measured = json.loads(done.read_text(encoding="utf-8"))
        row |= {key: measured.get(key) for key in ("seconds", "cpu_seconds")}
    return row, found


def _evaluation(out: Path, name: str) -> Evaluation | None:
    """The evaluation of a finished run; None before that."""
    if not (out / "jobs" / f"{name}.done.json").is_file():
        return None
    return Evaluation.load(out / "evaluations" / f"{name}.json")


def _shares(found: Evaluation) -> dict[str, float | None]:
    estimates = {name: found.estimate(name) for name in QUANTITIES}
    return {name: None if one is None else one.value for name, one in estimates.items()}


def _last(steps: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Mean of each metric over the last steps; those of time and bookkeeping say nothing here."""
    last = steps[-LAST_STEPS:]
    names = [name for name in (last[-1] if last else {}) if "/" in name and not name.startswith("time/")]
    found = {}
    for name in names:
        values = [value for line in last if (value := number(line.get(name))) is not None]
        if values:
            found[name] = sum(values) / len(values)
    return found


def _comparisons(
    plan: Mapping[str, Any], evaluations: Sequence[Evaluation], start: Evaluation | None
) -> dict[str, Any]:
    """Means of each arm, and paired differences to the first one (same seed, same problems) and to the
    model before training; without pairs where the arms are evaluated on different problems.
    """
    if not evaluations:
        return {"schema_version": SCHEMA_VERSION, "level": stats.LEVEL, "methods": [], "pairs": []}
    if not plan["comparable"]:
        alone = [
            compare_runs([one for one in evaluations if one.method == arm["name"]]) for arm in plan["arms"]
        ]
        return {**alone[0], "methods": [method for one in alone for method in one["methods"]], "pairs": []}
    both = [start, *evaluations] if start is not None else list(evaluations)
    return compare_runs(both, against=plan["arms"][0]["name"])


def _notes() -> dict[str, str]:
    from foveal.train.record import manifest

    found = manifest()
    machine = found["machine"]
    return {
        "hardware": f"{machine['system']}, {machine['cores']} cores, one thread a run",
        "commit": str((found["git"] or {}).get("commit", "unknown")),
        "packages": ", ".join(f"{name} {version}" for name, version in found["packages"].items()),
    }
