"""A run that was killed, stopped or short of disk goes on and gives what an uninterrupted run gives."""

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from foveal.config import dump, load
from foveal.policy import checkpoint as checkpoints
from foveal.policy.checkpoint import clean_checkpoints, latest_checkpoint, recover
from foveal.spec import FovealError
from foveal.train import loop, measure, record
from foveal.train.record import RunFolder, read_lines
from run_cases import STEPS, Command, differences, lines, world_config, world_table, write_toml


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def whole(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run; read only."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    loop.start(world_config(tiny_folder), folder)
    return folder


@pytest.fixture
def half(whole: Path, tiny_folder: Path, tmp_path: Path) -> Path:
    """The run after 4 of 6 steps, as a kill between step 5 and its checkpoint leaves it."""
    run = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        save = loop.save_checkpoint

        def killed(folder: Path, name: str, **given: Any) -> Path:
            if name.endswith("6"):
                raise ZeroDivisionError
            return save(folder, name, **given)

        patch.setattr(loop, "save_checkpoint", killed)
        with pytest.raises(ZeroDivisionError):
            loop.start(world_config(tiny_folder), run)
    return run


def resume(run: Path) -> dict[str, Any]:
    return loop.resume(run, config=load(run / "config.toml"))


def test_uninterrupted_run_is_worth_comparing(whole: Path) -> None:
    """Rewards differ, the policy moves, completions change: equality of two runs then says something."""
    steps = [line for line in lines(whole) if line["kind"] == "step"]
    assert [line["step"] for line in steps] == list(range(1, STEPS + 1))
    assert [line["step"] for line in lines(whole) if line["kind"] == "validation"] == [0, 3, 6]
    assert len({line["reward/mean"] for line in steps}) == STEPS
    assert all(line["policy/grad_norm"] > 0 and line["reward/std"] > 0 for line in steps)
    assert [line["policy/lr"] for line in steps] == pytest.approx(
        [1e-3 / 3, 2e-3 / 3, 1e-3, 1e-3, 1e-3, 1e-3]
    )
    versions = {(line["step"], line["policy_version"]) for line in lines(whole, "completions.jsonl")}
    assert versions == {(step, step - 1) for step in range(1, STEPS + 1)}


def test_two_runs_of_one_config_are_equal(whole: Path, tiny_folder: Path, tmp_path: Path) -> None:
    loop.start(world_config(tiny_folder), tmp_path / "again")
    assert differences(tmp_path / "again", whole) == []


def test_another_seed_gives_another_run(whole: Path, tiny_folder: Path, tmp_path: Path) -> None:
    loop.start(world_config(tiny_folder, seed=1, steps=1), tmp_path / "other")
    assert lines(tmp_path / "other")[1]["reward/mean"] != lines(whole)[1]["reward/mean"]


def test_run_goes_on_from_its_newest_checkpoint(half: Path, whole: Path) -> None:
    assert [p.name for p in (half / "checkpoints").glob("step-*")] == ["step-000004"]
    assert lines(half)[-2]["step"] == 6
    resume(half)
    assert differences(half, whole) == []
    events = [line["kind"] for line in lines(half, "events.jsonl")]
    assert events == ["started", "resumed", "finished"]


def test_three_kills_at_random_moments_change_nothing(whole: Path, tiny_folder: Path, tmp_path: Path) -> None:
    config, run = write_toml(tmp_path / "world.toml", world_table(tiny_folder)), tmp_path / "run"
    draw = random.Random(5)
    going = Command("train", str(config), "--out", str(run), folder=tmp_path)
    for start, step in ((1, 1), (2, 2), (3, 4)):
        going.wait_for_step(run, step, start=start)
        time.sleep(draw.random() * 0.04)
        going.send(signal.SIGKILL)
        assert going.wait() == -signal.SIGKILL
        going = Command("train", "--resume", str(run), folder=tmp_path)
    assert going.wait() == 0, going.text()
    assert differences(run, whole) == []
    events = [line["kind"] for line in lines(run, "events.jsonl")]
    assert events == ["started", "resumed", "resumed", "resumed", "finished"]


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["papo", "dapo"])
def test_twenty_kills_in_the_whole_life_of_the_process_change_nothing(
    objective: str, tiny_folder: Path, tmp_path: Path
) -> None:
    """Real processes, killed from their first import to their last line."""
    table = world_table(tiny_folder, steps=12, objective={"type": objective})
    config, run, wanted = write_toml(tmp_path / "world.toml", table), tmp_path / "run", tmp_path / "whole"
    foveal = [sys.executable, "-m", "foveal.cli", "train"]
    paths = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2] / "src")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    began = time.monotonic()
    given: dict[str, Any] = {"env": environment, "cwd": tmp_path, "stderr": subprocess.DEVNULL}
    subprocess.run([*foveal, str(config), "--out", str(wanted)], check=True, **given)
    life = time.monotonic() - began
    draw, kills = random.Random(objective), 0
    while kills < 20:
        begun = (run / "config.toml").is_file()
        words = ["--resume", str(run)] if begun else [str(config), "--out", str(run)]
        process = subprocess.Popen([*foveal, *words], **given)
        try:
            # Mostly late in the first start's life, so that steps, validations and checkpoints are hit.
            assert process.wait(life * draw.uniform(0.1, 1.1)) == 0
            # It ended: the next kills hit a fresh run.
            assert differences(run, wanted) == []
            shutil.rmtree(run)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            kills += 1
    begun = (run / "config.toml").is_file()
    words = ["--resume", str(run)] if begun else [str(config), "--out", str(run)]
    subprocess.run([*foveal, *words], check=True, **given)
    assert differences(run, wanted) == []


