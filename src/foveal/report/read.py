"""The files of a results folder as plain values. Whatever they hold is data: nothing of it is trusted."""

import base64
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foveal.evaluation.compare import COLD_START, compare_runs
from foveal.evaluation.records import Evaluation
from foveal.spec import FovealError

PICTURE_BYTES = 4_000_000
"""A larger picture is left out: the page has to open on a phone."""

GALLERY_ITEMS = 24
"""Gallery items shown; more make the page heavy without telling more."""

_TYPES = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg"}


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of `summary.json`; None where it was not measured."""

    method: str
    seed: int | None
    accuracy: float | None
    accuracy_other_picture: float | None
    perception_error_fraction: float | None
    format: float | None
    kl_prcp_median: float | None
    cpu_seconds: float | None
    steps: float | None
    problems: float | None


@dataclass(frozen=True, kw_only=True)
class Token:
    """A completion token with its heat, nats."""

    text: str
    kl_prcp: float
    entropy_shift: float


@dataclass(frozen=True, kw_only=True)
class Said:
    """One completion of the gallery."""

    text: str
    kind: str
    tokens: tuple[Token, ...]


@dataclass(frozen=True, kw_only=True)
class PicturePair:
    """Files of one picture: as it is, and with information removed; None where the file is missing."""

    clean: Path | None
    removed: Path | None


@dataclass(frozen=True, kw_only=True)
class GalleryItem:
    """One problem, what was said of it before training, and after by method."""

    problem_id: str
    question: str
    answer: str
    word: str
    """The answer that a style word of the question stands for; empty where there is none."""
    pictures: tuple[PicturePair, ...]
    before: Said | None
    after: Mapping[str, Said]


Curves = dict[str, dict[str, list[dict[str, float]]]]
"""method -> seed -> one row of metrics a step."""


@dataclass(frozen=True, kw_only=True)
class Results:
    """A results folder; what is missing is empty and named in `missing`."""

    folder: Path
    rows: tuple[Row, ...]
    evaluations: tuple[Evaluation, ...]
    comparisons: Mapping[str, Any]
    curves: Curves
    gallery: tuple[GalleryItem, ...]
    notes: Mapping[str, str]
    missing: tuple[str, ...]

    @property
    def methods(self) -> list[str]:
        """The methods, the cold start first, then in the order of the rows."""
        named = [row.method for row in self.rows] + list(self.curves)
        found = list(dict.fromkeys(named))
        return sorted(found, key=lambda method: method != COLD_START)


def read_results(folder: Path) -> Results:
    """Read a results folder; every file but `summary.json` or `evaluations/` may be missing.

    Raises: FovealError, where there is nothing to show, or a file is not what it should be.
    """
    summary = read_json(folder / "summary.json")
    evaluations = _evaluations(folder / "evaluations")
    comparisons = read_json(folder / "comparisons.json")
    if comparisons is None and evaluations:
        comparisons = compare_runs(evaluations)
    rows = _rows(summary, folder) if summary is not None else tuple(_row_of(e) for e in evaluations)
    if not rows:
        raise FovealError(
            f"{folder} has no summary.json with rows and no evaluations/*.json, so there is nothing to show; "
            "give the folder that `foveal quickstart` or `foveal train` wrote"
        )
    notes = read_json(folder / "report_notes.json")
    gallery = read_json(folder / "gallery.json")
    curves = read_json(folder / "curves.json")
    words = mapping(summary).get("schema_version") == 2
    parts = {
        "summary.json": summary,
        "evaluations/": evaluations or ([] if words else None),
        "curves.json": curves,
        "gallery.json": gallery,
    }
    return Results(
        folder=folder,
        rows=rows,
        evaluations=tuple(evaluations),
        comparisons=comparisons if isinstance(comparisons, dict) else {},
        curves=_curves(curves),
        gallery=read_gallery(folder),
        notes={str(k): _plain(v) for k, v in mapping(notes).items()},
        missing=tuple(name for name, part in parts.items() if part is None),
    )


def read_json(path: Path) -> Any:  # noqa: ANN401
    """The contents of a JSON file; None where it does not exist.

    Raises: FovealError, where it is not JSON.
    """
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise FovealError(f"{path} is not JSON ({error}); write it again or remove it") from error


def read_jsonl(path: Path, *, limit: int | None = None) -> list[dict[str, Any]]:
    """Rows of a JSONL file, empty where it does not exist. A last line that was cut off is left out.

    Raises: FovealError, where another line is not JSON.
    """
    if not path.is_file():
        return []
    rows: list[dict[str, Any]] = []
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    for number, line in enumerate(lines, start=1):
        if limit is not None and len(rows) >= limit:
            break
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            if number >= len(lines):
                break
            raise FovealError(f"{path} line {number} is not JSON ({error}); remove the line") from error
        rows += [row] if isinstance(row, dict) else []
    return rows


def data_uri(path: Path | None) -> str | None:
    """A picture file as a `data:` address, so that the page stands alone."""
    if path is None:
        return None
    return f"data:{_TYPES[path.suffix.lower()]};base64,{base64.b64encode(path.read_bytes()).decode('ascii')}"


def picture(folder: Path, name: object) -> Path | None:
    """The picture `name` inside `folder`; None for a missing, huge or foreign file, or one outside it."""
    if not isinstance(name, str) or not name:
        return None
    root, path = folder.resolve(), (folder / name).resolve()
    if not path.is_relative_to(root) or path.suffix.lower() not in _TYPES or not path.is_file():
        return None
    return path if path.stat().st_size <= PICTURE_BYTES else None


def number(value: object) -> float | None:
    """A finite number, else None."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def mapping(value: object) -> Mapping[str, Any]:
    """The value where it is a table, else an empty one."""
    return value if isinstance(value, Mapping) else {}


