"""Mistakes from Python: one message, and no folder is left behind."""

from pathlib import Path
from typing import Any

import pytest

import foveal
from foveal.api.rows import kept_if_started, write_rows
from foveal.objectives.grpo import GRPO
from foveal.perturbations.occlude import PatchMask
from foveal.rewards.rules import Boxed
from foveal.spec import FovealError

ROW = {"question": "Which?", "answer": "red"}


class Mine(GRPO):
    """Of an importable module."""


MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({}, "no data; expected data="),
    ({"data": "world", "modle": "tiny"}, "unknown key 'modle'; did you mean 'model'"),
    ({"data": "world", "learning_rate": 1e-4}, "unknown key 'learning_rate'; here it is optimizer.lr"),
    ({"data": "world", "optimizer": {"lrr": 1}}, "unknown key 'optimizer.lrr'; did you mean 'lr'"),
    ({"data": "world", "optimizer__lr": "fast"}, "optimizer.lr = 'fast': Input should be a valid number"),
    ({"data": "world", "steps__x": 3}, "unknown key 'steps.x'|steps is|expected a table|steps = "),
    ({"data": "world", "objective": "paop"}, "unknown objective type 'paop'; did you mean 'papo'"),
    ({"data": "world", "objective": 3}, "objective is a int; expected a name such as 'papo'"),
    ({"data": "world", "rewards": [3]}, "a reward is a int; expected a name such as 'boxed'"),
    ({"data": "world", "rewards": ["boxd"]}, "unknown reward type 'boxd'; did you mean 'boxed'"),
    ({"data": "world", "rewards": []}, "no rewards; expected at least one"),
    ({"data": "world", "model": object()}, "model is a object; expected a Hugging Face folder"),
    ({"data": "world", "model": ""}, "model is empty"),
    ({"data": "world", "config": "papo_q"}, "no such config file: papo_q"),
    ({"data": "world", "config": 3}, "config is a int"),
    ({"data": "world", "validation": True}, "validation is True; expected held-out data"),
    ({"data": "world", "validation": {"every": 3}}, "validation has every, but no data"),
    ({"data": ""}, "train data is empty"),
    ({"data": []}, "train holds no rows"),
    ({"data": [3]}, "train: item 0 is a int; expected a path or hub id"),
    ({"data": [ROW, 3]}, "train: item 1 is a int"),
    ({"data": {"question": ["a"]}}, "train data is a dict with question; expected a list of dicts"),
    (
        {"data": (row for row in [ROW])},
        "it is a generator, whose length is not known; make a list",
    ),
    ({"data": [{**ROW, "images": [object()]}]}, "row 0, column 'images-0': a object cannot be written"),
    ({"data": 3}, "train: it is a int, whose length is not known"),
    ({"callbacks": [3]}, "callback 0 is a int; expected a foveal.Callback, or a function"),
    ({"callbacks": 3}, "callbacks is a int; expected a list"),
    (
        {"callbacks": [foveal.Callback]},
        r"callback 0 is the class Callback; expected an object of it: Callback\(\)",
    ),
    ({"out": 3}, "foveal.train: out is of type int; expected a folder"),
    ({"out": ""}, "foveal.train: out is empty"),
    ({"out": "a\0b"}, "cannot hold a NUL character"),
    ({"out": __file__}, "test_api_mistakes.py is a file; expected a folder"),
    ({"train_dataset": [ROW]}, "unknown argument 'train_dataset'; here it is data="),
    ({"data": "world", "reward_funcs": [len]}, "unknown argument 'reward_funcs'; here it is rewards="),
    ({"learning_rate": 1e-4}, "unknown key 'learning_rate'; here it is optimizer.lr"),
    (
        {"data": "world", "config": {"rewards": ["boxed"], "objective": "grpo", "validation": True}},
        "validation = True: expected held-out data",
    ),
    ({"data": [ROW]}, "has no picture|no column for images|images"),
    ({"data": "no_such_file.parquet"}, "no_such_file.parquet"),
    ({"data": "world", "objective": "perception_reward", "validation": False, "steps": 0}, "steps = 0"),
]


