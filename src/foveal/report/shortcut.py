"""The shortcut study: does training drift to a word that gives the answer away, and what slows it.

`shortcut.json` is `{"schema_version": 1, "rows": [{"method", "seed", "accuracy_random", "accuracy_wrong",
"accuracy_right", "follow", "strength"?, "train_accuracy"?, "cpu_seconds"?}]}`; the same held-out problems
with the word drawn at random, always wrong and always right. `follow` is the share of answers that equal the
wrong word's;
`strength` that of the shortcut in training, 0 for the control that is trained without one.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from foveal.evaluation import stats
from foveal.evaluation.compare import COLD_START
from foveal.evaluation.stats import Estimate
from foveal.report import figures
from foveal.report.claims import title
from foveal.report.read import listed, mapping, number, read_json
from foveal.report.render import Cell, inline, minus, percent, plain, render, write
from foveal.spec import FovealError

MEASURES = ("accuracy_random", "accuracy_wrong", "accuracy_right", "follow")

BASE = "grpo"
"""The method whose runs give the line that others are compared with."""

MIN_SEEDS = 3
"""Fewer seeds carry no sentence: their t-intervals reach across most of the scale."""

_OPTIONAL = ("strength", "train_accuracy", "cpu_seconds")

Rows = list[dict[str, Any]]


def read_shortcut(folder: Path) -> Rows:
    """The rows of `shortcut.json`, empty where there is no such file.

    Raises: FovealError, for a row without one of the four measures.
    """
    path = folder / "shortcut.json"
    data = mapping(read_json(path))
    rows: Rows = []
    for place, raw in enumerate(listed(data.get("rows"))):
        row = mapping(raw)
        measured = {name: number(row.get(name)) for name in (*MEASURES, *_OPTIONAL)}
        absent = [name for name in MEASURES if measured[name] is None]
        if absent:
            raise FovealError(
                f"{path} row {place} has no number for {', '.join(absent)}; expected {', '.join(MEASURES)}"
            )
        rows.append({"method": str(row.get("method", "?")), "seed": row.get("seed"), **measured})
    return sorted(rows, key=lambda row: row["method"] != COLD_START)


def fit_line(rows: Sequence[Mapping[str, Any]], *, method: str = BASE) -> tuple[float, float] | None:
    """Least squares `accuracy_random = a + b * follow` over the runs of one method and the start: (a, b).

    Runs of other methods on the same line see no better at equal use of the shortcut; they have only drifted
    less. Partly mechanical: an answer that follows a wrong word is wrong. None below three different values
    of `follow`.
    """
    own = [row for row in rows if row["method"] in {method, COLD_START}]
    if len({row["follow"] for row in own}) < MIN_SEEDS:
        return None
    slope, start = np.polyfit([row["follow"] for row in own], [row["accuracy_random"] for row in own], 1)
    return float(start), float(slope)


def paired(rows: Sequence[Mapping[str, Any]], a: str, b: str, measure: str) -> Estimate | None:
    """Mean over shared seeds of `b - a` with its t-interval; the cold start stands against every seed."""
    after = {row["seed"]: row[measure] for row in rows if row["method"] == b}
    before = {row["seed"]: row[measure] for row in rows if row["method"] == a}
    if a == COLD_START and before:
        before = dict.fromkeys(after, next(iter(before.values())))
    shared = [seed for seed in after if seed in before]
    return stats.over_seeds([after[seed] - before[seed] for seed in shared]) if shared else None


def sentences(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the t-intervals over seeds carry, and no more."""
    methods = _methods(rows)
    found = []
    drift = paired(rows, COLD_START, BASE, "accuracy_random")
    if drift is not None and drift.count >= MIN_SEEDS and drift.high < 0:
        found.append(
            f"{title(BASE)} learns the shortcut: with a random word it is {-100 * drift.value:.1f} points "
            f"less often right than before training ({drift.count} seeds)."
        )
    elif drift is not None:
        found.append(f"No drift of {title(BASE)} to the shortcut is shown.")
    controls = [m for m in methods if all(row["strength"] == 0 for row in rows if row["method"] == m)]
    found += [text for method in controls if (text := _control(rows, method))]
    rivals = [m for m in methods if m not in {BASE, COLD_START, *controls}]
    gains = {method: paired(rows, BASE, method, "accuracy_random") for method in rivals}
    brakes = [
        f"{title(method)} (+{100 * gain.value:.1f} points)"
        for method, gain in gains.items()
        if gain is not None and gain.count >= MIN_SEEDS and gain.low > 0
    ]
    if brakes:
        found.append(f"At this number of steps less of it is learnt with {', '.join(brakes)}.")
    elif rivals:
        found.append(f"No method is shown to drift less than {title(BASE)}.")
    return found


