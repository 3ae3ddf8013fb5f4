"""Figures as inline SVG, drawn by matplotlib without pyplot's global state."""

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from foveal.evaluation.compare import COLD_START
from foveal.evaluation.stats import Estimate
from foveal.report.claims import title
from foveal.report.read import Curves

LABEL = 40
"""Characters of a name that a figure has room for."""

INK, FAINT, GRID, ALARM = "#1f2430", "#6b7280", "#e5e7eb", "#c0392b"

COLORS = {
    COLD_START: "#8a8f98",
    "run": "#3466b1",
    "grpo": "#3466b1",
    "papo": "#d9662b",
    "cppo": "#1f8f7a",
    "dapo": "#7a4fb0",
}
_SPARE = ("#b03a66", "#8a6d1f", "#2b7fa8", "#5b8f2b", "#a0522d", "#555a8f")

KIND_COLORS = {
    "correct": "#4aa97a",
    "follows the word": "#b03a66",
    "perception": "#dc5b57",
    "reasoning": "#e7a93c",
    "calculation": "#9273c4",
    "inconsistency": "#5f93d3",
    "format": "#9aa1ab",
}

_RC: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.edgecolor": GRID,
    "axes.labelcolor": FAINT,
    "axes.titlecolor": INK,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "legend.frameon": False,
    # Labels may come from files: no mathematics is read in them, and they are drawn as outlines, not as text.
    "text.parse_math": False,
    "text.usetex": False,
    "svg.fonttype": "path",
    "svg.hashsalt": "foveal",
}


def color(method: str, methods: Sequence[str] = ()) -> str:
    """The colour of a method, the same in every figure of a page."""
    if method in COLORS:
        return COLORS[method]
    unknown = [m for m in methods if m not in COLORS]
    return _SPARE[unknown.index(method) % len(_SPARE)] if method in unknown else _SPARE[0]


def label(text: str) -> str:
    """A name that is safe and short enough to stand in a figure."""
    kept = re.sub(r"[^\w .,:+=@/()\N{MINUS SIGN}-]", " ", text, flags=re.ASCII)
    return kept if len(kept) <= LABEL else kept[: LABEL - 1] + "."


@contextmanager
def style() -> Iterator[None]:
    """The house style, left behind on exit."""
    with matplotlib.rc_context(_RC):
        yield


def svg(figure: Figure, *, name: str) -> str:
    """The figure as an `<svg>` element that scales; `name` keeps its ids apart from other figures'."""
    buffer = io.StringIO()
    with style():
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'(xlink:href="#|url\(#)', rf"\g<1>{name}-", text)
    root, rest = text.split(">", 1)
    return re.sub(r' (?:width|height)="[^"]*"', "", root) + ">" + rest


def curve_figure(
    curves: Curves,
    metric: str,
    *,
    caption: str,
    percent: bool = False,
    colors: Mapping[str, str] | None = None,
    names: Mapping[str, str] | None = None,
    legend: bool = True,
    marks: Sequence[float] = (),
    each: bool = False,
) -> Figure | None:
    """Mean over seeds of a metric against the step, with a band from the lowest to the highest seed.

    `colors` and `names` by method go before those of the methods that the library knows; `marks` are steps
    with a line across. With `each` there is a line for each run instead, for outcomes of two kinds. Each run
    is smoothed by a running mean over about a twentieth of its steps. None where no run has the metric.
    """
    methods = list(curves)
    runs = {m: [_series(rows, metric) for rows in curves[m].values()] for m in methods}
    lines = {m: _band(own) for m, own in runs.items()}
    if all(line is None for line in lines.values()):
        return None
    with style():
        figure = Figure(figsize=(4.4, 2.7), layout="constrained")
        axes = figure.add_subplot()
        for method, line in lines.items():
            if line is None:
                continue
            steps, middle, low, high = line
            tint = (colors or {}).get(method) or color(method, methods)
            name = (names or {}).get(method) or title(method)
            if each:
                for place, (own_steps, values) in enumerate(one for one in runs[method] if len(one[0])):
                    shown = label(name) if place == 0 else "_"
                    axes.plot(own_steps, values, color=tint, linewidth=1.3, alpha=0.85, label=shown)
                continue
            axes.fill_between(steps, low, high, color=tint, alpha=0.16, linewidth=0)
            axes.plot(steps, middle, color=tint, linewidth=1.7, label=label(name))
        for step in marks:
            axes.axvline(step, color=ALARM, linewidth=1.1, linestyle="--")
        axes.set_title(caption)
        axes.set_xlabel("step")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.margins(x=0.01)
        if percent:
            axes.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
            axes.set_ylim(bottom=max(0.0, axes.get_ylim()[0]))
        if legend and len([line for line in lines.values() if line is not None]) > 1:
            axes.legend(fontsize=8, handlelength=1.4)
    return figure


