"""One compact picture of a real result, for a README."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.image
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from foveal.evaluation.stats import Estimate
from foveal.report import figures
from foveal.report.claims import estimate, title
from foveal.report.read import GalleryItem, Results, Said, listed, mapping, read_results
from foveal.spec import FovealError

DOTS_PER_INCH = 170
_SIZE = (10.4, 4.3)  # inches; fills the width of a repository page
_FONT = 9.2  # points
_LINES = 4  # lines of a completion that are drawn


def readme_figure(folder: Path, out_png: Path) -> Path:
    """Draw a problem, what was said before and after training, and the accuracy of each method.

    The problem is the first of the gallery that was misseen before training and is right after it, else the
    first.
    Raises: FovealError, where the folder has no gallery with pictures, or no accuracy.
    """
    results = read_results(folder)
    item, method = _choose(results)
    values = _accuracies(results)
    if not values:
        raise FovealError(
            f"{folder / 'summary.json'} has no accuracy; the picture for a README shows one a method"
        )
    with figures.style():
        figure = Figure(figsize=_SIZE, layout=None)
        _draw_pictures(figure, item)
        others = [m for m in results.methods if m in item.after and m != method]
        said = [("before training", item.before)]
        said += [(f"after {title(m)}", item.after[m]) for m in (method, *others)]
        _draw_said(figure, item, [(who, one) for who, one in said if one is not None])
        axes = figure.add_axes((0.70, 0.13, 0.285, 0.72))
        figures.accuracy_axes(axes, values, _intervals(results))
        axes.set_title("Right on held-out problems, %")
        out_png.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(out_png, format="png", dpi=DOTS_PER_INCH, facecolor="white")
    return out_png


def _choose(results: Results) -> tuple[GalleryItem, str]:
    shown = [item for item in results.gallery if item.before is not None and item.after and _file_pairs(item)]
    if not shown:
        raise FovealError(
            f"{results.folder / 'gallery.json'} has no item with pictures and completions before and after; "
            "the picture for a README needs one"
        )
    for wanted in ("papo", *results.methods):
        for item in shown:
            seen = item.before is not None and item.before.kind == "perception"
            if wanted in item.after and seen and item.after[wanted].kind == "correct":
                return item, wanted
    return shown[0], "papo" if "papo" in shown[0].after else next(iter(shown[0].after))


def _file_pairs(item: GalleryItem) -> list[tuple[Path, Path]]:
    return [(p.clean, p.removed) for p in item.pictures if p.clean is not None and p.removed is not None]


def _accuracies(results: Results) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for row in results.rows:
        if row.accuracy is not None:
            found.setdefault(row.method, []).append(row.accuracy)
    return {m: found[m] for m in results.methods if m in found}


def _intervals(results: Results) -> dict[str, Estimate | None]:
    found: dict[str, Estimate | None] = {}
    for row in listed(results.comparisons.get("methods")):
        quantity = mapping(mapping(row).get("accuracy"))
        seeds = listed(quantity.get("per_seed"))
        one = seeds[0] if seeds else None
        found[str(mapping(row).get("method"))] = estimate(
            quantity.get("two_level") if len(seeds) > 1 else one
        )
    return found


def _draw_pictures(figure: Figure, item: GalleryItem) -> None:
    clean, removed = _file_pairs(item)[0]
    for place, (path, caption) in enumerate(((clean, "the picture"), (removed, "with information removed"))):
        axes = figure.add_axes((0.012, 0.515 - 0.475 * place, 0.17, 0.41))
        axes.imshow(matplotlib.image.imread(path), cmap="gray", interpolation="nearest")
        axes.set_axis_off()
        axes.text(0, 1.03, caption, transform=axes.transAxes, fontsize=_FONT, color=figures.FAINT)


def _draw_said(figure: Figure, item: GalleryItem, said: Sequence[tuple[str, Said]]) -> None:
    """Question and completions, each token tinted by its kl_prcp."""
    axes = figure.add_axes((0.205, 0.02, 0.455, 0.96))
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_axis_off()
    pen = _Pen(axes, width_inches=_SIZE[0] * 0.455, height_inches=_SIZE[1] * 0.96)
    pen.write(item.question, weight="bold", lines=3)
    for who, one in said:
        if not pen.holds(_LINES):
            break
        pen.skip(0.45)
        pen.write(who, color=figures.FAINT, lines=1)
        tint = figures.KIND_COLORS.get(one.kind, figures.FAINT)
        if one.kind:
            pen.badge(one.kind, after=len(who) + 2, tint=tint)
        pen.tokens([(token.text, token.kl_prcp) for token in one.tokens] or [(one.text, 0.0)])
    pen.skip(0.5)
    pen.write("orange: what hiding the picture would change (kl_prcp)", color=figures.FAINT, lines=1)


class _Pen:
    """Writes monospaced text down a column, in axes coordinates."""

    def __init__(self, axes: Axes, *, width_inches: float, height_inches: float) -> None:
        self.axes = axes
        self.step = _FONT * 0.602 / 72 / width_inches  # advance of a character of DejaVu Sans Mono
        self.line = _FONT * 1.75 / 72 / height_inches
        self.columns = int(1 / self.step)
        self.y = 1 - self.line

    def skip(self, lines: float) -> None:
        self.y -= lines * self.line

    def holds(self, lines: int) -> bool:
        """Whether a heading, that many lines and the legend still fit."""
        return self.y > (lines + 2) * self.line

    def put(self, column: float, text: str, *, color: str = figures.INK, weight: str = "normal") -> None:
        place: dict[str, Any] = {"family": "DejaVu Sans Mono", "fontsize": _FONT, "weight": weight}
        self.axes.text(column * self.step, self.y, text, color=color, **place)

    def write(self, text: str, *, color: str = figures.INK, weight: str = "normal", lines: int) -> None:
        """Plain text, wrapped by words."""
        row = ""
        for word in [*text.split(), None]:
            if word is not None and len(row) + len(word) < self.columns:
                row = f"{row} {word}".strip()
                continue
            if lines > 0:
                self.put(0, row[: self.columns], color=color, weight=weight)
                self.skip(1)
            lines, row = lines - 1, word or ""

    def badge(self, text: str, *, after: int, tint: str) -> None:
        """A coloured word at the end of the line just written."""
        self.skip(-1)
        self.put(after, text, color=tint, weight="bold")
        self.skip(1)

    def tokens(self, tokens: Sequence[tuple[str, float]]) -> None:
        """Tokens on the tint of their heat, wrapped between tokens, cut after a few lines."""
        cap = max(0.5, max(value for _, value in tokens))
        column, line = 0, 1
        for text, value in tokens:
            pieces = text.replace("\n", " \n ").split("\n") if "\n" in text else [text]
            for number, piece in enumerate(pieces):
                body = piece if column else piece.lstrip()
                if number or column + len(body) > self.columns:
                    self.skip(1)
                    column, line, body = 0, line + 1, piece.lstrip()
                if line > _LINES:
                    self.put(0, "...", color=figures.FAINT)
                    self.skip(1)
                    return
                self._token(column, body[: self.columns], value / cap)
                column += len(body)
        self.skip(1)

    def _token(self, column: int, text: str, heat: float) -> None:
        lead = len(text) - len(text.lstrip())
        body = text.strip()
        if not body:
            return
        if heat > 0.02:
            low = self.y - 0.28 * self.line
            x = (column + lead) * self.step
            tint: dict[str, Any] = {"color": "#d9662b", "alpha": 0.75 * min(1.0, heat), "linewidth": 0}
            self.axes.axvspan(x, x + len(body) * self.step, low, low + 0.86 * self.line, **tint)
        self.put(column + lead, body)
