"""Wrong arguments of the benchmarks are said before the work, without a traceback."""

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import compare
import given
import gpu
import looking_cost
import picture_workers
import pytest
import scaling
import step_cost


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "x", ""])
def test_a_count_is_a_whole_number_above_0(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="expected a whole number above 0"):
        given.count(text)
    assert given.count("1") == 1


@pytest.mark.parametrize("text", ["-1", "0.5", "x"])
def test_a_natural_number_may_be_0(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="of at least 0"):
        given.natural(text)
    assert given.natural("0") == 0


def test_a_file_must_be_one_that_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert given.file(str(tmp_path / "new.json")) == str(tmp_path / "new.json")
    monkeypatch.chdir(tmp_path)
    assert given.file("new.json") == "new.json"
    for wrong in (tmp_path, tmp_path / "no" / "such.json"):
        with pytest.raises(argparse.ArgumentTypeError, match="expected a file in a folder that is there"):
            given.file(str(wrong))
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(argparse.ArgumentTypeError, match="no permission"):
        given.file("new.json")


@pytest.mark.parametrize(
    ("parse", "words", "said"),
    [
        (step_cost.arguments, "--checkpoint x --seed -1", "argument --seed: -1; expected a whole number of"),
        (
            step_cost.arguments,
            "--checkpoint x --json /no/such/f",
            "argument --json: /no/such/f cannot be wri",
        ),
        (
            looking_cost.arguments,
            "--checkpoint x --rounds 0",
            "argument --rounds: 0; expected a whole number",
        ),
        (scaling.arguments, "--vary prompts --values 1 2 --rounds 0", "argument --rounds: 0; expected a"),
        (picture_workers.arguments, "--checkpoint x --steps 0", "argument --steps: 0; expected a whole"),
        (picture_workers.arguments, "--checkpoint x --workers -1", "argument --workers: -1; expected a"),
        (gpu.arguments, "--device xyz", "--device xyz: "),
    ],
)
def test_a_wrong_argument_is_said(
    parse: Callable[..., Any],
    words: str,
    said: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sys.argv", ["benchmark", *words.split()])
    with pytest.raises(SystemExit) as ended:
        parse()
    assert ended.value.code == 2
    assert said in " ".join(capsys.readouterr().err.split())


def test_a_command_that_is_not_there_is_named() -> None:
    with pytest.raises(SystemExit, match="no-such-command x cannot be run: "):
        compare.cost(["no-such-command", "x"], "cpu_seconds_per_step")