def test_dynamic_sampling_goes_on_at_its_place_in_the_data(tiny_folder: Path, tmp_path: Path) -> None:
    """The place in the data is not a multiple of the step where groups are dropped."""
    table = world_table(
        tiny_folder,
        steps=4,
        objective={"type": "run_cases:Halves"},
        sampling={"group_size": 3, "prompts_per_step": 2, "max_new_tokens": 5, "max_refills": 4},
        validation=None,
    )
    table.pop("validation")
    loop.start(load(table), tmp_path / "whole")
    drawn = [line["sampler/groups_drawn_count"] for line in lines(tmp_path / "whole")]
    assert len(set(drawn)) > 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.Run, "_finish", lambda self, folder: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            loop.start(load(table), tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step-000004")
    assert latest_checkpoint(tmp_path / "run" / "checkpoints") is None
    loop.resume(tmp_path / "run", config=load(tmp_path / "run" / "config.toml"))
    assert differences(tmp_path / "run", tmp_path / "whole") == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stop_signal_saves_and_says_how_to_go_on(
    number: signal.Signals, whole: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    config, run = write_toml(tmp_path / "world.toml", world_table(tiny_folder)), tmp_path / "run"
    going = Command("train", str(config), "--out", str(run), folder=tmp_path)
    going.wait_for_step(run, 1)
    going.send(number)
    assert going.wait() == 130
    assert f"everything is saved; go on with: foveal train --resume {run}" in going.text()
    assert "Traceback" not in going.text()
    newest = latest_checkpoint(run / "checkpoints")
    assert newest is not None
    state = json.loads((newest / "state.json").read_text())
    assert state["step"] == max(line["step"] for line in lines(run))
    going = Command("train", "--resume", str(run), folder=tmp_path)
    assert going.wait() == 0
    assert differences(run, whole) == []


def test_resume_of_a_finished_run_says_so_and_changes_nothing(whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file() and p.name != "lock"}
    for _ in range(2):
        going = Command("train", "--resume", str(run), folder=tmp_path)
        assert going.wait() == 0
        assert f"{run} is finished, nothing is left to do" in going.text()
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file() and p.name != "lock"} == before


def test_resuming_twice_is_harmless(half: Path, whole: Path) -> None:
    first = resume(half)
    assert resume(half) == first
    assert differences(half, whole) == []


def test_half_written_checkpoint_is_ignored_and_does_not_push_out_a_whole_one(
    half: Path, whole: Path
) -> None:
    folder = half / "checkpoints"
    shutil.copytree(folder / "step-000004", folder / "step-000099")
    (folder / "step-000099" / "state.json").unlink()
    (folder / "step-000004-copy").mkdir()
    newest = latest_checkpoint(folder)
    assert newest is not None and newest.name == "step-000004"
    clean_checkpoints(folder, keep=1)
    assert latest_checkpoint(folder) == newest
    resume(half)
    assert lines(half) == lines(whole)


def test_what_a_kill_left_half_done_is_gone_after_the_next_checkpoint(half: Path, whole: Path) -> None:
    folder = half / "checkpoints"
    for name in (".step-000006.partial", ".best.partial"):
        shutil.copytree(folder / "step-000004", folder / name)
    (folder / ".step-000006.partial" / "optimizer.pt").write_bytes(b"half")
    resume(half)
    assert differences(half, whole) == []


def test_checkpoint_whose_replacement_was_cut_short_comes_back(half: Path) -> None:
    folder = half / "checkpoints"
    (folder / "best").rename(folder / ".best.former")
    recover(folder)
    assert (folder / "best" / "state.json").is_file()
    shutil.copytree(folder / "best", folder / ".best.former")
    recover(folder)
    assert [p.name for p in folder.glob(".*")] == []


def test_line_that_was_cut_off_is_dropped_even_within_a_letter(half: Path, whole: Path) -> None:
    for name in ("metrics.jsonl", "completions.jsonl"):
        file = half / name
        file.write_bytes(file.read_bytes() + '{"step": 5, "text": "ä'.encode()[:-1])
        assert read_lines(file)[-1]["step"] <= STEPS
    resume(half)
    assert differences(half, whole) == []


def test_lines_keep_separators_that_json_does_not_escape(tmp_path: Path) -> None:
    """Random text holds them; a reader that splits there takes what follows for a cut-off line."""
    file = tmp_path / "lines.jsonl"
    texts = ["a\u2028b", "c\x85d", "e\x0bf\x1cg", "h\u2029", "i\nj"]
    file.write_text("".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts))
    assert [line["text"] for line in read_lines(file)] == texts