@pytest.mark.parametrize(("given", "hint"), MISTAKES, ids=[f"{n}" for n, _ in enumerate(MISTAKES)])
def test_a_mistake_is_one_message_and_leaves_nothing(
    given: dict[str, Any], hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FovealError, match=hint):
        foveal.train(**{"out": tmp_path / "run", "progress": False, **given})
    assert not list(tmp_path.iterdir())


def test_a_folder_that_holds_a_run_or_files_of_mine_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("mine")
    with pytest.raises(FovealError, match="already holds a run"):
        foveal.train(data=[ROW], out=tmp_path, progress=False)
    other = tmp_path / "other"
    other.mkdir()
    (other / "notes.txt").write_text("mine")
    with pytest.raises(FovealError, match="unknown key"):
        foveal.train(data=[ROW], out=other, progress=False, modle=1)
    assert [path.name for path in other.iterdir()] == ["notes.txt"]


def own_files(folder: Path) -> Path:
    """A folder of a person's own data, such as stands in most projects."""
    (folder / "data" / "raw").mkdir(parents=True)
    (folder / "data" / "train.jsonl").write_text('{"question": "Which?", "answer": "red"}\n')
    (folder / "data" / "raw" / "labels.csv").write_text("a,b")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize("linked", [False, True], ids=["folder", "link"])
@pytest.mark.parametrize("in_memory", [False, True], ids=["path", "rows"])
def test_a_failed_start_leaves_my_own_data_folder(linked: bool, in_memory: bool, tmp_path: Path) -> None:
    mine = own_files(tmp_path / "mine")
    project = tmp_path / "project" if linked else mine
    if linked:
        project.mkdir()
        (project / "data").symlink_to(mine / "data")
    before = contents(mine)
    data: Any = [ROW] if in_memory else str(project / "data" / "train.jsonl")
    hint = "data is already there.*choose another out=" if in_memory else "no_such_folder_x"
    with pytest.raises(FovealError, match=hint):
        foveal.train(data=data, model="./no_such_folder_x", out=project, progress=False)
    assert contents(mine) == before
    assert (project / "data").is_symlink() == linked


def test_a_failed_start_takes_its_own_rows_away_and_nothing_else(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "run"
    given: dict[str, Any] = {"data": [ROW], "model": "./no_such_folder_x", "progress": False}
    with pytest.raises(FovealError):
        foveal.train(out=out, **given)
    assert not list(tmp_path.iterdir())
    with pytest.raises(FovealError, match="no_such_folder_x"), kept_if_started(out) as rows:
        write_rows([ROW], rows.make(), name="train")
        (out / "data" / "mine.txt").write_text("mine")
        raise FovealError("no_such_folder_x")
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["mine.txt"]


def test_a_class_that_cannot_be_imported_is_refused_with_the_way_out(tmp_path: Path) -> None:
    class Local(GRPO):
        """Of a function."""

    notebook = type("Mine", (GRPO,), {"__module__": "__main__", "__doc__": "Of a notebook."})
    for objective, home in ((Local(), "a function"), (notebook(), "a notebook or main script")):
        with pytest.raises(FovealError, match=f"is defined in {home}, where a resumed run cannot find it"):
            foveal.train(data="world", objective=objective, out=tmp_path / "run", progress=False, steps=1)
    held = foveal.PAPO(base=Local())
    with pytest.raises(FovealError, match="objective.base: .*Local is defined in a function"):
        foveal.train(data="world", objective=held, out=tmp_path / "run", progress=False, steps=1)
    assert not (tmp_path / "run").exists()


def test_an_instance_is_saved_by_the_path_of_its_class_even_inside_another() -> None:
    from foveal.config import dump, load

    for objective in (Mine(), foveal.PAPO(base=Mine(clip_high=0.5))):
        found = load(
            {
                "data": {"type": "world"},
                "rewards": ["boxed"],
                "objective": objective,
                "perturbations": {"removed": "patch_mask"},
            }
        )
        inner = getattr(found.objective, "base", found.objective)
        assert inner.type == f"{Mine.__module__}:Mine"
        assert f'type = "{Mine.__module__}:Mine"' in dump(found)
        assert type(inner) is Mine


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    for call in (foveal.Run, foveal.resume):
        with pytest.raises(FovealError, match="no run in"):
            call(tmp_path)
        for value, hint in ((None, "path is None"), (5, "path is of type int"), ("", "path is empty")):
            with pytest.raises(FovealError, match=f"{hint}; expected a run folder, or a foveal.Run"):
                call(value)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        ({"k": 0}, "k is 0; expected at least 1"),
        ({"k": "2"}, "k is '2', of type str; expected an integer"),
        ({"k": True}, "k is True, of type bool"),
        ({"problems": 1.5}, "problems is 1.5"),
        ({"model": None}, "model is a NoneType; expected a foveal.Run, a run folder"),
        ({"out": 3}, "out is of type int"),
        ({"config": 3}, "config is a int"),
        ({"num_generations": 2}, "unknown argument 'num_generations'; here it is k="),
        ({"dataset": [ROW]}, "unknown argument 'dataset'; here it is data="),
    ],
)
def test_a_mistake_of_an_evaluation_is_one_message(given: dict[str, Any], hint: str) -> None:
    with pytest.raises(FovealError, match=hint):
        foveal.evaluate(**{"model": "tiny", "data": "world", "progress": False, **given})


