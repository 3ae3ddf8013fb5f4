"""The check of a data set is timed when nothing is known, again, and with headers alone."""

import json

import data_check
import pytest


def test_three_passes_are_timed_for_each_number_of_threads(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FOVEAL_CACHE", "put back afterwards")
    data_check.main(["--rows", "6", "--workers", "1", "2", "--kinds", "png figure 512x512"])
    *_, last = capsys.readouterr().out.splitlines()
    found = json.loads(last)
    assert [(one["workers"], one["pass"]) for one in found] == [
        (workers, name) for workers in (1, 2) for name in ("decode", "again", "headers")
    ]
    assert all(one["wall"] > 0 and one["cpu"] > 0 for one in found)
