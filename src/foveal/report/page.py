"""`report.html` of a results folder: one file that loads nothing, made from JSON and pictures alone."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from markupsafe import Markup

from foveal.diagnosis.errors import ordered
from foveal.evaluation.compare import COLD_START
from foveal.evaluation.records import Evaluation
from foveal.evaluation.stats import Estimate
from foveal.report import claims, figures
from foveal.report.read import (
    GalleryItem,
    PicturePair,
    Results,
    Row,
    Said,
    data_uri,
    listed,
    mapping,
    number,
    read_results,
)
from foveal.report.render import Cell, inline, percent, plain, render, write
from foveal.report.shortcut import read_shortcut, shortcut_values

CURVES = (
    ("reward/mean", "Reward", False),
    ("reward/accuracy", "Accuracy on training problems", True),
    ("kl_prcp/mean", "kl_prcp, mean, nats", False),
    ("policy/entropy", "Entropy of the policy, nats", False),
    ("completion/length_mean", "Length of completions, tokens", False),
    ("reward/zero_advantage_fraction", "Groups that teach nothing (all rewards equal)", True),
)
"""Metrics drawn, with their captions; True for shares."""

DARKEST = 0.85
"""Opacity of the strongest tint: the text stays readable on it."""

SMALLEST_LABEL = 5.0
"""Per cent of a bar below which its number would not fit inside; the table below the bar has it."""

_SHARES = ("accuracy", "accuracy_other_picture", "perception_error_fraction", "format")


def write_report(folder: Path, *, out: Path | None = None) -> Path:
    """Write the page of a results folder to `out` (default `folder/report.html`); returns its path.

    Reads `summary.json`, `evaluations/`, `comparisons.json`, `curves.json`, `gallery.json` and
    `report_notes.json`; what is missing is left out and named on the page. A `summary.json` of the shortcut
    study (see `foveal.report.shortcut`) has a page of its own.
    Raises: FovealError, where there is nothing to show or a file is broken.
    """
    results, words = read_results(folder), read_shortcut(folder)
    if words:
        page = render("shortcut.html.j2", **shortcut_values(words, results), **_shared(results, each=True))
    else:
        page = render("report.html.j2", **_values(results))
    return write(out if out is not None else folder / "report.html", page)


def _values(results: Results) -> dict[str, Any]:
    pairs = [mapping(pair) for pair in listed(results.comparisons.get("pairs"))]
    kinds = _kinds(results)
    legend = ordered({kind for share in kinds.values() for kind in share})
    values: dict[str, Any] = {
        "about": results.notes.get("config", ""),
        "headline": claims.headline(results.comparisons),
        "looks": claims.looks(results.comparisons),
        "table": _table(results),
        "table_caption": _table_caption(results),
        "differences": [_difference(pair) for pair in pairs],
        "differences_figure": _difference_figure(pairs),
        "kinds": [(claims.title(method), _bar(share)) for method, share in kinds.items()],
        "kind_legend": [(kind, figures.KIND_COLORS.get(kind, figures.FAINT)) for kind in legend],
        "kind_table": [
            (claims.title(method), [f"{100 * share.get(kind, 0.0):.1f}" for kind in legend])
            for method, share in kinds.items()
        ],
        "flows": [flow for pair in pairs if pair.get("a") == COLD_START and (flow := _flow(pair))],
        "groups": [part for part in (_groups(results, "family"), _groups(results, "grade")) if part],
        "notes": results.notes,
        **_shared(results),
    }
    sections = ("differences", "curves", "gallery", "kinds", "groups")
    names = {"curves": "Training", "kinds": "Errors", "groups": "By family"}
    shown = [(names.get(s, s.capitalize()), "errors" if s == "kinds" else s) for s in sections if values[s]]
    return {**values, "contents": [("Results", "results"), *shown, ("Reproduce", "reproduce")]}


def _shared(results: Results, *, each: bool = False) -> dict[str, Any]:
    """What the pages of both studies have: curves (a line for `each` run, or means) and examples."""
    scale = _scale(results.gallery)
    drawn = [
        inline(
            figures.curve_figure(results.curves, metric, caption=caption, percent=share, each=each),
            name=f"curve{i}",
        )
        for i, (metric, caption, share) in enumerate(CURVES)
    ]
    curves = [figure for figure in drawn if figure is not None]
    shown = [("Training", "curves")] if curves else []
    shown += [("Examples", "gallery")] if results.gallery else []
    return {
        "missing": results.missing,
        "curves": curves,
        "gallery": [_item(item, scale) for item in results.gallery],
        "scale": {name: f"{cap:.1f}" for name, cap in scale.items()},
        "contents": [("Results", "results"), *shown, ("Reproduce", "reproduce")],
    }


def _table(results: Results) -> list[dict[str, Any]]:
    """One row a method (means over seeds), followed by one a seed where there are several."""
    found = []
    measured = {mapping(m).get("method"): mapping(m) for m in listed(results.comparisons.get("methods"))}
    for method in [m for m in results.methods if any(row.method == m for row in results.rows)]:
        own = [row for row in results.rows if row.method == method]
        known = measured.get(method, {})
        found.append(
            {
                "name": claims.title(method),
                "seed_row": False,
                "color": figures.color(method, results.methods),
                **{name: percent(_mean(own, name), _interval(mapping(known.get(name)))) for name in _SHARES},
                **_plain_cells(own),
            }
        )
        if len(own) > 1:
            for row in own:
                shares = {name: percent(_mean([row], name)) for name in _SHARES}
                name = f"seed {row.seed}"
                found.append({"name": name, "seed_row": True, "color": "", **shares, **_plain_cells([row])})
    return found


def _plain_cells(rows: Sequence[Row]) -> dict[str, Cell | None]:
    digits = {"kl_prcp_median": 3, "cpu_seconds": 0, "steps": 0, "problems": 0}
    return {name: plain(_mean(rows, name), digits=places) for name, places in digits.items()}


def _mean(rows: Sequence[Row], name: str) -> float | None:
    values = [value for row in rows if (value := getattr(row, name)) is not None]
    return fmean(values) if values else None


def _interval(quantity: Mapping[str, Any]) -> Estimate | None:
    """Over seeds and problems where there are several seeds, else over problems."""
    seeds = listed(quantity.get("per_seed"))
    return claims.estimate(quantity.get("two_level") if len(seeds) > 1 else seeds[0] if seeds else None)


def _table_caption(results: Results) -> str:
    if not results.comparisons:
        return "Means over seeds; without the evaluations there are no intervals."
    return (
        "Greedy on held-out problems, means over seeds. Small print: 95 % intervals over problems and seeds, "
        "or over problems where there is one run."
    )


def _difference(pair: Mapping[str, Any]) -> dict[str, Any]:
    accuracy = mapping(pair.get("accuracy"))
    over = claims.estimate(accuracy.get("over_seeds"))

    def shown(name: str) -> Cell | None:
        quantity = mapping(pair.get(name))
        mean, interval = claims.estimate(quantity.get("over_seeds")), _interval(quantity)
        return None if mean is None else percent(mean.value, interval, signed=True)

    return {
        "name": _pair_name(pair),
        "seeds": len(listed(pair.get("seeds"))),
        "accuracy": shown("accuracy"),
        "over_seeds": None if over is None or over.count < 2 else percent(over.value, over, signed=True),
        "perception_error_fraction": shown("perception_error_fraction"),
        "accuracy_other_picture": shown("accuracy_other_picture"),
    }


def _difference_figure(pairs: Sequence[Mapping[str, Any]]) -> Markup | None:
    rows = []
    for pair in pairs:
        accuracy = mapping(pair.get("accuracy"))
        seeds = [one for one in map(claims.estimate, listed(accuracy.get("per_seed"))) if one is not None]
        rows.append((_pair_name(pair), seeds, claims.estimate(accuracy.get("two_level"))))
    figure = figures.difference_figure(rows, caption="Accuracy, points") if rows else None
    return inline(figure, name="differences")


def _pair_name(pair: Mapping[str, Any]) -> str:
    return f"{claims.title(str(pair.get('b')))} \N{MINUS SIGN} {claims.title(str(pair.get('a')))}"


def _scale(gallery: Sequence[GalleryItem]) -> dict[str, float]:
    """Nats at which the tint is strongest: the 97th percentile of the page, at least 0.5."""
    said = [one for item in gallery for one in (item.before, *item.after.values()) if one is not None]
    heat = sorted(abs(token.kl_prcp) for one in said for token in one.tokens)
    shift = sorted(abs(token.entropy_shift) for one in said for token in one.tokens)
    caps = {"kl": heat, "shift": shift}
    return {
        name: max(0.5, values[int(0.97 * (len(values) - 1))]) if values else 0.5
        for name, values in caps.items()
    }


def _item(item: GalleryItem, scale: Mapping[str, float]) -> dict[str, Any]:
    return {
        "problem_id": item.problem_id,
        "question": item.question,
        "answer": item.answer,
        "word": item.word,
        "pictures": [_sources(pair) for pair in item.pictures],
        "before": None if item.before is None else _speech(item.before, scale),
        "after": [(claims.title(method), _speech(said, scale)) for method, said in item.after.items()],
    }


def _sources(pair: PicturePair) -> list[tuple[str, str | None]]:
    return [("clean", data_uri(pair.clean)), ("removed", data_uri(pair.removed))]


def _speech(said: Said, scale: Mapping[str, float]) -> dict[str, Any]:
    tokens = [
        {
            "space": token.text[: len(token.text) - len(token.text.lstrip())],
            "text": token.text.lstrip(),
            "k": f"{DARKEST * min(1.0, max(0.0, token.kl_prcp) / scale['kl']):.3f}",
            "e": f"{DARKEST * min(1.0, abs(token.entropy_shift) / scale['shift']):.3f}",
            "negative": token.entropy_shift < 0,
            "kl_prcp": f"{token.kl_prcp:.3f}",
            "entropy_shift": f"{token.entropy_shift:+.3f}",
        }
        for token in said.tokens
    ]
    tint = figures.KIND_COLORS.get(said.kind, figures.FAINT)
    return {"text": said.text, "kind": said.kind, "color": tint, "tokens": tokens}


def _runs(results: Results) -> dict[str, list[Evaluation]]:
    found: dict[str, list[Evaluation]] = {}
    for method in results.methods:
        own = [one for one in results.evaluations if one.method == method]
        if own:
            found[method] = own
    return found


def _kinds(results: Results) -> dict[str, dict[str, float]]:
    """Shares of each kind by method, mean over seeds."""
    found = {}
    for method, runs in _runs(results).items():
        tables = [one.summary["kinds"] for one in runs]
        if all(tables):
            known = ordered({kind for table in tables for kind in table})
            found[method] = {kind: fmean(table.get(kind, 0.0) for table in tables) for kind in known}
    return found


def _bar(shares: Mapping[str, float]) -> list[dict[str, Any]]:
    return [
        {
            "kind": kind,
            "width": f"{100 * share:.3f}",
            "text": f"{100 * share:.1f}",
            "wide": 100 * share >= SMALLEST_LABEL,
            "color": figures.KIND_COLORS.get(kind, figures.FAINT),
        }
        for kind, share in shares.items()
        if share > 0
    ]


def _flow(pair: Mapping[str, Any]) -> dict[str, Any] | None:
    flows = {str(a): mapping(row) for a, row in mapping(pair.get("flows")).items()}
    columns = ordered({str(b) for row in flows.values() for b in row})
    if not columns:
        return None
    seeds = len(listed(pair.get("seeds")))
    rows = [(a, [int(number(flows[a].get(b)) or 0) for b in columns]) for a in ordered(flows)]
    counted = f"{seeds} seeds" if seeds > 1 else "one run"
    return {"name": claims.title(str(pair.get("b"))), "seeds": counted, "columns": columns, "rows": rows}


def _groups(results: Results, part: str) -> dict[str, Any] | None:
    """Accuracy by family or grade, mean over seeds, with that over another picture below it."""
    runs = _runs(results)
    summaries = {method: [one.summary[f"by_{part}"] for one in own] for method, own in runs.items()}
    names = list(dict.fromkeys(name for tables in summaries.values() for table in tables for name in table))
    if not names:
        return None
    grades = [name for name in ("low", "medium", "high") if name in names]
    rows = []
    for name in [*grades, *[name for name in names if name not in grades]]:
        own = {
            method: [table[name] for table in tables if name in table] for method, tables in summaries.items()
        }
        problems = max(row["problems"] for tables in own.values() for row in tables)
        rows.append(
            {"name": name, "problems": problems, "cells": [_group_cell(tables) for tables in own.values()]}
        )
    return {"name": part, "methods": [claims.title(method) for method in runs], "rows": rows}


def _group_cell(tables: Sequence[Mapping[str, Any]]) -> Cell | None:
    right = [value for table in tables if (value := mapping(table["accuracy"]).get("value")) is not None]
    other = [
        value for t in tables if (value := mapping(t["accuracy_other_picture"]).get("value")) is not None
    ]
    if not right:
        return None
    return Cell(text=f"{100 * fmean(right):.1f}", range=f"{100 * fmean(other):.1f}" if other else "")
