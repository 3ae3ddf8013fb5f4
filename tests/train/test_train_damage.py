"""Going on with damaged files, and from another directory: told of in words, or simply done."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from foveal.config import load
from foveal.spec import FovealError
from foveal.train import loop
from foveal.train.paths import with_absolute_paths
from foveal.train.record import import_paths
from run_cases import differences, world_config, world_table

CHECKPOINT = "checkpoints/step-000002"


@pytest.fixture(scope="module")
def whole(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of 2 steps; read only."""
    torch.set_num_threads(1)
    run = tmp_path_factory.mktemp("whole") / "run"
    loop.start(world_config(tiny_folder, steps=2, validation=None, checkpoint={"every": 1, "keep": 2}), run)
    return run


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    """A copy without its end, so that a resume reads the newest checkpoint."""
    copy = tmp_path / "run"
    shutil.copytree(whole, copy)
    (copy / "summary.json").unlink()
    return copy


def resume(run: Path) -> None:
    loop.resume(run, config=load(run / "config.toml"))


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("state.json", b'{"step": 1}'),
        ("optimizer.pt", b""),
        ("optimizer.pt", b"\x80\x00 no"),
        ("model/model.safetensors", b"\x80\x00 no"),
        ("model/config.json", b"{"),
        ("model/config.json", b"{}"),
    ],
)
def test_damaged_checkpoint_is_named_with_the_way_out(name: str, damage: bytes, run: Path) -> None:
    (run / CHECKPOINT / name).write_bytes(damage)
    before = (run / "metrics.jsonl").read_bytes()
    with pytest.raises(FovealError) as caught:
        resume(run)
    said = str(caught.value)
    assert f"{run / CHECKPOINT / name.split('/')[0]}" in said and "cannot be read" in said
    assert f"delete the folder {run / CHECKPOINT} to go on from an earlier checkpoint" in said
    assert (run / "metrics.jsonl").read_bytes() == before


def test_run_goes_on_from_the_earlier_checkpoint_once_the_damaged_one_is_deleted(
    run: Path, whole: Path
) -> None:
    (run / CHECKPOINT / "optimizer.pt").unlink()
    with pytest.raises(FovealError, match=r"optimizer.pt cannot be read"):
        resume(run)
    shutil.rmtree(run / CHECKPOINT)
    resume(run)
    assert differences(run, whole) == []


@pytest.mark.parametrize("damage", [b"", b"\xff\xfe", b"[1]", b"{}"], ids=["empty", "noise", "list", "other"])
@pytest.mark.parametrize("name", ["measured.json", "summary.json", "manifest.json"])
def test_damaged_file_of_the_run_is_named_with_the_way_out(name: str, damage: bytes, run: Path) -> None:
    (run / name).write_bytes(damage)
    with pytest.raises(FovealError, match=rf"{name} cannot be read: .+; delete it to go on without it"):
        import_paths(run)
        resume(run)
    if name == "manifest.json":
        (run / name).unlink()
        assert import_paths(run) == []


def test_run_of_relative_paths_goes_on_from_another_directory(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_picture: Path
) -> None:
    place = tmp_path / "here"
    shutil.copytree(one_picture, place / "data")
    (place / "model").symlink_to(tiny_folder)
    monkeypatch.chdir(place)
    table = world_table(Path("model"), steps=1, checkpoint={"every": 1}, data={"path": "data/rows.jsonl"})
    table["validation"] = {"problems": 1, "data": {"path": "data"}}
    loop.start(load(table), Path("run"))
    (place / "run" / "summary.json").unlink()
    shutil.rmtree(place / "run" / "checkpoints" / "step-000001")
    monkeypatch.chdir(tmp_path)
    config = load(place / "run" / "config.toml")
    assert config.model.path == str(place / "model")
    assert config.data.path == str(place / "data/rows.jsonl")  # type: ignore[attr-defined]
    assert loop.resume(place / "run", config=config)["steps"] == 1


def test_names_that_are_no_local_paths_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("tiny", "world", "owner/set"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    for data in ({"type": "hub", "path": "owner/set"}, {"type": "world"}, {"path": "someone/elses"}):
        config = load(world_table(Path("tiny"), data=data))
        assert with_absolute_paths(config) == config
    config = load(world_table(Path("owner/model")))
    assert with_absolute_paths(config) == config


@pytest.fixture
def one_picture(tmp_path: Path) -> Path:
    """A folder with rows.jsonl and its picture."""
    from PIL import Image

    folder = tmp_path / "made"
    folder.mkdir()
    Image.new("RGB", (56, 56), "red").save(folder / "red.png")
    row = {"question": "Which colour?", "answer": "red", "image": "red.png"}
    (folder / "rows.jsonl").write_text(json.dumps(row) + "\n")
    return folder