def listed(value: object) -> Sequence[Any]:
    """The value where it is a list, else an empty one."""
    return value if isinstance(value, list) else []


def _evaluations(folder: Path) -> list[Evaluation]:
    paths = sorted(folder.glob("*.json")) if folder.is_dir() else []
    found = [Evaluation.load(path) for path in paths if path.with_suffix(".jsonl").is_file()]
    return sorted(found, key=lambda one: one.method != COLD_START)


def _rows(summary: object, folder: Path) -> tuple[Row, ...]:
    rows = mapping(summary).get("rows")
    if not isinstance(rows, list):
        raise FovealError(
            f'{folder / "summary.json"} has no list "rows"; expected {{"schema_version": 1, "rows": [...]}}'
        )
    return tuple(_row(mapping(row)) for row in rows)


def _row(row: Mapping[str, Any]) -> Row:
    seed = row.get("seed")
    return Row(
        method=str(row.get("method", "?")),
        seed=seed if isinstance(seed, int) else None,
        accuracy=number(row.get("accuracy")),
        accuracy_other_picture=number(row.get("accuracy_other_picture")),
        perception_error_fraction=number(row.get("perception_error_fraction")),
        format=number(row.get("format")),
        kl_prcp_median=number(row.get("kl_prcp_median")),
        cpu_seconds=number(row.get("cpu_seconds")),
        steps=number(row.get("steps")),
        problems=number(row.get("problems")),
    )


def _row_of(one: Evaluation) -> Row:
    quantities = {name: mapping(one.summary[name]).get("value") for name in _MEASURED}
    return _row({**quantities, "method": one.method, "seed": one.seed, "problems": len(one.records)})


_MEASURED = ("accuracy", "accuracy_other_picture", "perception_error_fraction", "format")


def _curves(data: object) -> Curves:
    return {
        str(method): {
            str(seed): [_numbers(row) for row in listed(rows)] for seed, rows in mapping(seeds).items()
        }
        for method, seeds in mapping(data).items()
    }


def _numbers(row: object) -> dict[str, float]:
    found = {str(k): number(v) for k, v in mapping(row).items()}
    return {k: v for k, v in found.items() if v is not None}


def read_gallery(folder: Path) -> tuple[GalleryItem, ...]:
    """The items of a folder's `gallery.json`, empty where it has none.

    Raises: FovealError, where it is not JSON.
    """
    found = listed(read_json(folder / "gallery.json"))
    return tuple(_gallery(item, folder) for item in found[:GALLERY_ITEMS])


def _gallery(item: object, folder: Path) -> GalleryItem:
    data = mapping(item)
    pairs = [mapping(p) for p in listed(data.get("pictures"))]
    return GalleryItem(
        problem_id=str(data.get("problem_id", "")),
        question=str(data.get("question", "")).replace("<image>", " ").strip(),
        answer=str(data.get("answer", "")),
        word=str(data.get("word") or ""),
        pictures=tuple(
            PicturePair(clean=picture(folder, p.get("clean")), removed=picture(folder, p.get("removed")))
            for p in pairs
        ),
        before=_said(data.get("before")),
        after={
            str(method): said for method, one in mapping(data.get("after")).items() if (said := _said(one))
        },
    )


def _said(value: object) -> Said | None:
    data = mapping(value)
    if not data:
        return None
    tokens = [mapping(token) for token in listed(data.get("tokens"))]
    return Said(
        text=str(data.get("text", "")),
        kind=str(data.get("kind") or ""),
        tokens=tuple(
            Token(
                text=str(token.get("text", "")),
                kl_prcp=number(token.get("kl_prcp")) or 0.0,
                entropy_shift=number(token.get("entropy_shift")) or 0.0,
            )
            for token in tokens
        ),
    )


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
