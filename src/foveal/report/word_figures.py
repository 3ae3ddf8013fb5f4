"""Figures of the shortcut study: a dot per run, because outcomes are of two kinds and a mean hides them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from foveal.evaluation.compare import COLD_START
from foveal.report import figures
from foveal.report.claims import title
from foveal.report.figures import ALARM, FAINT, INK

PANELS = {
    "accuracy_wrong": "the word is wrong",
    "accuracy_random": "the word is random",
    "accuracy_right": "the word is right",
}

SPREAD = 0.28
"""Width, of a method's place, over which its runs lie side by side."""


def words_figure(rows: Sequence[Mapping[str, Any]], *, methods: Sequence[str], below: float) -> Figure:
    """Held-out accuracy by what the word says; the start as a line across, and where a run fell shaded."""
    trained = [m for m in methods if m != COLD_START]
    start = next((row for row in rows if row["method"] == COLD_START), None)
    with figures.style():
        figure = Figure(figsize=(9.2, 3.1), layout="constrained")
        panels = figure.subplots(1, len(PANELS), sharey=True)
        for axes, (measure, caption) in zip(panels, PANELS.items(), strict=True):
            for place, method in enumerate(trained):
                own = [100 * row[measure] for row in rows if row["method"] == method]
                dots(axes, place, own, tint=figures.color(method, methods))
            if start is not None:
                axes.axhline(100 * start[measure], color=FAINT, linewidth=1, linestyle="--", zorder=1)
            axes.set_xticks(range(len(trained)), [figures.label(title(m)) for m in trained], color=INK)
            axes.set_xlim(-0.6, len(trained) - 0.4)
            axes.grid(axis="x", visible=False)
            axes.set_title(caption)
        panels[0].axhspan(0, 100 * below, color=ALARM, alpha=0.05, linewidth=0)
        panels[0].set_ylim(0, 103)
        panels[0].set_ylabel("right, %")
        if start is not None:
            panels[-1].annotate(
                "before training",
                (1, 100 * start["accuracy_right"]),
                xycoords=("axes fraction", "data"),
                xytext=(-2, -4),
                textcoords="offset points",
                ha="right",
                va="top",
                fontsize=8,
                color=FAINT,
            )
    return figure


def dots(axes: Axes, place: float, values: Sequence[float], *, tint: str, size: float = 6.5) -> None:
    """The runs of one method side by side, lowest to highest."""
    across = np.linspace(-SPREAD, SPREAD, len(values)) if len(values) > 1 else np.zeros(1)
    axes.plot(
        place + across,
        sorted(values),
        "o",
        color=tint,
        markersize=size,
        alpha=0.85,
        markeredgecolor="white",
        markeredgewidth=0.6,
        zorder=3,
        clip_on=False,
    )


def falls_axes(axes: Axes, arms: Sequence[Mapping[str, Any]], *, start: float, below: float) -> None:
    """Accuracy with the word wrong, a dot per run; what fell is counted on the left of each line.

    `arms`: {"label", "color", "values", "fell", "runs"}, shares from 0 to 1; one line per arm, downwards.
    """
    axes.axvspan(0, 100 * below, color=ALARM, alpha=0.05, linewidth=0)
    axes.axvline(100 * start, color=FAINT, linewidth=1, linestyle="--", zorder=1)
    for place, arm in enumerate(arms):
        values = [100 * value for value in arm["values"]]
        across = np.linspace(-0.2, 0.2, len(values)) if len(values) > 1 else np.zeros(1)
        axes.plot(
            sorted(values),
            place + across,
            "o",
            color=arm["color"],
            markersize=5.5,
            alpha=0.85,
            markeredgecolor="white",
            markeredgewidth=0.6,
            zorder=3,
            clip_on=False,
        )
        axes.text(
            103, place, f"{arm['fell']} of {arm['runs']}", va="center", ha="left", fontsize=9, color=INK,
            weight="bold" if arm["fell"] else "normal",
        )  # fmt: skip
    head: dict[str, Any] = {"va": "bottom", "fontsize": 8.5, "color": FAINT}
    axes.text(103, -0.68, "fell", ha="left", **head)
    axes.text(100 * start, -0.68, "before training", ha="center", **head)
    axes.set_yticks(range(len(arms)), [arm["label"] for arm in arms], color=INK)
    axes.set_ylim(len(arms) - 0.35, -0.6)
    axes.set_xlim(0, 100)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("right on held-out problems whose word is wrong, %", fontsize=8.5)
