"""Templates to pages, and numbers to the words of a page. Autoescape is on: text from files stays text."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from foveal.evaluation.stats import Estimate
from foveal.report import figures

TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A number of a table, and its interval where it has one."""

    text: str
    range: str = ""


@cache
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def render(template: str, **values: Any) -> Markup:  # noqa: ANN401
    """A template filled in. Only what this package drew itself is passed as Markup; all else is escaped."""
    css = Markup((TEMPLATES / "style.css").read_text(encoding="utf-8"))
    return Markup(_environment().get_template(template).render(css=css, **values))


def write(path: Path, text: str) -> Path:
    """Write beside and rename: a browser never loads half a page."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)
    return path


def inline(figure: Figure | None, *, name: str) -> Markup | None:
    """A figure as markup; its labels were cleaned when it was drawn."""
    return None if figure is None else Markup(figures.svg(figure, name=name))


def percent(value: float | None, interval: Estimate | None = None, *, signed: bool = False) -> Cell | None:
    """A share in per cent, with its interval where that has bounds."""
    if value is None:
        return None
    text = minus(f"{100 * value:+.1f}" if signed else f"{100 * value:.1f}")
    return Cell(text=text, range="" if interval is None else _range(interval, signed=signed))


def plain(value: float | None, *, digits: int = 0) -> Cell | None:
    """A plain number."""
    return None if value is None else Cell(text=f"{value:,.{digits}f}")


def _range(interval: Estimate, *, signed: bool) -> str:
    bounds = interval.to_json()
    if bounds["low"] is None or bounds["high"] is None:
        return ""
    sign = "+" if signed else ""
    return minus(f"{100 * interval.low:{sign}.1f} to {100 * interval.high:{sign}.1f}")


def minus(text: str) -> str:
    """Hyphens of numbers as minus signs."""
    return text.replace("-", "\N{MINUS SIGN}")
