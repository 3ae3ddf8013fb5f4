"""Runs from Python, as a newcomer would start them: rows in memory, functions as rewards, callbacks."""

import json
import os
import re
import shutil
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw

import foveal
from foveal.api.rows import fingerprint, write_rows
from foveal.spec import FovealError
from run_cases import Letters, differences

SMALL: dict[str, Any] = {
    "steps": 2,
    "threads": 1,
    "model__attention": "split",
    "sampling": {"group_size": 2, "prompts_per_step": 2, "max_new_tokens": 5},
    "optimizer": {"lr": 1e-3},
    "progress": False,
}


def picture(colour: str) -> Image.Image:
    image = Image.new("RGB", (56, 56), "white")
    ImageDraw.Draw(image).ellipse((10, 10, 46, 46), fill=colour)
    return image


def rows(count: int = 4) -> list[dict[str, Any]]:
    colours = ("red", "blue", "green", "black")
    return [
        {"question": f"{n}: Which colour is the circle?", "images": [picture(c)], "answer": c}
        for n, c in enumerate(colours[:count])
    ]


def letters(problem: foveal.Problem, text: str) -> float:
    """The share of letters, by a function that this module has and a notebook would have."""
    return sum(letter.isalpha() for letter in text) / max(1, len(text))


def notebook(name: str = "letters") -> Any:
    """The function as a notebook defines it: without an import path."""
    space: dict[str, Any] = {"__name__": "__main__"}
    exec(  # noqa: S102
        f"def {name}(problem, text):\n"
        "    return sum(letter.isalpha() for letter in text) / max(1, len(text))\n",
        space,
    )
    return space[name]


