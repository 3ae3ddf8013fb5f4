"""Damaged model and run folders: a message and 2, or it runs and ends with 0."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fuzz import harness
from fuzz.harness import Kind, run_case, run_chunk
from fuzz.kinds import KINDS
from fuzz.mutate import damaged_bytes, damaged_value

CHUNKS = {"model": (0, 450, 50), "run": (0, 250, 50)}


@pytest.mark.parametrize("kind", list(CHUNKS))
def test_a_few_damaged_folders_end_with_a_message(kind: str, place: Path) -> None:
    run_chunk(KINDS[kind], range(8), place)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "start"),
    [(kind, start) for kind, (first, end, step) in CHUNKS.items() for start in range(first, end, step)],
)
def test_damaged_folders_end_with_a_message(kind: str, start: int, place: Path) -> None:
    run_chunk(KINDS[kind], range(start, start + CHUNKS[kind][2]), place)


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(CHUNKS))
def test_damaged_folders_end_in_processes_of_their_own(kind: str, place: Path) -> None:
    run_chunk(KINDS[kind], range(10_000, 10_020), place, process=True)


def test_a_case_is_a_function_of_its_number(place: Path) -> None:
    for seed in (3, 4):
        one, two = (np.random.Generator(np.random.Philox(key=[0, seed])) for _ in range(2))
        value = {"a": [1, 2, {"b": "c"}], "d": 1.5}
        assert [damaged_value(value, one) for _ in range(50)] == [
            damaged_value(value, two) for _ in range(50)
        ]
        assert damaged_bytes(b"abcdef" * 9, one) == damaged_bytes(b"abcdef" * 9, two)


def planted(body: str) -> Kind:
    """A case whose command meets a plug-in or a mistake that a sound library would not have."""

    def prepare(folder: Path, rng: np.random.Generator) -> list[str]:
        (folder / "c.toml").write_text("")
        return ["config", body]

    return Kind(name=f"planted-{body}", prepare=prepare)


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("raises", "traceback"),
        ("hangs", "hang"),
        ("status", "ended with 1"),
        ("silent", "0 messages"),
        ("escape", "control character"),
        ("leaves", "left behind"),
        ("empty run", "left behind"),
        ("process", "process left"),
    ],
)
def test_the_harness_sees_each_kind_of_fault(
    fault: str, told: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = []

    def broken(words: list[str]) -> int:
        if fault == "raises":
            raise TypeError("ours")
        if fault == "hangs":
            while True:
                pass
        if fault == "leaves":
            Path("x.json.partial").touch()
        if fault == "empty run":
            Path("run").mkdir()
            Path("run/config.toml").touch()
        if fault == "process":
            started.append(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]))
        if fault != "silent":
            print("foveal: no", file=sys.stderr)
        if fault == "escape":
            sys.stderr.write("\x1b[2J")
        return 1 if fault == "status" else 2

    monkeypatch.setattr(harness, "main", broken)
    monkeypatch.setattr(harness, "ALARM_S", 0.5)
    found = run_case(planted(fault), 0, place / "case")
    for process in started:
        process.kill()
        process.wait()
    assert any(told in line for line in found.faults), found
    monkeypatch.setattr(harness, "main", lambda words: print("foveal: no", file=sys.stderr) or 2)
    assert run_case(planted("fine"), 0, place / "case").faults == []
    with pytest.raises(AssertionError, match=json.dumps(fault)[1:-1]):
        monkeypatch.setattr(harness, "main", lambda words: 1)
        run_chunk(planted(fault), [0], place)
