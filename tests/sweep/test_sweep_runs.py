"""`foveal sweep` end to end: results, what is missing is done again, failures, refusals, kills."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from foveal.cli import main
from foveal.console import Console
from foveal.jobs.job import Job
from foveal.jobs.pool import Failure, run_jobs
from foveal.spec import FovealError
from foveal.sweep import command
from foveal.sweep.plan import SweepJob
from foveal.sweep.worker import work
from run_cases import differences, world_table, write_toml

GRID = ("--set", "objective.kl_prcp_coef=0,0.5")


@dataclass(frozen=True, kw_only=True)
class Fine(Job):
    """Ends with status 0."""

    worker: ClassVar[str] = "this"


@dataclass(frozen=True, kw_only=True)
class Lost(Job):
    """Ends with another status: its argument is no file."""

    worker: ClassVar[str] = "json.tool"


def job(kind: type[Job], folder: Path, name: str) -> Job:
    return kind(
        name=name,
        method="m",
        seed=0,
        config="quickstart_grpo",
        overrides=(),
        steps=2,
        problems=6,
        folder=str(folder),
    )


def write_config(folder: Path, model: Path, **changes: Any) -> Path:
    rewards = [{"type": "boxed", "weight": 0.9}, {"type": "format", "weight": 0.1}]
    table = world_table(model, steps=2, rewards=rewards, **changes)
    return write_toml(folder / "own.toml", table)


def in_process(runs: Sequence[SweepJob], **rest: Any) -> list[Failure]:
    """What the pool does, without processes, whose imports take longer than the runs."""
    for one in runs:
        if not one.done_file.is_file():
            one.done_file.parent.mkdir(parents=True, exist_ok=True)
            work(one, asked=threading.Event())
            rest["finished"](one)
    return []


@pytest.fixture(autouse=True, scope="module")
def without_processes() -> Iterator[None]:
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "run_jobs", in_process)
        yield


@pytest.fixture(scope="module")
def finished(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of two values and one seed, two steps each, run to its end; read only."""
    folder = tmp_path_factory.mktemp("sweep")
    config = write_config(folder, tiny_folder)
    out = folder / "out"
    assert main(["sweep", str(config), *GRID, *words(out)]) == 0
    return out


def words(out: Path) -> list[str]:
    return ["--seeds", "1", "--problems", "4", "--jobs", "2", "--out", str(out)]


def test_a_finished_sweep_has_a_row_a_run_and_a_page(finished: Path) -> None:
    found = json.loads((finished / "sweep.json").read_text())
    assert [(run["arm"], run["seed"], run["steps"]) for run in found["runs"]] == [
        ("kl_prcp_coef-0", 0, 2),
        ("kl_prcp_coef-0.5", 0, 2),
    ]
    assert found["runs"][1]["overrides"] == ["objective.kl_prcp_coef=0.5", "seed=0"]
    for run in found["runs"]:
        assert run["finished"] and run["failure"] is None and run["guard"] == []
        assert 0 <= run["accuracy"] <= 1 and run["seconds"] > 0
        assert (finished / run["folder"] / "metrics.jsonl").is_file()
    assert "kl_prcp/mean" in found["runs"][1]["last"] and "kl_prcp/mean" not in found["runs"][0]["last"]
    assert [(pair["a"], pair["b"]) for pair in found["comparisons"]["pairs"]][-1] == (
        "kl_prcp_coef-0",
        "kl_prcp_coef-0.5",
    )
    assert "no interval over seeds" in (finished / "report.html").read_text()


