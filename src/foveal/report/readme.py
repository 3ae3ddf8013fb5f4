"""The README's picture of the shortcut study: a problem, what was said of it, and where each run ended."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.image
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from foveal.report import figures, word_figures
from foveal.report.read import GalleryItem, Said
from foveal.spec import FovealError

DOTS_PER_INCH = 170
_SIZE = (10.4, 4.3)  # inches; fills the width of a repository page
_FONT = 9.2  # points
_LINES = 4  # lines of a completion that are drawn


def readme_figure(
    item: GalleryItem,
    arms: Sequence[Mapping[str, Any]],
    *,
    said: Mapping[str, str],
    start: float,
    below: float,
    out_png: Path,
    source: str,
) -> Path:
    """Draw a problem with a wrong word, what was said of it, and the accuracy of each run.

    `said`: method -> heading, of the completions to show; `arms`, `start` and `below` as in
    `foveal.report.word_figures.falls_axes`; `source` is kept in the picture's metadata, so that a test can
    tell whether the picture is that of the results.
    Raises: FovealError, where the item has no picture, or nothing was said by a method.
    """
    pictures = [pair.clean for pair in item.pictures if pair.clean is not None]
    absent = [method for method in said if method not in item.after]
    if not pictures or absent:
        lacks = "picture" if not pictures else f"completion of {', '.join(absent)}"
        raise FovealError(
            f"{item.problem_id or 'the example'} has no {lacks}; the README's picture needs one"
        )
    with figures.style():
        figure = Figure(figsize=_SIZE, layout=None)
        axes = figure.add_axes((0.012, 0.40, 0.19, 0.46))
        axes.imshow(matplotlib.image.imread(pictures[0]), cmap="gray", interpolation="nearest")
        axes.set_axis_off()
        note = f"right answer: {item.answer}\nthe word stands for: {item.word}"
        axes.text(0, -0.05, note, transform=axes.transAxes, fontsize=_FONT, color=figures.FAINT, va="top")
        _draw_said(figure, item, [(heading, item.after[method]) for method, heading in said.items()])
        falls = figure.add_axes((0.725, 0.135, 0.215, 0.76))
        word_figures.falls_axes(falls, arms, start=start, below=below)
        out_png.parent.mkdir(parents=True, exist_ok=True)
        kept = {"Source": source, "Software": None}
        figure.savefig(out_png, format="png", dpi=DOTS_PER_INCH, facecolor="white", metadata=kept)
    return out_png


def _draw_said(figure: Figure, item: GalleryItem, said: Sequence[tuple[str, Said]]) -> None:
    """Question and completions, each token tinted by its kl_prcp."""
    width = 0.395
    axes = figure.add_axes((0.222, 0.02, width, 0.96))
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_axis_off()
    pen = _Pen(axes, width_inches=_SIZE[0] * width, height_inches=_SIZE[1] * 0.96)
    pen.write(item.question, weight="bold", lines=3)
    for heading, one in said:
        if not pen.holds(_LINES):
            break
        pen.skip(0.6)
        pen.write(heading, color=figures.FAINT, lines=1)
        if one.kind:
            tint = figures.KIND_COLORS.get(one.kind, figures.FAINT)
            pen.badge(one.kind, after=len(heading) + 2, tint=tint)
        pen.tokens([(token.text, token.kl_prcp) for token in one.tokens] or [(one.text, 0.0)])
    pen.skip(0.6)
    pen.write("orange: what hiding the picture would change (kl_prcp)", color=figures.FAINT, lines=2)


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
