"""Draws the data flow of each method from the objective itself; an SVG a method.

python docs/figures/draw.py                 # docs/images/methods/*.svg
python docs/figures/draw.py --png FOLDER    # also as PNG, to look at
"""

import argparse
import json
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib
from flow import ADVANTAGES, OLD, REFERENCE, Flow, flow_of, scored
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle
from matplotlib.path import Path as Curve

from foveal.objectives.extension import build_objective
from foveal.types import CLEAN

DOCS = Path(__file__).resolve().parents[1]
PAGES = DOCS / "methods"
OUT = DOCS / "images" / "methods"

INK, FAINT = "#1f2430", "#5b6270"
STYLES = {
    "sample": ("#fdf3df", "#c9922e", "-"),
    "score": ("#f3f4f6", "#8a8f98", (0, (4, 2))),
    "update": ("#e3edfb", "#2563c9", "-"),
    "rule": ("#ffffff", "#8a8f98", "-"),
    "term": ("#ffffff", "#1f2430", "-"),
}
"""Fill, edge and line of a box: sampling, forward without gradient, with gradient, arithmetic, term."""
VIEW_COLORS = {"clean": "#2e9e6b", "removed": "#b23a48", "preserved": "#7a4fb0", "noised": "#c46a1c"}
SPARE_COLOR = "#5b6270"

AVERAGES = {
    "token_mean": "mean over tokens",
    "sequence_mean": "mean of token means",
    "sequence_sum": "mean of token sums",
}
"""What becomes of a term's tokens."""

WIDTH, LEFT, MIDDLE, RIGHT = 1000, 10, 315, 655
BOX = {"left": 255, "middle": 175, "right": 230}
CHANNEL = MIDDLE + BOX["middle"] + 8
"""Where arrows to the terms leave their row: no box lies between it and the terms."""
HEIGHT, LOW, GAP, HEAD = 54, 40, 14, 52
"""Heights of a box, of one in the middle, between boxes, and of the title."""


@dataclass(frozen=True, kw_only=True)
class Box:
    """A box of the figure at its place; y is its middle."""

    title: str
    note: str
    style: str
    x: float
    y: float
    width: float
    height: float = HEIGHT
    view: str = ""


