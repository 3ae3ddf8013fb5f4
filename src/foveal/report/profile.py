"""Where a step's time goes, as a picture: phases by part of the model, and operators by their own time."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from foveal.ranges import HEAD, TEXT, VISION
from foveal.report import figures
from foveal.report.read import listed, mapping, number, read_json

PROFILE = "profile.json"
OPERATORS = 12
PARTS = {VISION: "#d9662b", TEXT: "#3466b1", HEAD: "#1f8f7a"}
ELSE = "#b6bcc6"
DPI = 160
SHORT, LONG = 1.45, 1.95
"""Width of a figure over its longest bar: words stand behind the bars."""


def read_profile(run_folder: Path) -> Mapping[str, Any] | None:
    """The profile of a run folder; None where there is none that can be drawn."""
    found = mapping(read_json(run_folder / PROFILE))
    whole = number(found.get("seconds_per_step")) and _rows(found, "phases", "phase", "seconds")
    return found if whole else None


def write_picture(profile: Mapping[str, Any], file: Path) -> Path:
    """Write the figure as a PNG, whole or not at all; returns its path."""
    part = file.with_name(f".{file.name}.partial")
    with figures.style():
        profile_figure(profile).savefig(part, format="png", dpi=DPI)
    return part.replace(file)


def profile_figure(profile: Mapping[str, Any]) -> Figure:
    """Bars of the phases, in the order of the step and split by part of the model; below, operators."""
    phases = _rows(profile, "phases", "phase", "seconds")
    operators = _rows(profile, "operators", "operator", "self_seconds")[:OPERATORS]
    sizes = [len(phases) + 2, len(operators) + 2][: 2 if operators else 1]
    with figures.style():
        figure = Figure(figsize=(8.6, 0.27 * sum(sizes) + 0.5), layout="constrained")
        axes = figure.subplots(len(sizes), 1, height_ratios=sizes, squeeze=False)[:, 0]
        _phases(axes[0], profile, phases)
        if operators:
            _operators(axes[1], operators)
    return figure


def in_words(profile: Mapping[str, Any]) -> str:
    """What was measured, and the slowest phase."""
    phases = _rows(profile, "phases", "phase", "seconds")
    slowest = max(phases, key=lambda row: number(row["seconds"]) or 0.0)
    step = number(profile["seconds_per_step"]) or 0.0
    return (
        f"A step takes {_time(step)} ({profile.get('device')}, threads: {profile.get('threads')}), "
        f"{_share(slowest)} of it in {slowest['phase']}; timed steps: {profile.get('steps')}, from step "
        f"{profile.get('first_step')} on."
    )


def _phases(axes: Axes, profile: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> None:
    for part, tint in (*PARTS.items(), ("else", ELSE)):
        lefts, widths = [], []
        for row in rows:
            split = [number(mapping(row.get("parts")).get(name)) or 0.0 for name in PARTS]
            place = list(PARTS).index(part) if part in PARTS else len(PARTS)
            rest = max(0.0, (number(row["seconds"]) or 0.0) - sum(split))
            lefts.append(sum(split[:place]))
            widths.append((*split, rest)[place])
        axes.barh(range(len(rows)), widths, left=lefts, color=tint, height=0.68, label=part)
    values = [number(row["seconds"]) or 0.0 for row in rows]
    texts = [f"{_time(value)} · {_share(row)}" for row, value in zip(rows, values, strict=True)]
    _finish(axes, [figures.label(str(row["phase"])) for row in rows], texts, values, room=SHORT)
    step = _time(number(profile["seconds_per_step"]) or 0.0)
    axes.set_title(f"Where a step's {step} go, by phase")
    axes.legend(fontsize=8, loc="lower right", handlelength=1.0)


def _operators(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    values = [number(row["self_seconds"]) or 0.0 for row in rows]
    axes.barh(range(len(rows)), values, color=figures.FAINT, height=0.68)
    texts = [
        f"{_time(value)} · {number(row.get('calls')) or 0:.0f} calls · "
        f"mostly {figures.label(str(row.get('mostly_in')))}"
        for row, value in zip(rows, values, strict=True)
    ]
    _finish(axes, [_short(str(row["operator"])) for row in rows], texts, values, room=LONG)
    axes.set_title("Operators by their own time, in one traced step")


def _finish(
    axes: Axes, names: Sequence[str], texts: Sequence[str], values: Sequence[float], *, room: float
) -> None:
    for place, (text, value) in enumerate(zip(texts, values, strict=True)):
        axes.annotate(
            text,
            (value, place),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            color=figures.INK,
        )
    axes.set_yticks(range(len(names)), names, color=figures.INK)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlim(0, room * max(values) or 1.0)
    axes.set_xlabel("seconds")
    axes.grid(axis="y", visible=False)


def _rows(profile: Mapping[str, Any], key: str, name: str, value: str) -> list[Mapping[str, Any]]:
    rows = [mapping(row) for row in listed(profile.get(key))]
    return [row for row in rows if row.get(name) and number(row.get(value)) is not None]


def _short(operator: str) -> str:
    """An operator without its library; a long name keeps its end, which tells forward from backward."""
    name = operator.removeprefix("aten::")
    cut = name if len(name) <= figures.LABEL else f"{name[:24]}..{name[-14:]}"
    return figures.label(cut)


def _time(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"


def _share(row: Mapping[str, Any]) -> str:
    return f"{100 * (number(row.get('share')) or 0.0):.1f} %"
