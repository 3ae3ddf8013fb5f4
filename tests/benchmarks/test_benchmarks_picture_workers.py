"""Steps on picture files, in line and with workers."""

import json
from pathlib import Path

import picture_workers
import pytest


def test_steps_are_timed_with_each_number_of_workers(
    tiny_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(name, "1")
    words = "--side 64 --response 3 --prompts 2 --group 2 --workers 0 2 --rounds 2 --steps 1".split()
    picture_workers.main(["--checkpoint", str(tiny_folder), *words])
    *table, last = capsys.readouterr().out.splitlines()
    found = json.loads(last)
    assert [line.split(" | ")[0] for line in table[2:]] == ["| 0", "| 2"]
    assert {workers: len(rounds) for workers, rounds in found["rounds"].items()} == {"0": 2, "2": 2}
    for one in found["rounds"]["0"]:
        assert 0 < one["waited"] < one["seconds"] and one["cpu_seconds"] > 0