def configured(page: Path) -> dict[str, Any]:
    """The objective's table of the page's first TOML block."""
    blocks = re.findall(r"```toml\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    return dict(tomllib.loads(blocks[0])["objective"])


def structure(flow: Flow) -> str:
    """The flow as one line of JSON, as it stands in the SVG."""
    return json.dumps(asdict(flow), sort_keys=True)


def rows_of(flow: Flow) -> list[tuple[str, Box]]:
    """The boxes on the left, by source name, from above: sampling, scoring, update."""
    found: list[tuple[str, str, str, str, str]] = []
    for view, share in flow.sampled.items():
        note = "sample G completions, l_old" if share == 1 else f"sample {share:.0%} of G completions"
        found.append((f"sample:{view}", f"{view} pictures", note, "sample", view))
    if flow.reference:
        note = "reference policy, no gradient"
        found.append((REFERENCE, "clean pictures", note, "score", CLEAN))
    if sampled_elsewhere(flow) and CLEAN not in flow.scored:
        note = f"score l_old of the {sampled_elsewhere(flow)[0]} ones"
        found.append((scored(CLEAN), "clean pictures", note, "score", CLEAN))
    for view in flow.scored:
        note = "score once a step, no gradient"
        found.append((scored(view), f"{view} pictures", note, "score", view))
    for view in flow.updated:
        found.append(
            (f"update:{view}", f"{view} pictures", "run in the update, with gradient", "update", view)
        )
    return [
        (name, Box(title=title, note=note, style=style, view=view, x=LEFT, y=place(n), width=BOX["left"]))
        for n, (name, title, note, style, view) in enumerate(found)
    ]


def sampled_elsewhere(flow: Flow) -> tuple[str, ...]:
    """Views other than the clean one that completions are sampled under: their l_old must be scored."""
    return tuple(view for view in flow.sampled if view != CLEAN)


def place(row: float) -> float:
    """Height of a row's middle, from above."""
    return HEAD + HEIGHT / 2 + row * (HEIGHT + GAP)


def sign(coef: float) -> str:
    """A coefficient as it stands in front of its term."""
    return f"{'−' if coef < 0 else '+'} {abs(coef):g} ×" if abs(coef) != 1 else ("−" if coef < 0 else "+")


def draw(title: str, flow: Flow) -> Figure:
    """The figure of one method."""
    left = dict(rows_of(flow))
    last = max(len(left), len(flow.coefs))
    height = place(last - 1) + HEIGHT / 2 + 52
    with matplotlib.rc_context({"font.family": "sans-serif", "svg.fonttype": "none"}):
        figure = Figure(figsize=(WIDTH / 100, height / 100), facecolor="white")
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set(xlim=(0, WIDTH), ylim=(height, 0))
        axes.axis("off")
        words(axes, LEFT, 22, title, size=12.5, weight="bold", color=INK)
        shift = (last - len(left)) / 2
        left = {name: replace(box, y=place(n + shift)) for n, (name, box) in enumerate(left.items())}
        shift = (last - len(flow.coefs)) / 2
        terms = {
            name: Box(
                title=name,
                note=f"{sign(coef)} {AVERAGES[flow.averages[name]]}",
                style="term",
                x=RIGHT,
                y=place(n + shift),
                width=BOX["right"],
            )
            for n, (name, coef) in enumerate(flow.coefs.items())
        }
        middle = middle_boxes(flow, left)
        for box in (*left.values(), *middle.values(), *terms.values()):
            paint(axes, box)
        connect_all(axes, flow, left=left, middle=middle, terms=terms)
        total(axes, terms.values())
        legend(axes, height - 22)
    return figure


def middle_boxes(flow: Flow, left: Mapping[str, Box]) -> dict[str, Box]:
    """What lies between: advantages beside sampling, a choice of tokens beside the scores that decide it."""

    def box(title: str, note: str, y: float) -> Box:
        return Box(title=title, note=note, style="rule", x=MIDDLE, y=y, width=BOX["middle"], height=LOW)

    samples = [box for name, box in left.items() if name.startswith("sample:")]
    found = {ADVANTAGES: box("advantages", "from the rewards", samples[0].y)}
    for name, choice in flow.chosen.items():
        scores = [left[source].y for source in choice.sources if source in left]
        y = sum(scores) / len(scores) if scores else samples[-1].y + HEIGHT + GAP
        title = "chosen tokens" if choice.kind == "tokens" else "token weights"
        found[f"chosen:{name}"] = box(title, "once a step", y)
    return found


def paint(axes: Axes, box: Box) -> None:
    """Draw a box with its text; a stripe on the left has the view's colour."""
    fill, edge, line = STYLES[box.style]
    top = box.y - box.height / 2
    shape = FancyBboxPatch((box.x, top), box.width, box.height, boxstyle="round,pad=0,rounding_size=5")
    shape.set(facecolor=fill, edgecolor=edge, linestyle=line, linewidth=1.4, zorder=3)
    axes.add_patch(shape)
    inset = 12.0
    if box.view:
        color = VIEW_COLORS.get(box.view, SPARE_COLOR)
        axes.add_patch(Rectangle((box.x + 5, top + 6), 6, box.height - 12, facecolor=color, zorder=4))
        inset = 20.0
    apart = box.height / 5
    for y, text, size, weight, color in (
        (box.y - apart, box.title, 10.5, "bold", INK),
        (box.y + apart, box.note, 9.5, "normal", FAINT),
    ):
        axes.text(
            box.x + inset, y, text, fontsize=size, fontweight=weight, color=color, va="center", zorder=5
        )


def connect_all(
    axes: Axes, flow: Flow, *, left: Mapping[str, Box], middle: Mapping[str, Box], terms: Mapping[str, Box]
) -> None:
    """All arrows, those of one box spread over its sides from above in the order of their other ends."""
    owners = {name: [box] for name, box in left.items()}
    owners[ADVANTAGES] = [middle[ADVANTAGES]]
    owners[OLD] = [left[f"sample:{CLEAN}"], *(owners[scored(CLEAN)] if sampled_elsewhere(flow) else [])]
    edges = [(box, middle[ADVANTAGES], False) for name, box in left.items() if name.startswith("sample:")]
    for name, choice in flow.chosen.items():
        own = middle[f"chosen:{name}"]
        edges += [(box, own, False) for source in choice.sources for box in owners[source]]
        edges += [(own, terms[term], False) for term in choice.terms]
    for name, term in terms.items():
        edges += [(left[f"update:{view}"], term, True) for view in flow.gradient[name]]
        edges += [(box, term, False) for source in flow.reads[name] for box in owners[source]]
    starts = ports(edges, end=0)
    ends = ports(edges, end=1)
    for number, (first, second, gradient) in enumerate(edges):
        connect(axes, first, second, starts[number], ends[number], gradient=gradient)


def ports(edges: list[tuple[Box, Box, bool]], *, end: int) -> dict[int, float]:
    """For each edge the height at which it meets its box at one end, spread so that arrows do not meet.

    Where a box in the middle stands in the same row, arrows to the terms pass below it.
    """
    found = {}
    for box in {id(edge[end]): edge[end] for edge in edges}.values():
        mine = [number for number, edge in enumerate(edges) if edge[end] is box]
        mine.sort(key=lambda number: (edges[number][1 - end].y, edges[number][1 - end].x))
        for n, number in enumerate(mine):
            found[number] = box.y + (n - (len(mine) - 1) / 2) * min(10, (box.height - 10) / len(mine))
        beside = [number for number in mine if edges[number][1].x == MIDDLE and edges[number][1].y == box.y]
        if end == 0 and beside and box.x == LEFT:
            others = [number for number in mine if number not in beside]
            found |= {number: box.y for number in beside}
            found |= {number: box.y + box.height / 2 - 3 - 4 * n for n, number in enumerate(others)}
    return found


def connect(axes: Axes, first: Box, second: Box, start: float, end: float, *, gradient: bool) -> None:
    """An arrow from the right side of one box to the left side of another, or down within the middle."""
    a, b = first.x + first.width, second.x - 1
    if first.x == second.x:
        a = b = first.x + first.width / 2
        points = [(a, first.y + first.height / 2), (b, second.y - second.height / 2 - 1)]
    else:
        turn = max(a, CHANNEL) if second.x == RIGHT else a
        half = (turn + b) / 2
        points = [(a, start), (turn, start), (half, start), (half, end), (b, end)]
    curve = [Curve.MOVETO, Curve.LINETO, Curve.CURVE4, Curve.CURVE4, Curve.CURVE4]
    arrow = FancyArrowPatch(path=Curve(points, curve[: len(points)]), arrowstyle="-|>", mutation_scale=11)
    _, color, line = STYLES["update" if gradient else "score"]
    arrow.set(color=color, linewidth=2.0 if gradient else 1.3, linestyle=line, zorder=2)
    axes.add_patch(arrow)


def total(axes: Axes, terms: Iterable[Box]) -> None:
    """The loss: a bar that all terms add up to."""
    boxes = list(terms)
    x, top, bottom = RIGHT + BOX["right"] + 40, boxes[0].y - HEIGHT / 2, boxes[-1].y + HEIGHT / 2
    shape = FancyBboxPatch((x, top), 62, bottom - top, boxstyle="round,pad=0,rounding_size=5")
    shape.set(facecolor=INK, edgecolor=INK, zorder=3)
    axes.add_patch(shape)
    words(axes, x + 31, (top + bottom) / 2, "loss", size=11, weight="bold", color="white", ha="center")
    for box in boxes:
        ends = (box.x + box.width, box.y), (x - 1, box.y)
        arrow = FancyArrowPatch(*ends, arrowstyle="-|>", mutation_scale=11, shrinkA=0, shrinkB=0)
        arrow.set(color=INK, linewidth=1.4, zorder=2)
        axes.add_patch(arrow)


def words(
    axes: Axes,
    x: float,
    y: float,
    text: str,
    *,
    size: float = 9.5,
    weight: str = "normal",
    color: str = FAINT,
    ha: str = "left",
) -> None:
    """Text whose middle is at height y."""
    axes.text(x, y, text, fontsize=size, fontweight=weight, color=color, ha=ha, va="center", zorder=5)


def legend(axes: Axes, y: float) -> None:
    """What the two kinds of arrow are."""
    kinds = ((LEFT, "update", 2.0, "values forward, gradient back"), (300, "score", 1.3, "values alone"))
    for x, style, width, text in kinds:
        _, color, line = STYLES[style]
        axes.plot([x, x + 34], [y, y], color=color, linestyle=line, linewidth=width)
        words(axes, x + 42, y, text)


def write(page: Path, out: Path, *, png: Path | None = None) -> Path:
    """Draw the method of a page; returns the SVG."""
    heading = page.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ")
    flow = flow_of(build_objective(configured(page)))
    figure = draw(f"{heading}: data flow", flow)
    file = out / f"{page.stem}.svg"
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": page.stem}):
        figure.savefig(file, format="svg", metadata={"Date": None, "Description": structure(flow)})
    if png is not None:
        figure.savefig(png / f"{page.stem}.png", dpi=110)
    return file


def main() -> None:
    """Draw all pages' figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--png", type=Path)
    png = parser.parse_args().png
    OUT.mkdir(parents=True, exist_ok=True)
    for page in sorted(PAGES.glob("*.md")):
        if page.stem != "README":
            print(write(page, OUT, png=png))


if __name__ == "__main__":
    main()