def test_the_same_command_does_only_what_is_not_whole(
    finished: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = json.loads((finished / "sweep.json").read_text())
    (finished / "evaluations" / "kl_prcp_coef-0.5-seed0.jsonl").unlink()
    assert main(["sweep", str(finished.parent / "own.toml"), *GRID, *words(finished)]) == 0
    said = capfd.readouterr()
    assert "results of kl_prcp_coef-0.5-seed0 are not whole" in said.err and "1 of 3 runs to do" in said.err
    after = json.loads((finished / "sweep.json").read_text())
    for found in (before, after):
        for run in found["runs"]:
            run.pop("seconds")
    assert after == before
    assert "one seed: no interval over seeds" in said.out and "before training" in said.out


def test_a_dry_run_of_a_finished_sweep_tells_its_time_and_writes_nothing(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted((p, p.stat().st_mtime_ns) for p in finished.rglob("*"))
    sets = ("--set", "objective.kl_prcp_coef=0,0.5,0.7")
    assert main(["sweep", str(finished.parent / "own.toml"), *sets, *words(finished), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "done" in said and "to do" in said and "for the other 1, 2 at a time" in said
    assert sorted((p, p.stat().st_mtime_ns) for p in finished.rglob("*")) == before


def test_a_dry_run_of_a_new_sweep_does_not_know_its_time(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_config(tmp_path, tiny_folder)
    assert main(["sweep", str(config), *GRID, *words(tmp_path / "new"), "--dry-run"]) == 0
    assert "how long is not known until the first one is finished" in capsys.readouterr().out
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        (["optimizer.lr=1e-5"], "another config: optimizer.lr was 0.001, now 1e-05; choose another --out"),
        (["--steps", "3"], "another config: steps was 2, now 3"),
        (["--problems", "5"], "a sweep over 4 held-out problems, not 5; pass --problems 4"),
    ],
)
def test_a_changed_config_is_refused_in_a_folder_in_use(
    finished: Path, changed: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (finished / "sweep_plan.json").read_text()
    asked = ["sweep", str(finished.parent / "own.toml"), *GRID, *words(finished), *changed]
    assert main(asked) == 2
    said = capsys.readouterr().err
    assert told in said and "Traceback" not in said
    assert (finished / "sweep_plan.json").read_text() == before


@pytest.mark.parametrize(
    ("asked", "seeds", "told"),
    [
        (
            ("--set", "objective.kl_prcp_coef=0"),
            1,
            "also holds the arms kl_prcp_coef-0.5, which",
        ),
        (GRID, 2, "holds 2 seeds, and 1 would leave some out; pass --seeds 2 or more"),
    ],
)
def test_a_call_that_would_leave_finished_runs_out_is_refused(
    finished: Path,
    tmp_path: Path,
    asked: tuple[str, ...],
    seeds: int,
    told: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = shutil.copytree(finished, tmp_path / "out")
    plan = json.loads((out / "sweep_plan.json").read_text())
    (out / "sweep_plan.json").write_text(json.dumps(plan | {"seeds": seeds}))
    before = (out / "sweep.json").read_text()
    assert main(["sweep", str(finished.parent / "own.toml"), *words(out), *asked]) == 2
    assert told in capsys.readouterr().err
    assert (out / "sweep.json").read_text() == before


def test_report_makes_the_page_of_a_sweep_again(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (finished / "report.html").unlink()
    assert main(["report", str(finished)]) == 0
    assert (finished / "report.html").is_file()


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["--set", "objective.kl_prcp_coef=0,x"], "arm kl_prcp_coef-x: "),
        (["--set", "objective.kl_prcp_coef=0", "--seeds", "0"], "--seeds 0: expected at least 1"),
        ([], "nothing is varied"),
        (["--set", "data.size=3,4", "--problems", "20000"], "arm size-3: the held-out data has 10000"),
    ],
)
def test_a_mistake_is_told_before_anything_is_written(
    tiny_folder: Path, tmp_path: Path, given: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_config(tmp_path, tiny_folder)
    assert main(["sweep", str(config), "--out", str(tmp_path / "new"), *given]) == 2
    said = capsys.readouterr().err
    assert said.startswith("foveal: ") and told in said and "Traceback" not in said
    assert not (tmp_path / "new").exists()


def test_a_failed_job_leaves_the_others_going(tmp_path: Path) -> None:
    jobs = [job(Lost, tmp_path, "lost"), job(Fine, tmp_path, "first"), job(Fine, tmp_path, "second")]
    ended: list[str] = []
    quiet = Console(quiet=True)
    failures = run_jobs(
        jobs, at_once=1, console=quiet, keep_going=True, finished=lambda one: ended.append(one.name)
    )
    assert [one.job.name for one in failures] == ["lost"] and ended == ["first", "second"]
    assert failures[0].reason.startswith("lost ended with status ")
    with pytest.raises(FovealError, match="lost ended with status"):
        run_jobs(jobs, at_once=1, console=quiet)


def test_failed_runs_are_counted_at_the_end_with_a_status_of_their_own(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def lose_one(runs: list[Job], **rest: Any) -> list[Failure]:
        return [Failure(job=runs[-1], reason="out of memory <b>")]

    monkeypatch.setattr(command, "run_jobs", lose_one)
    assert main(["sweep", str(finished.parent / "own.toml"), *GRID, *words(finished)]) == 1
    assert "1 of 3 runs failed: kl_prcp_coef-0.5-seed0" in capsys.readouterr().err
    page = (finished / "report.html").read_text()
    assert "1 runs failed" in page and "out of memory &lt;b&gt;" in page


def until(condition: Callable[[], bool], limit: float = 120) -> None:
    end = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def workers(out: Path) -> list[str]:
    lines = subprocess.run(["ps", "-wwweo", "args"], capture_output=True, text=True, check=True).stdout
    return [line for line in lines.splitlines() if "sweep.worker" in line and str(out) in line]


@pytest.mark.slow
def test_a_killed_and_an_interrupted_sweep_end_like_an_uninterrupted_one(
    tiny_folder: Path, tmp_path: Path
) -> None:
    config = write_config(tmp_path, tiny_folder, checkpoint={"every": 1})
    tail = [str(config), *GRID, "--steps", "12", "--seeds", "1", "--problems", "4", "--jobs", "2"]

    def start(out: str) -> "subprocess.Popen[bytes]":
        line = [sys.executable, "-m", "foveal.cli", "sweep", *tail, "--out", out]
        quiet = subprocess.DEVNULL
        return subprocess.Popen(line, cwd=tmp_path, start_new_session=True, stdout=quiet, stderr=quiet)

    def steps() -> int:
        file = tmp_path / "cut" / "runs" / "kl_prcp_coef-0.5-seed0" / "metrics.jsonl"
        return file.read_bytes().count(b'"kind": "step"') if file.is_file() else 0

    assert start("whole").wait(300) == 0
    process = start("cut")
    until(lambda: steps() >= 2)
    process.kill()
    process.wait(60)
    until(lambda: not workers(Path("cut")))
    process, reached = start("cut"), steps()
    until(lambda: steps() >= min(12, reached + 2))
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(60) in (0, 130) and not workers(Path("cut"))
    assert start("cut").wait(300) == 0
    for name in ("kl_prcp_coef-0-seed0", "kl_prcp_coef-0.5-seed0"):
        assert differences(tmp_path / "cut" / "runs" / name, tmp_path / "whole" / "runs" / name) == []
    rows = []
    for out in ("whole", "cut"):
        found = json.loads((tmp_path / out / "sweep.json").read_text())
        rows.append([{k: v for k, v in run.items() if "seconds" not in k} for run in found["runs"]])
    assert rows[0] == rows[1]
