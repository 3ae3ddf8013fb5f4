"""The page of the shortcut study: who answers by a word of the question, and who looks.

Reads `summary.json` of schema version 2, `{"schema_version": 2, "rows": [{"method", "seed",
"accuracy_wrong", "accuracy_random", "accuracy_right", "follow", "describes", "accuracy_other_picture",
"perception_error_fraction", "cpu_seconds", "steps", "problems"}]}`: the same held-out problems with the word
always wrong, drawn at random and always right. `follow` is the share of answers that a wrong word stands for,
`describes` the share of completions that name something in the picture, both with the wrong word; accuracy
with another problem's picture and perception errors are measured with the random one.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from foveal.evaluation import stats
from foveal.evaluation.compare import COLD_START
from foveal.report import figures, word_figures
from foveal.report.claims import title
from foveal.report.read import Results, listed, mapping, number, read_json
from foveal.report.render import Cell, inline, minus, percent, plain
from foveal.spec import FovealError

SCHEMA_VERSION = 2

MEASURES = (
    "accuracy_wrong",
    "accuracy_random",
    "accuracy_right",
    "follow",
    "describes",
    "accuracy_other_picture",
    "perception_error_fraction",
)
NEEDED = MEASURES[:5]
"""Without these a row is refused; a world without other pictures or scenes has no others."""

FELL_BELOW = 0.5
"""Accuracy with the word wrong below which a run fell: outcomes are far to either side of it."""

FEW_RUNS = 5
"""Below this the counts of a method are examples: no exact interval is narrower than a half."""

NBSP = "\N{NO-BREAK SPACE}"

Rows = list[dict[str, Any]]


def read_shortcut(folder: Path) -> Rows:
    """The rows of a shortcut study's `summary.json`, the cold start first; empty for any other folder.

    Raises: FovealError, for a row without one of the needed measures.
    """
    path = folder / "summary.json"
    data = mapping(read_json(path))
    if data.get("schema_version") != SCHEMA_VERSION:
        return []
    rows: Rows = []
    for place, raw in enumerate(listed(data.get("rows"))):
        row = mapping(raw)
        measured = {name: number(row.get(name)) for name in (*MEASURES, "cpu_seconds", "steps", "problems")}
        absent = [name for name in NEEDED if measured[name] is None]
        if absent:
            raise FovealError(
                f"{path} row {place} has no number for {', '.join(absent)}; expected {', '.join(NEEDED)}"
            )
        rows.append({"method": str(row.get("method", "?")), "seed": row.get("seed"), **measured})
    return sorted(rows, key=lambda row: row["method"] != COLD_START)


def fell(row: Mapping[str, Any]) -> bool:
    """Whether a run answers by the word."""
    return bool(row["accuracy_wrong"] < FELL_BELOW)


def sentences(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the counts carry, and no more: outcomes are of two kinds, so a mean over seeds says little."""
    methods = [m for m in _methods(rows) if m != COLD_START]
    counts = {m: [fell(row) for row in rows if row["method"] == m] for m in methods}
    if not counts:
        return []
    parts = [f"{title(m)} in {sum(own)} of {len(own)} runs{_interval(own)}" for m, own in counts.items()]
    found = [f"Fell for the word: {', '.join(parts)}."]
    if min(map(len, counts.values())) < FEW_RUNS:
        found.append("These runs are examples: so few give no rate of a method.")
    trained = [row for row in rows if row["method"] != COLD_START]
    down, up = ([row["describes"] for row in trained if fell(row) is kind] for kind in (True, False))
    if down and up:
        found.append(
            f"The runs that fell describe the picture in {_per_cent(down)} of their completions, "
            f"the others in {_per_cent(up)}."
        )
    return found


def _interval(own: Sequence[bool]) -> str:
    if len(own) < FEW_RUNS:
        return ""
    share = stats.exact_share(sum(own), len(own))
    return f" ({100 * share.low:.0f} to {100 * share.high:.0f}{NBSP}%)"


def _per_cent(values: Sequence[float]) -> str:
    low, high = f"{100 * min(values):.0f}", f"{100 * max(values):.0f}"
    return f"{low}{NBSP}%" if low == high else f"{low} to {high}{NBSP}%"


def shortcut_values(rows: Rows, results: Results) -> dict[str, Any]:
    """What the template `shortcut.html.j2` shows of the rows."""
    methods = _methods(rows)
    start = next((row for row in rows if row["method"] == COLD_START), None)
    problems = rows[0]["problems"]
    return {
        "headline": sentences(rows),
        "start": None if start is None else f"{100 * start['accuracy_wrong']:.0f}",
        "problems": None if problems is None else f"{problems:.0f}",
        "figure": inline(word_figures.words_figure(rows, methods=methods, below=FELL_BELOW), name="words"),
        "table": [line for method in methods for line in _lines(rows, method, methods)],
        "measures": len(MEASURES),
        "notes": results.notes,
    }


def _methods(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(row["method"] for row in rows))


def _lines(rows: Rows, method: str, methods: Sequence[str]) -> list[dict[str, Any]]:
    """A method's line with its lowest and highest values, and one for each of its runs."""
    own = [row for row in rows if row["method"] == method]
    trained = method != COLD_START
    cpu = [row["cpu_seconds"] for row in own if row["cpu_seconds"] is not None]
    first = {
        "name": title(method),
        "seed_row": False,
        "color": figures.color(method, methods),
        "fell": f"{sum(map(fell, own))} of {len(own)}" if trained else "",
        "cells": [_span([row[name] for row in own]) for name in MEASURES],
        "cpu": plain(fmean(cpu)) if cpu and trained else None,
    }
    if len(own) == 1:
        return [first]
    return [first, *(_run_line(row) for row in own)]


def _run_line(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": f"seed {row['seed']}",
        "seed_row": True,
        "color": "",
        "fell": "fell" if fell(row) else "",
        "cells": [percent(row[name]) for name in MEASURES],
        "cpu": plain(row["cpu_seconds"]),
    }


def _span(values: Sequence[float | None]) -> Cell | None:
    """Lowest to highest."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    low, high = minus(f"{100 * min(known):.1f}"), minus(f"{100 * max(known):.1f}")
    return Cell(text=low if low == high else f"{low} \N{EN DASH} {high}")