def _control(rows: Sequence[Mapping[str, Any]], method: str) -> str | None:
    moved = paired(rows, COLD_START, method, "accuracy_random")
    if moved is None or moved.count < MIN_SEEDS:
        return None
    low, high = minus(f"{100 * moved.low:+.1f}"), minus(f"{100 * moved.high:+.1f}")
    name = f"Trained without the shortcut ({title(method)})"
    return f"{name}, accuracy with a random word moves by {low} to {high} points."


def shortcut_section(folder: Path) -> Markup | None:
    """The study as a section of a page; None where the folder has none."""
    rows = read_shortcut(folder)
    if not rows:
        return None
    methods, fit = _methods(rows), fit_line(rows)
    figure = figures.scatter_figure(rows, fit=fit, methods=methods)
    return render(
        "shortcut.html.j2",
        sentences=sentences(rows),
        figure=inline(figure, name="shortcut"),
        fit=_fit_text(rows, fit),
        rows=[_table_row(rows, method, methods) for method in methods],
        pairs=[row for a, b in combinations(methods, 2) if (row := _pair_row(rows, a, b))],
    )


def write_shortcut_report(folder: Path, *, out: Path | None = None) -> Path:
    """Write the study alone as `folder/shortcut.html`; returns its path.

    Raises: FovealError, where the folder has no `shortcut.json` with rows.
    """
    section = shortcut_section(folder)
    if section is None:
        raise FovealError(
            f'{folder / "shortcut.json"} has no rows; expected {{"rows": [...]}} of a shortcut study'
        )
    page = render("page.html.j2", title="Learning a shortcut", about="", content=section)
    return write(out if out is not None else folder / "shortcut.html", page)


def _methods(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(row["method"] for row in rows))


def _fit_text(rows: Sequence[Mapping[str, Any]], fit: tuple[float, float] | None) -> str:
    if fit is None:
        return f"Too few runs of {title(BASE)} for a line."
    others = [row for row in rows if row["method"] not in {BASE, COLD_START}]
    text = f"The dashed line is fitted to the runs of {title(BASE)} and the start alone."
    if not others:
        return text
    apart = [100 * (row["accuracy_random"] - fit[0] - fit[1] * row["follow"]) for row in others]
    low, high = minus(f"{min(apart):+.1f}"), minus(f"{max(apart):+.1f}")
    return (
        f"{text} All other runs lie {low} to {high} points from it: a method on the line has drifted "
        "less, but sees no better at equal use of the word."
    )


def _table_row(rows: Sequence[Mapping[str, Any]], method: str, methods: Sequence[str]) -> dict[str, Any]:
    own = [row for row in rows if row["method"] == method]
    shares = ("train_accuracy", *MEASURES)
    cpu = [row["cpu_seconds"] for row in own if row["cpu_seconds"] is not None]
    cells = [_share_cell([row[name] for row in own]) for name in shares]
    return {
        "name": title(method),
        "seeds": len(own) if any(row["seed"] is not None for row in own) else "",
        "color": figures.color(method, methods),
        "cells": [*cells, plain(float(np.mean(cpu))) if cpu else None],
    }


def _share_cell(values: Sequence[float | None]) -> Cell | None:
    known = [value for value in values if value is not None]
    if not known:
        return None
    found = stats.over_seeds(known)
    return percent(found.value, found)


def _pair_row(rows: Sequence[Mapping[str, Any]], a: str, b: str) -> dict[str, Any] | None:
    found = [paired(rows, a, b, name) for name in ("accuracy_random", "accuracy_wrong", "follow")]
    if found[0] is None:
        return None
    cells = [None if one is None else percent(one.value, one, signed=True) for one in found]
    return {"name": f"{title(b)} \N{MINUS SIGN} {title(a)}", "seeds": found[0].count, "cells": cells}
