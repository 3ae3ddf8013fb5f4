"""Data sets on disk for the tests of readers, written with pyarrow and PIL alone."""

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq

COLORS = ("red", "green", "blue", "yellow", "black", "white")
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def png(color: str, size: tuple[int, int] = (12, 8)) -> bytes:
    buffer = io.BytesIO()
    PIL.Image.new("RGB", size, color).save(buffer, format="PNG")
    return buffer.getvalue()


def parquet(path: Path, rows: Sequence[Mapping[str, Any]], *, images: Any = None, group: int = 2) -> Path:
    kinds = {"images": pa.list_(IMAGE), "image": IMAGE}
    if images is not None:
        kinds["images"] = images
    names = list(rows[0])
    columns = {name: pa.array([row[name] for row in rows], type=kinds.get(name)) for name in names}
    pq.write_table(pa.table(columns), path, row_group_size=group)
    return path


def viewed(count: int = 5) -> list[dict[str, Any]]:
    """Rows as ViRL39K has them."""
    return [
        {
            "question": f"<image>What colour is picture {n}?",
            "answer": f"\\boxed{{{COLORS[n]}}}",
            "category": "colours",
            "qid": f"q{n}",
            "images": [{"bytes": png(COLORS[n]), "path": f"{n}.png"}],
        }
        for n in range(count)
    ]


def jsonl(path: Path, rows: Sequence[object]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def beside(folder: Path, count: int = 3) -> Path:
    """JSONL beside image files."""
    (folder / "pics").mkdir()
    for n in range(count):
        (folder / "pics" / f"{n}.png").write_bytes(png(COLORS[n]))
    rows = [
        {"problem": f"Colour {n}?", "images": [f"pics/{n}.png"], "answer": COLORS[n]} for n in range(count)
    ]
    return jsonl(folder / "data.jsonl", rows)
