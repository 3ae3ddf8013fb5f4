"""Every file of a run folder, as anyone may have changed it: told by name, and nothing is lost by it."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from foveal.cli import main
from foveal.train import loop
from foveal.train.record import RunFolder
from run_cases import world_config


@pytest.fixture(scope="module")
def whole(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of 2 steps with a validation; read only."""
    torch.set_num_threads(1)
    run = tmp_path_factory.mktemp("whole") / "run"
    config = world_config(
        tiny_folder, steps=2, checkpoint={"every": 1, "keep": 2}, rewards=[{"type": "choice"}]
    )
    loop.start(config, run)
    return run


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    """A copy that has a step to go."""
    copy = tmp_path / "run"
    shutil.copytree(whole, copy)
    (copy / "summary.json").unlink()
    shutil.rmtree(copy / "checkpoints" / "step-000002")
    return copy


def content(folder: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in folder.rglob("*")
        if p.is_file() and p.name != "lock"
    }


def refused(run: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """What a resume says; nothing of the folder changes by it."""
    before = content(run)
    assert main(["train", "--resume", str(run)]) == 2
    said = capsys.readouterr().err
    assert said.count("foveal: ") == 1 and "Traceback" not in said
    assert content(run) == before
    return said


STATES: list[tuple[str, Any, str]] = [
    ("cursor", -1, "cursor = -1: Input should be greater than or equal to 0"),
    ("cursor", True, "cursor = True"),
    ("cursor", "3", "cursor = '3'"),
    ("cursor", 1.5, "cursor = 1.5"),
    ("step", -1, "step = -1"),
    ("step", 5, "it holds step 5"),
    ("skipped", None, "skipped = None"),
    ("idle", [1], r"idle = \[1\]"),
    ("best", {"step": 1, "accuracy": "x"}, "best"),
    ("best", {"accuracy": 0.5}, "expected a step and an accuracy"),
    ("guard", {"scale": -1.0}, "guard.scale = -1.0"),
    ("guard", {"usual": {"a": "b"}}, "guard.usual.a"),
    ("guard", 3, "guard = 3"),
]


@pytest.mark.parametrize(("key", "value", "told"), STATES, ids=str)
def test_a_state_that_cannot_be_is_told(
    key: str, value: Any, told: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import re

    file = run / "checkpoints" / "step-000001" / "state.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), key: value}))
    said = refused(run, capsys)
    assert re.search(told, said) and f"{file} cannot be read" in said and "delete the folder" in said


@pytest.mark.parametrize("name", ["metrics.jsonl", "completions.jsonl"])
@pytest.mark.parametrize(
    "line", ["[1]", "{}", '{"step": "x"}', '{"step": 1', "[" * 5000], ids=lambda text: text[:9]
)
def test_a_broken_line_loses_no_line_after_it(
    name: str, line: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = (run / name).read_text().split("\n")
    (run / name).write_text("\n".join([lines[0], line, *lines[1:]]))
    assert f"{name} line 2 is broken" in refused(run, capsys)


@pytest.mark.parametrize(
    "name",
    [
        "metrics.jsonl",
        "completions.jsonl",
        "events.jsonl",
        "measured.json",
        "summary.json",
        "manifest.json",
        "lock",
    ],
)
@pytest.mark.parametrize("kind", ["pipe", "folder", "nowhere"])
def test_something_else_in_the_place_of_a_file_is_told_and_not_waited_for(
    name: str, kind: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / name).unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(run / name)
    elif kind == "folder":
        (run / name).mkdir()
    else:
        (run / name).symlink_to("nowhere at all")
    assert f"{name} is no file; expected the file of that name in a run folder" in refused(run, capsys)


@pytest.mark.parametrize("name", ["optimizer.pt", "model/model.safetensors", "model/config.json"])
def test_a_pipe_in_a_checkpoint_is_not_waited_for(
    name: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = run / "checkpoints" / "step-000001" / name
    file.unlink()
    os.mkfifo(file)
    said = refused(run, capsys)
    assert "is no file" in said and "delete the folder" in said


@pytest.mark.parametrize("threads", [-1, 0, 10**9, True, "2", None])
def test_choices_of_another_kind_are_told_or_made_again(
    threads: Any, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = run / "measured.json"
    file.write_text(
        json.dumps({**json.loads(file.read_text()), "threads": threads, "threads_chosen_by": "probe"})
    )
    if type(threads) is int:
        assert main(["train", "--resume", str(run)]) == 0
    else:
        assert "measured.json cannot be read: threads is" in refused(run, capsys)


def test_import_paths_that_are_none_are_left_out(run: Path) -> None:
    file = run / "manifest.json"
    file.write_text(
        json.dumps({**json.loads(file.read_text()), "import_paths": [1, None, "a\0b", ["x"], str(run)]})
    )
    assert main(["train", "--resume", str(run)]) == 0


def test_two_starts_in_one_folder_are_one_run(tiny_folder: Path, tmp_path: Path) -> None:
    """The second one finds the first one's config behind its back, after it looked and before it locked."""
    from foveal.spec import FovealError

    config = world_config(tiny_folder)
    first = RunFolder.create(tmp_path / "run", config)
    with pytest.raises(FovealError, match="already holds a run|being written by another"):
        RunFolder.create(tmp_path / "run", config)
    assert (tmp_path / "run" / "config.toml").is_file()
    first.close()