@pytest.fixture(scope="module")
def done(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> foveal.Run:
    return foveal.train(
        data=rows(),
        model=tiny_folder,
        objective="papo",
        rewards=[notebook(), "boxed"],
        validation=rows(2),
        out=tmp_path_factory.mktemp("runs") / "first",
        **SMALL,
    )


def test_metrics_and_completions_are_tables(done: foveal.Run) -> None:
    assert done.metrics["step"].tolist() == [1, 2]
    columns = set(done.metrics.columns)
    assert {"reward/mean", "reward/boxed", "kl_prcp/mean", "policy/lr"} <= columns
    assert {"reward/letters", "reward/python"} & columns
    assert done.validations["step"].tolist() == [0, 2]
    assert len(done.completions) == 8
    assert set(done.completions["answer"]) <= {"red", "blue", "green", "black"}
    assert (done.step, done.finished) == (2, True)
    assert "2 steps, finished, reward" in repr(done)


def test_the_model_is_a_folder_and_loads(done: foveal.Run) -> None:
    assert (done.model / "config.json").is_file()
    assert done.best_model is not None and (done.best_model / "config.json").is_file()
    assert type(done.policy().model).__name__ == "Qwen2_5_VLForConditionalGeneration"


def test_a_run_is_evaluated_on_rows_and_on_its_own_data(done: foveal.Run, tmp_path: Path) -> None:
    found = done.evaluate(rows(2), other_picture=False, progress=False, out=tmp_path)
    assert [record.answer for record in found.records] == ["red", "blue"]
    (file,) = tmp_path.glob("*.json")
    assert len(list(tmp_path.glob("*.jsonl"))) == 1
    data = json.loads(file.read_text())["data"]
    assert re.fullmatch(r"in memory, 2 rows, sha256 [0-9a-f]{16}", data["path"])
    sampled = done.evaluate(k=3, problems=2, progress=False, sampling={"max_new_tokens": 3})
    assert (sampled.k, len(sampled.records), sampled.max_new_tokens) == (3, 2, 3)
    again = foveal.evaluate(done.path, rows(2), rewards=["boxed"], other_picture=False, progress=False)
    assert [r.texts for r in again.records] == [r.texts for r in found.records]
    assert again.data["path"] == data["path"]


def test_rows_in_memory_are_named_by_what_they_hold(tmp_path: Path) -> None:
    names = []
    for index, given in enumerate((rows(2), rows(2), rows(3)[1:])):
        write_rows(given, tmp_path / str(index), name="evaluation")
        names.append(fingerprint(tmp_path / str(index)))
    assert names[0] == names[1] != names[2]
    assert names[0].startswith("in memory, 2 rows, sha256 ")


def test_an_evaluation_names_files_from_the_root_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from foveal.config import load
    from foveal.train.assess import _data_of, _placed

    monkeypatch.chdir(tmp_path)
    Path("rows.jsonl").write_text("")
    assert _data_of(load(None, data="rows.jsonl"))["path"] == str(tmp_path / "rows.jsonl")
    assert [_placed("tiny"), _placed("Qwen/Qwen2.5-VL-3B-Instruct")] == [
        "tiny",
        "Qwen/Qwen2.5-VL-3B-Instruct",
    ]


@pytest.mark.slow
def test_a_report_is_written(done: foveal.Run) -> None:
    assert done.report().read_text().startswith("<!")


def test_rows_of_the_run_are_what_was_given(done: foveal.Run) -> None:
    problems = done.config.data.load()
    assert [problem.answer for problem in problems] == ["red", "blue", "green", "black"]
    assert problems[1].images[0].tobytes() == picture("blue").tobytes()
    assert problems[0].question.startswith("<image>0: Which colour is the circle?")


def test_a_finished_run_is_left_as_it_is(done: foveal.Run) -> None:
    before = (done.path / "metrics.jsonl").read_bytes()
    again = foveal.resume(done.path, rewards=[notebook()], progress=False)
    assert again.finished and (done.path / "metrics.jsonl").read_bytes() == before


def test_a_function_of_a_notebook_is_asked_for_by_its_name(done: foveal.Run) -> None:
    with pytest.raises(FovealError, match=r"reward 'letters' was a function.*rewards=\[letters\]"):
        foveal.resume(done.path, progress=False)
    with pytest.raises(FovealError, match=r"rewards=\[letters\], to foveal.resume as to foveal.evaluate"):
        foveal.Run(done.path).evaluate(rows(1), progress=False)


def test_the_config_of_a_run_is_read_without_the_functions_of_its_notebook(done: foveal.Run) -> None:
    found = foveal.Run(done.path).config
    assert (found.steps, found.objective.type, len(found.rewards)) == (2, "papo", 2)
    assert found.rewards[0].name == "letters"  # type: ignore[attr-defined]
    with pytest.raises(FovealError, match="reward 'letters' was a function of the script or notebook"):
        found.rewards[0](done.config.data.load()[0], "text")


def test_a_moved_run_finds_its_rows(done: foveal.Run, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    shutil.copytree(done.path, moved)
    lines = (moved / "config.toml").read_text().replace(str(done.path), str(tmp_path / "gone"))
    (moved / "config.toml").write_text(lines)
    found = foveal.evaluate(moved, rewards="boxed", problems=2, progress=False)
    assert len(found.records) == 2


class Stops(foveal.Callback):
    """Ends the run after its first step, and keeps what it was told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def on_start(self, config: Any, step: int, folder: Path) -> None:
        self.told.append(f"start {step}")

    def on_step(self, metrics: Mapping[str, Any]) -> Any:
        self.told.append(f"step {metrics['step']}")
        return "stop"

    def on_validation(self, metrics: Mapping[str, Any]) -> None:
        self.told.append(f"validation {metrics['step']}")

    def on_message(self, text: str) -> None:
        self.told.append(text)

    def on_end(self, folder: Path) -> None:
        self.told.append("end")


def test_a_run_that_a_callback_stopped_goes_on_to_the_same_end(
    done: foveal.Run, tiny_folder: Path, tmp_path: Path
) -> None:
    """Stopped, moved to another process's state, resumed: the same lines as the run that was not stopped."""
    heard = Stops()
    seen: list[float] = []
    half = foveal.train(
        data=rows(),
        model=tiny_folder,
        objective="papo",
        rewards=[notebook(), "boxed"],
        validation=rows(2),
        out=tmp_path / "half",
        callbacks=[heard, lambda metrics: seen.append(metrics["reward/mean"])],
        **SMALL,
    )
    assert (half.finished, half.step, len(seen)) == (False, 1, 1)
    words = [word for word in heard.told if word in ("start 0", "step 1", "step 2", "validation 0", "end")]
    assert words == ["start 0", "validation 0", "step 1", "end"]
    assert any("everything is saved" in word for word in heard.told)
    whole = foveal.resume(half, rewards=[notebook()], progress=False)
    assert whole.finished
    assert [
        d for d in differences(whole.path, done.path) if "report" not in d and "step-000001" not in d
    ] == []


def test_objects_and_tables_are_rewards_and_objectives_and_progress_is_told_on_stderr(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = {"steps": 1, "progress": True}
    small["sampling"] = {"group_size": 2, "prompts_per_step": 1, "max_new_tokens": 3}
    run = foveal.train(
        data=[foveal.Problem(id="a", question="<image>Which?", images=(picture("red"),), answer="red")] * 1,
        model=str(tiny_folder),
        objective=foveal.CPPO(base=foveal.GRPO(clip_high=0.3)),
        rewards=[{"type": "boxed", "weight": 0.5}, Letters(weight=0.1)],
        out=tmp_path / "run",
        **(SMALL | small),
    )
    said = capsys.readouterr()
    assert said.out == ""
    assert "cppo needs the view 'preserved': added" in said.err
    assert "training: cppo on" in said.err and "step 1/1" in said.err
    again = foveal.Run(run.path).config
    assert (again.objective.type, again.rewards[1].type) == ("cppo", "run_cases:Letters")
    assert again.objective.base.clip_high == 0.3  # type: ignore[attr-defined]
    problem = again.data.load()[0]
    assert (problem.id, problem.question, problem.answer) == ("a", "<image>Which?", "red")
    assert json.loads((run.path / "manifest.json").read_text())["import_paths"]


def test_a_run_outlives_an_error_of_a_callback_and_ctrl_c(tiny_folder: Path, tmp_path: Path) -> None:
    """The error is the callback's own; Ctrl-C saves, and says how to go on from Python."""
    with pytest.raises(ZeroDivisionError):
        foveal.train(
            data=rows(2),
            model=tiny_folder,
            objective="grpo",
            out=tmp_path / "run",
            callbacks=lambda metrics: 1 / 0,
            **SMALL,
        )
    with pytest.raises(foveal.Interrupted, match=r"everything is saved.*foveal\.resume\("):
        foveal.resume(
            tmp_path / "run",
            callbacks=[lambda metrics: os.kill(os.getpid(), signal.SIGINT)],
            progress=False,
        )
    assert foveal.Run(tmp_path / "run").step == 1
    assert foveal.resume(tmp_path / "run", progress=False).finished
