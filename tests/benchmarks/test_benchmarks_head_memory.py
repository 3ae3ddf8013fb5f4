"""The head's memory: bounded by a chunk, whatever the number of tokens."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import head_memory
import pytest

WORDS, WIDTH = 151_936, 16


def test_memory_is_that_of_two_chunks_however_many_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A chunk of logits has 64 MiB; all logits of 384 rows have 223. Each is measured in a process of its
    own."""
    file, rows = tmp_path / "line.json", ("3", "192", "384")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    sizes = ("--words", str(WORDS), "--width", str(WIDTH), "--most", "192")
    head_memory.main(["--ways", "plain", "whole", "--rows", *rows, *sizes, "--json", str(file)])
    found = json.loads(file.read_text())["peak"]
    few, many = (found["plain"][rows]["peak_mib"] for rows in ("192", "384"))
    needed = found["plain"]["3"]["needed_mib"]
    assert many <= few + 4
    assert many <= needed + 2 * 64 + 8
    assert found["whole"]["192"]["peak_mib"] > 2 * many


class InHere:
    """An executor that runs things where it is."""

    def __init__(self, *given: object, **more: object) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None: ...

    def submit(self, run: Callable[..., Any], *given: Any) -> SimpleNamespace:  # noqa: ANN401
        found = run(*given)
        return SimpleNamespace(result=lambda: found)


def test_the_table_has_each_way_and_what_a_row_more_costs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def peak(way: str, rows: int, words: int, width: int) -> dict[str, float]:
        return {"peak_mib": 100 + rows * (2 if way == "whole" else 0), "needed_mib": 7, "cpu_s": 1}

    monkeypatch.setattr(head_memory, "ProcessPoolExecutor", InHere)
    monkeypatch.setattr(head_memory, "peak", peak)
    file = tmp_path / "line.json"
    head_memory.main(["--rows", "64", "8", "16", "--most", "16", "--json", str(file)])
    shown = capsys.readouterr()
    found = json.loads(file.read_text())
    assert json.loads(shown.out) == found
    assert found["a_row_more_kib"] == {"plain": 0, "whole": 2048}
    assert list(found["peak"]["whole"]) == ["8", "16"]
    assert "| plain | 64 | 100 | 7 | 1.00 |" in shown.err
