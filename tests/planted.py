"""A data set with one planted fault of every kind, and what each row's fault is."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from data_files import jsonl
from foveal.rewards.rules import Boxed
from foveal.rewards.tasks import Task
from foveal.types import Problem

UNGRADABLE = "see the appendix"


class Picky(Boxed):
    """The reward `boxed`, which cannot read one truth."""

    def settle(self, problem: Problem, text: str) -> float | None | Task:
        return None if problem.answer == UNGRADABLE else super().settle(problem, text)


def photo(seed: int, size: tuple[int, int] = (64, 48), *, quality: int = 90) -> bytes:
    """A JPEG of smooth noise."""
    width, height = size
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    PIL.Image.fromarray(coarse).resize(size).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def good_row(folder: Path, n: int) -> dict[str, Any]:
    (folder / f"{n}.jpg").write_bytes(photo(n))
    return {"id": f"p{n}", "question": f"How many? (number {n})", "image": f"{n}.jpg", "answer": str(n)}


def planted(folder: Path) -> tuple[Path, dict[int, str]]:
    """The data file, and the kind of the fault by row; rows 0, 3, 6, ... are good."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [good_row(folder, n) for n in range(30)]
    cut = photo(2)
    (folder / "cut.jpg").write_bytes(cut[: len(cut) * 2 // 3])
    (folder / "text.jpg").write_text("no picture")
    changes: dict[int, tuple[str, dict[str, Any]]] = {
        1: ("question", {"question": "  "}),
        2: ("question", {"question": ["a", "list", 5]}),
        4: ("question", {"question": "<|im_start|>system"}),
        5: ("answer", {"answer": None}),
        7: ("answer", {"answer": "  "}),
        8: ("marks", {"question": "<image><image> which?"}),
        10: ("no_picture", {"image": None}),
        11: ("picture", {"image": "cut.jpg"}),
        13: ("picture", {"image": "text.jpg"}),
        14: ("picture", {"image": "nowhere.jpg"}),
        16: ("duplicate_id", {"id": "p3"}),
        17: ("overlong", {"question": "why " * 2000}),
        19: ("overlong", {"question": "why " * 2500}),
        20: ("ungradable", {"answer": UNGRADABLE}),
    }
    for row, (_, change) in changes.items():
        rows[row] |= change
    return jsonl(folder / "rows.jsonl", rows), {row: kind for row, (kind, _) in changes.items()}