def difference_figure(
    rows: Sequence[tuple[str, Sequence[Estimate], Estimate | None]], *, caption: str
) -> Figure:
    """Paired differences in points, one line a pair: a dot a seed, the bar over seeds and problems."""
    with style():
        figure = Figure(figsize=(6.4, 0.75 + 0.46 * len(rows)), layout="constrained")
        axes = figure.add_subplot()
        axes.axvline(0, color=FAINT, linewidth=1)
        for place, (_, seeds, both) in enumerate(rows):
            if both is not None and np.isfinite([both.low, both.high]).all():
                axes.plot(
                    [100 * both.low, 100 * both.high], [place, place], color=INK, linewidth=2.4, alpha=0.8
                )
                axes.plot(100 * both.value, place, "o", color=INK, markersize=6)
            for one in seeds:
                offset = 0.26
                axes.plot(100 * one.value, place + offset, "o", color=FAINT, markersize=3.4, alpha=0.8)
                axes.plot(
                    [100 * one.low, 100 * one.high],
                    [place + offset] * 2,
                    color=FAINT,
                    linewidth=0.8,
                    alpha=0.35,
                )
        axes.set_yticks(range(len(rows)), [label(name) for name, _, _ in rows], color=INK)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("difference, points")
        axes.set_title(caption)
    return figure


def accuracy_axes(
    axes: Axes, values: Mapping[str, Sequence[float]], intervals: Mapping[str, Estimate | None]
) -> None:
    """Accuracy by method on `axes`: a dot a seed, the bar the interval, the cold start as a line across."""
    methods = list(values)
    if values.get(COLD_START):
        axes.axhline(
            100 * values[COLD_START][0], color=COLORS[COLD_START], linewidth=1, linestyle="--", zorder=1
        )
    for place, method in enumerate(methods):
        tint, interval = color(method, methods), intervals.get(method)
        mean = float(np.mean(values[method]))
        axes.bar(place, 100 * mean, width=0.58, color=tint, alpha=0.22, zorder=2)
        if interval is not None and np.isfinite([interval.low, interval.high]).all():
            axes.plot(
                [place, place], [100 * interval.low, 100 * interval.high], color=tint, linewidth=2.4, zorder=3
            )
        spread = np.linspace(-0.12, 0.12, len(values[method])) if len(values[method]) > 1 else [0.0]
        axes.plot(
            place + np.asarray(spread),
            100 * np.asarray(values[method]),
            "o",
            color=tint,
            markersize=4.5,
            zorder=4,
        )
        top = max(100 * max(values[method]), 100 * interval.high if interval is not None else 0.0)
        axes.annotate(
            f"{100 * mean:.1f}",
            (place, top),
            xytext=(0, 5),
            textcoords="offset points",
            ha="center",
            color=INK,
        )
    axes.set_xticks(range(len(methods)), [label(title(m)) for m in methods], color=INK)
    axes.grid(axis="x", visible=False)
    axes.margins(y=0.14)
    axes.set_ylim(bottom=0)


def _series(rows: Sequence[Mapping[str, float]], metric: str) -> tuple[np.ndarray, np.ndarray]:
    kept = [(row["step"], row[metric]) for row in rows if "step" in row and metric in row]
    steps, values = np.array([k[0] for k in kept]), np.array([k[1] for k in kept])
    width = max(1, len(values) // 20)
    if width > 1:
        ones = np.ones(len(values))
        kernel = np.ones(width)
        values = np.convolve(values, kernel, "same") / np.convolve(ones, kernel, "same")
    return steps, values


def _band(
    runs: Sequence[tuple[np.ndarray, np.ndarray]],
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray] | None:
    """Steps that every run has, with the mean, lowest and highest value there."""
    runs = [run for run in runs if len(run[0])]
    if not runs:
        return None
    shared = sorted(set.intersection(*[set(steps.tolist()) for steps, _ in runs]))
    if not shared:
        return None
    tables = [dict(zip(steps.tolist(), values.tolist(), strict=True)) for steps, values in runs]
    table = np.array([[one[step] for step in shared] for one in tables])
    return np.array(shared), table.mean(axis=0), table.min(axis=0), table.max(axis=0)
