"""Figures of a sweep: a metric over the swept value, a dot a seed, the mean with its interval over seeds."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from foveal.evaluation import stats
from foveal.report.axes import Axis, Place
from foveal.report.figures import FAINT, INK, label, style

SIZE = (4.4, 2.9)
CHARACTER = 0.024
"""Width of a tick's character with its share of space, as a share of the axis; labels that would touch are
set at an angle."""
SPREAD = 0.018
"""Half the distance over which the seeds of one arm lie beside each other, as a share of the axis."""
LEAST_SPAN = 0.1
"""A share's axis shows at least so much: a difference of a point should look like one."""
ROOM = 0.6
"""How far above and below all values an axis reaches, as a share of their range; longer bars are cut."""
DODGE = 0.05
"""Distance between lines at one place of the axis, as a share of its width."""
RAMP = "viridis"
RAMP_END = 0.85
"""The lightest colours of the ramp cannot be told from the page."""
LINE_COLORS = ("#3466b1", "#d9662b", "#1f8f7a", "#7a4fb0", "#b03a66", "#8a6d1f")

Values = Mapping[str, Sequence[float]]
"""Arm -> its value for each seed."""


def arm_colors(axis: Axis) -> dict[str, str]:
    """Arm -> colour: along a ramp where the arms are numbers on one line, else each its own."""
    if axis.numeric and len(axis.lines) == 1:
        ordered = [place.arm for place in next(iter(axis.lines.values()))]
        ramp = matplotlib.colormaps[RAMP]
        shades = np.linspace(0, RAMP_END, len(ordered))
        tints = [matplotlib.colors.to_hex(ramp(shade)) for shade in shades]
        return dict(zip(ordered, tints, strict=True))
    return {place.arm: LINE_COLORS[number % len(LINE_COLORS)] for number, place in enumerate(axis.places)}


def sweep_figure(
    values: Values, axis: Axis, *, caption: str, percent: bool, start: float | None = None
) -> Figure | None:
    """A metric over the axis: faint dots are seeds, the line joins means, bars are t-intervals over seeds.

    `start`: its value before training, a dashed line. None where no arm has the metric.
    """
    if not any(values.get(place.arm) for place in axis.places):
        return None
    with style():
        figure = Figure(figsize=SIZE, layout="constrained")
        axes = figure.add_subplot()
        if start is not None:
            axes.axhline(start, color=FAINT, linewidth=1, linestyle="--", zorder=1, label="before training")
        width = _width(axis)
        lines = axis.lines
        for number, (name, places) in enumerate(lines.items()):
            shift = (number - (len(lines) - 1) / 2) * DODGE * width
            tint = LINE_COLORS[number % len(LINE_COLORS)]
            _line(
                axes,
                places,
                values,
                tint=tint,
                shift=shift,
                name=name,
                spread=SPREAD * width,
                joined=axis.numeric,
            )
        _dress(axes, axis, width=width)
        axes.set_title(caption)
        known = [value for place in axis.places for value in values.get(place.arm, ())]
        axes.set_ylim(cut(axes.get_ylim(), known if start is None else [*known, start]))
        if percent:
            _share_axis(axes)
        elif min(known) >= 0:
            axes.set_ylim(bottom=max(0.0, axes.get_ylim()[0]))
        if start is not None or len(lines) > 1:
            axes.legend(fontsize=8, handlelength=1.6)
    return figure


def _line(
    axes: Axes,
    places: Sequence[Place],
    values: Values,
    *,
    tint: str,
    shift: float,
    name: str,
    spread: float,
    joined: bool,
) -> None:
    """One line of arms."""
    shown = [place for place in places if values.get(place.arm)]
    means = []
    for place in shown:
        x, found = place.x + shift, values[place.arm]
        mean = stats.over_seeds(found)
        means.append(mean.value)
        beside = x + (np.linspace(-spread, spread, len(found)) if len(found) > 1 else np.zeros(1))
        axes.plot(beside, list(found), "o", color=tint, markersize=4, alpha=0.45, markeredgewidth=0)
        if np.isfinite([mean.low, mean.high]).all():
            axes.plot([x, x], [mean.low, mean.high], color=tint, linewidth=2, solid_capstyle="butt", zorder=3)
    axes.plot(
        [place.x + shift for place in shown],
        means,
        "-o" if joined else "o",
        color=tint,
        linewidth=1.4,
        markersize=6,
        markeredgecolor="white",
        markeredgewidth=0.8,
        zorder=4,
        label=label(name) if name else None,
    )


def _dress(axes: Axes, axis: Axis, *, width: float) -> None:
    """Ticks, label and limits of the horizontal axis."""
    texts = [label(text) for _, text in axis.ticks]
    gaps = [(b[0] - a[0]) / width for a, b in pairwise(axis.ticks)]
    slanted = any(CHARACTER * max(map(len, texts)) > gap for gap in gaps)
    axes.set_xticks([x for x, _ in axis.ticks], texts, color=INK)
    if slanted:
        for text in axes.get_xticklabels():
            text.set(rotation=30, ha="right", rotation_mode="anchor")
    axes.set_xlabel(label(axis.label))
    axes.grid(axis="x", visible=False)
    places = [x for x, _ in axis.ticks]
    axes.set_xlim(min(places) - 0.08 * width, max(places) + 0.08 * width)
    axes.margins(y=0.12)
    if axis.broken_at is not None:
        axes.text(
            axis.broken_at,
            0,
            "//",
            transform=axes.get_xaxis_transform(),
            ha="center",
            va="center",
            color=FAINT,
        )


def _width(axis: Axis) -> float:
    places = [x for x, _ in axis.ticks]
    return max(places) - min(places) or 1.0


def cut(limits: tuple[float, float], values: Sequence[float]) -> tuple[float, float]:
    """Limits of an axis that leave some room around the values, no more.

    Intervals of two seeds are many times wider than the differences between arms: those end at the border, or
    nothing else could be seen.
    """
    room = ROOM * (max(values) - min(values))
    return (max(limits[0], min(values) - room), min(limits[1], max(values) + room)) if room > 0 else limits


def _share_axis(axes: Axes) -> None:
    """Per cent, within 0 and 100, and wide enough."""
    low, high = axes.get_ylim()
    missing = max(0.0, LEAST_SPAN - (high - low)) / 2
    low, high = low - missing, high + missing
    axes.set_ylim(max(low, -0.02), min(high, 1.02))
    axes.set_yticks([tick for tick in axes.get_yticks() if max(low, 0) <= tick <= min(high, 1)])
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %", decimals=0))
