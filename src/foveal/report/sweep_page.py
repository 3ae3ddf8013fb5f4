"""`report.html` of a sweep: curves over what was varied, intervals, paired differences, learning."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from foveal.evaluation.compare import COLD_START
from foveal.evaluation.stats import Estimate
from foveal.report import claims, figures
from foveal.report.axes import Axis, axis_of
from foveal.report.read import Curves, listed, mapping, number, read_json, read_jsonl
from foveal.report.render import Cell, inline, percent, plain, render, write
from foveal.report.sweep_figures import arm_colors, cut, sweep_figure
from foveal.spec import FovealError

SHARES = (
    ("accuracy", "Right on held-out problems"),
    ("accuracy_other_picture", "Right with another problem's picture"),
    ("perception_error_fraction", "Perception errors, of all completions"),
    ("format", "Answers that could be read"),
)
"""Of the evaluation, with captions."""

LAST = (
    ("reward/mean", "Reward at the end", False),
    ("kl_prcp/mean", "kl_prcp at the end, mean, nats", False),
    ("policy/entropy", "Entropy at the end, nats", False),
    ("policy/clip_high_fraction", "Clipped from above at the end", True),
)
"""Of the last training steps, with captions; True for shares. One that is 0 everywhere is left out."""

CURVES = (
    ("reward/mean", "Reward", False),
    ("reward/accuracy", "Accuracy on training problems", True),
    ("kl_prcp/mean", "kl_prcp, mean, nats", False),
    ("policy/entropy", "Entropy of the policy, nats", False),
    ("policy/clip_high_fraction", "Clipped from above", True),
    ("completion/length_mean", "Length of completions, tokens", False),
)
"""Over the steps; one that is 0 everywhere is left out."""


def write_sweep_report(folder: Path, *, out: Path | None = None) -> Path:
    """Write the page of a sweep's folder to `out` (default `folder/report.html`); returns its path.

    Reads `sweep.json` and the `metrics.jsonl` of its runs.
    Raises: FovealError, where there is no sweep.json, or it has no arms.
    """
    path = folder / "sweep.json"
    results = mapping(read_json(path))
    arms = [mapping(arm) for arm in listed(results.get("arms"))]
    if not arms:
        raise FovealError(f"{path} has no arms; give the folder that `foveal sweep` wrote")
    page = render("sweep.html.j2", **_values(folder, results, arms))
    return write(out if out is not None else folder / "report.html", page)


def _values(folder: Path, results: Mapping[str, Any], arms: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    runs = [mapping(run) for run in listed(results.get("runs"))]
    axis = axis_of(arms)
    tints = arm_colors(axis)
    comparisons = mapping(results.get("comparisons"))
    pairs = [mapping(pair) for pair in listed(comparisons.get("pairs"))]
    names = {str(arm["name"]): str(arm.get("label") or arm["name"]) for arm in arms}
    first = str(arms[0]["name"])
    rivals = [pair for pair in pairs if pair.get("a") == first]
    seeds = int(number(results.get("seeds")) or 0)
    return {
        "name": str(results.get("name", folder.name)),
        "sentences": _sentences(rivals, names, seeds=seeds),
        "arms": len(arms),
        "seeds": seeds,
        "problems": int(number(results.get("problems")) or 0),
        "last_steps": int(number(results.get("last_steps")) or 0),
        "unfinished": [str(run.get("name")) for run in runs if not run.get("finished")],
        "failures": [(run["name"], run["failure"]) for run in runs if run.get("failure")],
        "guard": [_alarm(run, line) for run in runs for line in map(mapping, listed(run.get("guard")))],
        "panels": _panels(results, runs, axis),
        "broken": axis.broken_at is not None,
        "shares": [caption for _, caption in SHARES],
        "table": _table(results, runs, comparisons, names, tints),
        "first": names[first],
        "differences": [_difference(pair, names) for pair in rivals],
        "differences_figure": _difference_figure(rivals, names),
        "curves": _curves(folder, runs, names, tints),
        "legend": [(names[arm], tints[arm]) for arm in names],
        "command": str(results.get("command", "")),
        "notes": {str(k): str(v) for k, v in mapping(results.get("notes")).items()},
    }


def _panels(results: Mapping[str, Any], runs: Sequence[Mapping[str, Any]], axis: Axis) -> list[Markup]:
    start = mapping(results.get("start"))
    found = []
    for name, caption in SHARES:
        values = _by_arm(runs, lambda run, name=name: run.get(name))
        found.append(sweep_figure(values, axis, caption=caption, percent=True, start=number(start.get(name))))
    for name, caption, share in LAST:
        values = _by_arm(runs, lambda run, name=name: mapping(run.get("last")).get(name))
        if any(value for own in values.values() for value in own):
            found.append(sweep_figure(values, axis, caption=caption, percent=share))
    drawn = [inline(figure, name=f"panel{place}") for place, figure in enumerate(found)]
    return [figure for figure in drawn if figure is not None]


def _by_arm(runs: Sequence[Mapping[str, Any]], read: Any) -> dict[str, list[float]]:  # noqa: ANN401
    found: dict[str, list[float]] = {}
    for run in runs:
        value = number(read(run)) if run.get("finished") else None
        if value is not None:
            found.setdefault(str(run.get("arm")), []).append(value)
    return found


def _sentences(rivals: Sequence[Mapping[str, Any]], names: Mapping[str, str], *, seeds: int) -> list[str]:
    """What the intervals of accuracy carry, and no more."""
    if not rivals:
        return []
    shown = []
    for pair in rivals:
        accuracy = mapping(pair.get("accuracy"))
        how = claims.strength(accuracy, problems=int(number(pair.get("problems")) or 0))
        over = claims.estimate(accuracy.get("over_seeds"))
        if how != "none" and over is not None:
            runs = " in each of these runs" if how == "runs" else ""
            shown.append(f"{names.get(str(pair.get('b')))} {claims.points(over, signed=True)}{runs}")
    first = names.get(str(rivals[0].get("a")))
    if not shown:
        return [f"No difference in accuracy to {first} is shown."]
    rest = len(rivals) - len(shown)
    silent = f" For the other {rest} none is shown." if rest else ""
    few = " Fewer than three seeds speak of these runs only." if seeds < 3 else ""
    return [f"Accuracy differs from {first}, in points: {'; '.join(shown)}.{silent}{few}"]


def _table(
    results: Mapping[str, Any],
    runs: Sequence[Mapping[str, Any]],
    comparisons: Mapping[str, Any],
    names: Mapping[str, str],
    tints: Mapping[str, str],
) -> list[dict[str, Any]]:
    measured = {mapping(m).get("method"): mapping(m) for m in listed(comparisons.get("methods"))}
    start = mapping(results.get("start"))
    rows: list[dict[str, Any]] = []
    if start:
        cells = [percent(number(start.get(name))) for name, _ in SHARES]
        rows.append(
            {"name": "before training", "color": figures.COLORS[COLD_START], "seeds": "", "cells": cells}
        )
    for arm, title in names.items():
        own = [run for run in runs if run.get("arm") == arm and run.get("finished")]
        found = measured.get(arm, {})
        over = [claims.estimate(mapping(found.get(name)).get("over_seeds")) for name, _ in SHARES]
        cells = [None if one is None else percent(one.value, one) for one in over]
        rows.append({"name": title, "color": tints[arm], "seeds": len(own), "cells": cells})
    for row, arm in zip(rows, ([COLD_START] if start else []) + list(names), strict=True):
        own = [run for run in runs if run.get("arm") == arm]
        row["cells"] += [_mean_last(own, "kl_prcp/mean"), _mean_last(own, "policy/entropy"), _seconds(own)]
    return rows


def _mean_last(runs: Sequence[Mapping[str, Any]], name: str) -> Cell | None:
    values = [v for run in runs if (v := number(mapping(run.get("last")).get(name))) is not None]
    return plain(sum(values) / len(values), digits=3) if values else None


def _seconds(runs: Sequence[Mapping[str, Any]]) -> Cell | None:
    values = [v for run in runs if (v := number(run.get("cpu_seconds"))) is not None]
    return plain(sum(values) / len(values)) if values else None


def _difference(pair: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    def shown(name: str, level: str) -> Cell | None:
        found = claims.estimate(mapping(pair.get(name)).get(level))
        return None if found is None else percent(found.value, found, signed=True)

    return {
        "name": names.get(str(pair.get("b")), "?"),
        "seeds": len(listed(pair.get("seeds"))),
        "cells": [
            shown("accuracy", "over_seeds"),
            shown("accuracy", "two_level"),
            shown("perception_error_fraction", "over_seeds"),
            shown("accuracy_other_picture", "over_seeds"),
        ],
    }


def _difference_figure(rivals: Sequence[Mapping[str, Any]], names: Mapping[str, str]) -> Markup | None:
    rows: list[tuple[str, list[Estimate], Estimate | None]] = []
    for pair in rivals:
        accuracy = mapping(pair.get("accuracy"))
        seeds = [one for one in map(claims.estimate, listed(accuracy.get("per_seed"))) if one is not None]
        rows.append((names.get(str(pair.get("b")), "?"), seeds, claims.estimate(accuracy.get("over_seeds"))))
    if not rows:
        return None
    figure = figures.difference_figure(rows, caption="Accuracy, points")
    bounds = [100 * bound for _, seeds, _ in rows for one in seeds for bound in (one.low, one.high)]
    axes = figure.axes[0]
    axes.set_xlim(cut(axes.get_xlim(), [0.0, *bounds]))
    return inline(figure, name="diff")


def _curves(
    folder: Path, runs: Sequence[Mapping[str, Any]], names: Mapping[str, str], tints: Mapping[str, str]
) -> list[Markup]:
    found: Curves = {}
    for run in runs:
        metrics = folder / "runs" / Path(str(run.get("name"))).name / "metrics.jsonl"
        rows = [row for row in read_jsonl(metrics) if row.get("kind") == "step"]
        if rows:
            arm = str(run.get("arm"))
            series = [{k: v for k, value in row.items() if (v := number(value)) is not None} for row in rows]
            found.setdefault(arm, {})[str(run.get("seed"))] = series
    moving = {
        name for own in found.values() for rows in own.values() for row in rows for name in row if row[name]
    }
    drawn = [
        inline(
            figures.curve_figure(
                found, metric, caption=caption, percent=share, colors=tints, names=names, legend=False
            ),
            name=f"curve{place}",
        )
        for place, (metric, caption, share) in enumerate(CURVES)
        if metric in moving
    ]
    return [figure for figure in drawn if figure is not None]


def _alarm(run: Mapping[str, Any], line: Mapping[str, Any]) -> tuple[str, str]:
    """Run and what the guard wrote, in the order in which it wrote it."""
    said = ", ".join(f"{key} {value}" for key, value in line.items() if key != "kind")
    return str(run.get("name")), said