def test_checkpoint_that_was_kept_is_the_newest_and_the_best_one(whole: Path) -> None:
    assert sorted(p.name for p in (whole / "checkpoints").iterdir()) == ["best", "step-000006"]
    best = json.loads((whole / "checkpoints" / "best" / "state.json").read_text())["best"]
    assert best == json.loads((whole / "summary.json").read_text())["best"]


class Full:
    """A disk that takes nothing of what ends with a name, from the n-th write on."""

    def __init__(self, name: str, *, after: int) -> None:
        self.name, self.left = name, after

    def check(self, path: object) -> None:
        if str(path).endswith(self.name):
            self.left -= 1
            if self.left < 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


@pytest.fixture
def fill(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    def full(name: str, *, after: int) -> None:
        disk, opened, saved = Full(name, after=after), Path.open, torch.save

        def open_file(self: Path, mode: str = "r", *rest: Any, **given: Any) -> Any:
            if mode[0] in "wax":
                disk.check(self)
            return opened(self, mode, *rest, **given)

        def save(value: object, path: Any, **given: Any) -> None:
            disk.check(path)
            saved(value, path, **given)

        monkeypatch.setattr(Path, "open", open_file)
        monkeypatch.setattr(torch, "save", save)

    yield full


@pytest.mark.parametrize(
    ("name", "after"),
    [("metrics.jsonl", 4), ("completions.jsonl", 3), ("optimizer.pt", 1), ("events.jsonl", 1)],
)
def test_full_disk_is_told_of_and_nothing_finished_is_lost(
    name: str, after: int, fill: Any, whole: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        fill(name, after=after)
        said = r"cannot be written: .*No space left on device.*make room"
        with pytest.raises(FovealError, match=said) as told:
            loop.start(world_config(tiny_folder), run)
        patch.undo()
    assert (" MiB are free there" in str(told.value)) == (name == "optimizer.pt")
    assert not list((run / "checkpoints").glob(".*"))


@pytest.mark.parametrize("name", ["metrics.jsonl", "optimizer.pt"])
def test_run_goes_on_after_a_full_disk(
    name: str, whole: Path, tiny_folder: Path, tmp_path: Path, fill: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    fill(name, after=5 if name == "metrics.jsonl" else 2)
    with pytest.raises(FovealError):
        loop.start(world_config(tiny_folder), run)
    monkeypatch.undo()
    torch.set_num_threads(1)
    resume(run)
    assert differences(run, whole) == []


def test_checkpoint_that_cannot_be_written_leaves_the_former_one(
    half: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = half / "checkpoints"
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}

    def broken(*given: Any, **more: Any) -> None:
        raise RuntimeError("PytorchStreamWriter failed writing file")

    monkeypatch.setattr(checkpoints.torch, "save", broken)
    with pytest.raises(FovealError, match="cannot be written: PytorchStreamWriter"):
        resume(half)
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file() and "best" not in p.parts} == {
        p: data for p, data in before.items() if "best" not in p.parts
    }


def test_second_process_on_a_run_is_refused(half: Path, tmp_path: Path) -> None:
    with_lock = RunFolder.open(half)
    going = Command("train", "--resume", str(half), folder=tmp_path)
    assert going.wait() == 2
    assert f"{half} is being written by another process (process {os.getpid()} on " in going.text()
    with_lock.close()
    RunFolder.open(half).close()


def test_folder_that_holds_a_run_is_refused_before_anything_is_loaded(
    whole: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop.Run, "prepare", lambda *a, **k: 1 / 0)
    with pytest.raises(FovealError, match=r"already holds a run; go on with `foveal train --resume .*--out"):
        loop.start(world_config(tiny_folder), whole)


def test_folder_without_a_run_is_told_of_with_the_run_below_it(whole: Path) -> None:
    with pytest.raises(FovealError, match=r"no run in .*did you mean .*run\?"):
        RunFolder.open(whole.parent)


def test_checkpoint_of_another_model_is_refused(
    half: Path, tied_folder: Path, tmp_path: Path, tiny_folder: Path
) -> None:
    config = world_config(tied_folder)
    (half / "config.toml").write_text(dump(config))
    with pytest.raises(FovealError, match="does not fit the model"):
        resume(half)


def test_pictures_of_problems_with_like_names_have_files_of_their_own() -> None:
    names = ["a/b", "a_b", "a b", "ä/b", "x" * 300, "x" * 301]
    found = [record._file_name(name) for name in names]
    assert len(set(found)) == len(names)
    assert all(len(name) < 100 and name.isascii() for name in found)
    assert record._file_name("plain-1") == "plain-1"


def test_measured_choice_is_reused(half: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for probe in ("_probe", "fastest_path"):
        monkeypatch.setattr(measure, probe, lambda *given, **more: 1 / 0)
    resume(half)
    assert (
        json.loads((half / "measured.json").read_text()).items()
        >= {"threads": 1, "attention": "split", "head": "plain", "decode": "eager"}.items()
    )
