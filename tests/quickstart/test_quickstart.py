"""`foveal quickstart`: its plan, its refusals, its results, and that a stop of any kind loses nothing."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from foveal.cli import main
from foveal.jobs.folder import check_model, forget_broken
from foveal.jobs.pool import run_jobs
from foveal.quickstart.folder import SHORTCUT_COLUMNS, claim, whole
from foveal.quickstart.job import StudyJob
from foveal.quickstart.results import command
from foveal.quickstart.study import ARMS, _plan
from foveal.spec import FovealError

SETTINGS = {"study": "plain", "seeds": 1, "steps": 2, "problems": 6}
PLAIN_COLUMNS = (
    "method seed accuracy accuracy_other_picture perception_error_fraction format kl_prcp_median cpu_seconds "
    "steps problems"
).split()
COLUMNS = (
    "method seed accuracy_wrong accuracy_random accuracy_right follow describes accuracy_other_picture "
    "perception_error_fraction cpu_seconds steps problems"
).split()


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


class Quickstart:
    """The command in a process group of its own, as a terminal would start it."""

    def __init__(self, folder: Path, *words: str) -> None:
        self.log = folder / "said.txt"
        with self.log.open("w") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "foveal.cli", "quickstart", *words],
                cwd=folder,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait(self, limit: float = 300) -> tuple[int, str]:
        """Exit status and all that was said."""
        try:
            return self.process.wait(limit), self.log.read_text()
        finally:
            self.process.kill()


def metrics(run: Path) -> list[dict[str, Any]]:
    file = run / "metrics.jsonl"
    return [json.loads(line) for line in file.read_text().split("\n")[:-1]] if file.is_file() else []


def until(condition: Callable[[], bool], limit: float = 120) -> None:
    end = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def workers(out: Path) -> list[str]:
    """Command lines of worker processes that work into a folder."""
    lines = subprocess.run(["ps", "-wwweo", "args"], capture_output=True, text=True, check=True).stdout
    return [line for line in lines.splitlines() if "quickstart.worker" in line and str(out) in line]


def job(folder: Path, name: str = "grpo-0", **changes: Any) -> StudyJob:
    found = StudyJob(
        name=name,
        method="grpo",
        seed=0,
        config="quickstart_grpo",
        overrides=(),
        steps=2,
        problems=6,
        folder=str(folder),
    )
    return replace(found, **changes)


def test_plan_starts_with_the_cold_start_and_goes_seed_by_seed(here: Path) -> None:
    plan = _plan(here, "plain", model=None, seeds=2, steps=5, problems=6)
    names = ["cold_start", "grpo-0", "papo-0", "cppo-0", "grpo-1", "papo-1", "cppo-1"]
    assert [one.name for one in plan] == names
    assert [one.steps for one in plan] == [0, 5, 5, 5, 5, 5, 5]
    assert not any(one.overrides for one in plan)


def test_plan_gives_every_job_the_model_and_the_methods_of_the_study(here: Path) -> None:
    plan = _plan(here, "shortcut", model="m", seeds=1, steps=5, problems=6)
    assert [one.method for one in plan[1:]] == list(ARMS["shortcut"]) == ["grpo", "cppo", "papo"]
    assert [one.config for one in plan[1:]] == ["shortcut_grpo", "shortcut_cppo", "shortcut_papo"]
    assert all(one.shortcut and one.overrides == ("model.path=m",) for one in plan)


def test_a_job_survives_its_command_line(here: Path) -> None:
    wanted = job(here, overrides=("a=1", "b=2"), modes=("wrong",))
    assert StudyJob.from_json(wanted.to_json()) == wanted


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--jobs", "0"], "--jobs 0: expected at least 1"),
        (["--seeds", "0"], "--seeds 0: expected at least 1"),
        (["--steps", "0"], "--steps 0: expected at least 1"),
        (["--problems", "1"], "--problems 1: expected at least 2"),
        (["--model", "nope"], "--model nope: no such folder"),
        (["--model", "runs/nope"], "--model runs/nope: no such folder"),
        (["--model", "empty"], "--model empty: no config.json in it"),
        (["--out", "file"], "--out file cannot be used as a folder"),
        (["--out", "file/below"], "--out file/below cannot be used as a folder"),
        (["--out", "/proc/q"], "--out /proc/q cannot be used as a folder"),
        (["--out", "broken"], "broken/study.json is broken"),
    ],
)
def test_a_mistake_is_one_message_and_writes_nothing(
    here: Path, words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in ("empty", "runs", "broken"):
        (here / folder).mkdir()
    (here / "file").write_text("")
    (here / "broken" / "study.json").write_text('{"study"')
    before = sorted(here.rglob("*"))
    assert main(["quickstart", *words]) == 2
    said = capsys.readouterr().err
    assert said.startswith("foveal: ") and told in said and said.count("\n") == 1
    assert sorted(here.rglob("*")) == before


def test_shipped_models_and_hub_ids_are_taken_as_models() -> None:
    for model in ("tiny", "tiny-text-prior", "Qwen/Qwen2.5-VL-3B-Instruct"):
        check_model(model, where="--model")


def test_a_folder_belongs_to_its_study_once_something_was_made(here: Path) -> None:
    claim(here / "out", SETTINGS)
    claim(here / "out", SETTINGS | {"seeds": 2})  # the first one made nothing
    (here / "out" / "runs" / "grpo-0").mkdir(parents=True)
    claim(here / "out", SETTINGS | {"seeds": 2})
    with pytest.raises(FovealError, match="holds a study with study plain, seeds 2, .* not study plain, see"):
        claim(here / "out", SETTINGS)


def test_each_study_has_a_folder_of_its_own_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    from foveal.quickstart import study

    seen = []
    monkeypatch.setattr(study, "claim", lambda out, settings: None)
    monkeypatch.setattr(study, "run_jobs", lambda plan, **rest: seen.append(plan[0].folder))
    monkeypatch.setattr(study, "_finish", lambda out, *rest: out / "report.html")
    for words in ([], ["--study", "plain"], ["--out", "x"]):
        assert main(["quickstart", *words]) == 0
    assert seen == ["runs/quickstart", "runs/quickstart_plain", "x"]


def test_the_command_of_the_notes_names_a_folder_that_is_not_the_default() -> None:
    plain = "foveal quickstart --study plain --seeds 1 --steps 2 --problems 6"
    assert command(Path("runs/quickstart_plain"), SETTINGS) == plain
    assert command(Path("my runs"), SETTINGS) == f"{plain} --out 'my runs'"
    assert command(Path("runs/quickstart"), SETTINGS).endswith("--out runs/quickstart")
    shortcut = SETTINGS | {"study": "shortcut"}
    assert command(Path("runs/quickstart"), shortcut) == plain.replace("plain", "shortcut")


def test_a_finished_job_without_whole_results_is_done_again(here: Path) -> None:
    (here / "jobs").mkdir()
    (here / "looks").mkdir()
    good, unlooked = (job(here, name, shortcut=True, modes=()) for name in ("whole", "unlooked"))
    for one in (good, unlooked):
        one.done_file.write_text(json.dumps(dict.fromkeys([*SHORTCUT_COLUMNS, "cpu_seconds"], 0.5)))
    (here / "looks" / "whole.json").write_text("{}")
    cut = job(here, "cut", shortcut=True)
    cut.done_file.write_text('{"accuracy_ran')
    missing = job(here, "missing")
    missing.done_file.write_text(json.dumps({"kl_prcp_median": 0.1, "cpu_seconds": 1.0}))
    plan = [good, unlooked, cut, missing, job(here, "not begun")]
    assert forget_broken(plan, whole=whole) == ["unlooked", "cut", "missing"]
    assert good.done_file.exists() and not cut.done_file.exists() and not missing.done_file.exists()


def check_rows(rows: list[dict[str, Any]], methods: list[str], columns: list[str]) -> None:
    wanted = [("cold_start", None, 0), *((method, 0, 2) for method in methods)]
    assert [(r["method"], r["seed"], r["steps"]) for r in rows] == wanted
    for row in rows:
        assert list(row) == columns and row["problems"] == 6
        shares = [name for name in columns[2:-3] if name != "kl_prcp_median"]
        assert all(0.0 <= row[name] <= 1.0 for name in shares)
        assert (row["cpu_seconds"] > 0) == (row["steps"] > 0)


@pytest.mark.slow
def test_end_to_end_writes_summary_and_page_and_mends_lost_results(here: Path) -> None:
    words = ("--steps", "2", "--problems", "6", "--seeds", "1", "--jobs", "2")
    code, said = Quickstart(here, *words).wait()
    assert code == 0, said
    out = here / "runs" / "quickstart"
    summary = json.loads((out / "summary.json").read_text())
    assert summary["schema_version"] == 2
    rows = summary["rows"]
    check_rows(rows, ["grpo", "cppo", "papo"], COLUMNS)
    assert "Fell for the word" in said and "foveal: " not in said
    page = (out / "report.html").read_text()
    assert "foveal quickstart --study shortcut --seeds 1 --steps 2 --problems 6" in page
    assert page.count("<article") == 6 and "the word stands for" in page
    items = json.loads((out / "gallery.json").read_text())
    assert all(set(item["after"]) == {"grpo", "cppo", "papo"} and item["word"] for item in items)
    (out / "words" / "cold_start-wrong.jsonl").unlink()
    code, said = Quickstart(here, *words).wait()
    assert code == 0 and "results of cold_start are not whole and are made again" in said, said
    assert json.loads((out / "summary.json").read_text())["rows"] == rows


@pytest.mark.slow
def test_the_plain_study_keeps_its_summary_and_its_page(here: Path) -> None:
    words = ("--study", "plain", "--steps", "2", "--problems", "6", "--seeds", "1", "--jobs", "2")
    code, said = Quickstart(here, *words).wait()
    assert code == 0, said
    out = here / "runs" / "quickstart_plain"
    summary = json.loads((out / "summary.json").read_text())
    assert summary["schema_version"] == 1
    check_rows(summary["rows"], ["grpo", "papo", "cppo"], PLAIN_COLUMNS)
    page = (out / "report.html").read_text()
    assert "foveal quickstart --study plain --seeds 1 --steps 2 --problems 6" in page


@pytest.mark.slow
def test_ctrl_c_sigterm_and_kill_of_the_parent_lose_no_step(here: Path) -> None:
    words = ("--steps", "12", "--problems", "6", "--seeds", "1", "--jobs", "2", "--out", str(here / "out"))
    runs = [here / "out" / "runs" / name for name in ("grpo-0", "cppo-0")]
    logs = here / "out" / "jobs"
    for how, step in (("ctrl-c", 1), ("term", 3), ("kill", 5)):
        started = Quickstart(here, *words)
        until(lambda s=step: all(len(metrics(run)) >= s for run in runs))  # type: ignore[misc]
        pid = started.process.pid
        if how == "ctrl-c":
            os.killpg(pid, signal.SIGINT)  # as the terminal does: to the whole group
        else:
            started.process.send_signal(signal.SIGTERM if how == "term" else signal.SIGKILL)
        code, said = started.wait(60)
        if how == "kill":
            until(lambda: not workers(here / "out"), 60)
        else:
            assert code == 130, said
            assert said.endswith("foveal: stopped; everything is saved; the same command goes on\n"), said
            assert not workers(here / "out")
        assert "Traceback" not in said + "".join(f.read_text() for f in logs.glob("*.log"))
        for run in runs:
            saved = sorted(p.name for p in (run / "checkpoints").glob("step-*"))
            assert saved[-1] == f"step-{metrics(run)[-1]['step']:06d}", (how, saved)
    code, said = Quickstart(here, *words).wait()
    assert code == 0, said
    for run in runs:
        assert [line["step"] for line in metrics(run)] == list(range(1, 13))


def test_a_failed_job_is_told_with_the_end_of_its_log(here: Path) -> None:
    from foveal.console import Console

    lost = job(here, overrides=("stepz=3",))
    with pytest.raises(FovealError, match=r"^grpo-0 ended with status 2 [^\n]*\n[^\n]*stepz"):
        run_jobs([lost], at_once=1, console=Console(quiet=True))