def test_fields_of_an_object_are_told_as_those_of_a_config() -> None:
    for call, hint in (
        (lambda: foveal.PAPO(kl_prcp_coeff=0.1), "objective PAPO: unknown key 'kl_prcp_coeff'; did you mean"),  # type: ignore[call-arg]
        (
            lambda: foveal.GRPO(clip_high="much"),
            "objective GRPO: clip_high = 'much': Input should be a valid",
        ),  # type: ignore[arg-type]
        (lambda: Boxed(wieght=1), "reward Boxed: unknown key 'wieght'; did you mean 'weight'"),  # type: ignore[call-arg]
        (lambda: PatchMask(ratio=2), "perturbation PatchMask: ratio = 2: Input should be less"),
    ):
        with pytest.raises(foveal.ConfigError, match=hint):
            call()


def test_one_callback_is_a_list_of_one() -> None:
    from foveal.api.arguments import callbacks_of

    assert callbacks_of(print, name="x") == [print] == callbacks_of((print,), name="x")
    assert callbacks_of(None, name="x") == []


def test_one_reward_is_a_list_of_one_and_a_validation_is_a_table() -> None:
    from foveal.config import load

    for reward in ("boxed", {"type": "boxed"}, Boxed()):
        found = load({"data": {"type": "world"}, "objective": "grpo", "rewards": reward})
        assert found.rewards == (Boxed(),)
    assert load(None, data="world", overrides=["rewards=boxed"]).rewards == (Boxed(),)
    for word in ("true", "3", "held_out.parquet"):
        with pytest.raises(
            FovealError, match=r"validation = .*: expected held-out data, as in validation.data"
        ):
            load(None, data="world", overrides=[f"validation={word}"])


def test_names_are_loaded_when_they_are_used() -> None:
    assert {"train", "evaluate", "resume", "losses", "PAPO", "Run"} <= set(dir(foveal))
    assert foveal.losses.grpo.__name__ == "grpo"
    with pytest.raises(AttributeError, match="has no attribute 'trian'"):
        foveal.trian  # noqa: B018


def test_train_is_a_package_and_a_function() -> None:
    import inspect

    from foveal.train.loop import start

    assert callable(start)
    assert list(inspect.signature(foveal.train).parameters)[:3] == ["data", "model", "objective"]
    assert "Train a model, and return the run." in str(foveal.train.__doc__)
