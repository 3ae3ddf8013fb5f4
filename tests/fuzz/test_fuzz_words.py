"""Damaged configs, overrides, options and data: a message and 2, or it runs and ends with 0."""

from pathlib import Path

import pytest

from fuzz.harness import run_chunk
from fuzz.kinds import KINDS

CHUNKS = {"config": (0, 500, 100), "override": (0, 300, 100), "command_line": (0, 100, 50)}
CHUNKS_OF_DATA = {"data": (0, 250, 50), "picture": (0, 150, 50)}


def ranges(chunks: dict[str, tuple[int, int, int]]) -> list[tuple[str, range]]:
    return [
        (n, range(a, min(a + step, end)))
        for n, (start, end, step) in chunks.items()
        for a in range(start, end, step)
    ]


@pytest.mark.parametrize(
    ("kind", "numbers"), [("config", range(16)), ("override", range(12)), ("command_line", range(8))]
)
def test_a_few_damaged_words_end_with_a_message(kind: str, numbers: range, place: Path) -> None:
    run_chunk(KINDS[kind], numbers, place)


@pytest.mark.parametrize("kind", ["data", "picture"])
def test_a_few_damaged_files_of_data_end_with_a_message(kind: str, place: Path) -> None:
    run_chunk(KINDS[kind], range(6), place)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "numbers"), ranges(CHUNKS | CHUNKS_OF_DATA), ids=str)
def test_damaged_words_and_data_end_with_a_message(kind: str, numbers: range, place: Path) -> None:
    run_chunk(KINDS[kind], numbers, place)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["config", "command_line", "data", "picture"])
def test_damaged_words_and_data_end_in_processes_of_their_own(kind: str, place: Path) -> None:
    run_chunk(KINDS[kind], range(10_000, 10_015), place, process=True)
