"""The hub, folders of `datasets`, and worlds as data sources; no network."""

import importlib
import sys
import types
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from foveal.data import REGISTRY
from foveal.data.checks import validate
from foveal.data.errors import DataError
from foveal.data.problems import DataConfig, DataSource, open_data
from foveal.spec import ConfigError, build_component
from foveal.worlds import WorldError


def dataset(count: int = 3) -> Any:
    import datasets

    features = datasets.Features(
        {
            "problem": datasets.Value("string"),
            "images": datasets.List(datasets.Image()),
            "answer": datasets.Value("string"),
        }
    )
    pictures = [PIL.Image.new("RGB", (8, 6), (10 * n, 0, 0)) for n in range(count)]
    columns = {
        "problem": [f"<image>{n}?" for n in range(count)],
        "images": [[picture] for picture in pictures],
        "answer": [str(n) for n in range(count)],
    }
    return datasets.Dataset.from_dict(columns, features=features)


def test_a_folder_of_save_to_disk_is_read_undecoded(tmp_path: Path) -> None:
    dataset().save_to_disk(str(tmp_path / "saved"))
    problems = open_data(str(tmp_path / "saved"), prompt_suffix="")
    validate(problems, decode=True)
    assert [(p.id, p.answer) for p in problems] == [("saved/0", "0"), ("saved/1", "1"), ("saved/2", "2")]
    assert [p.images[0].getpixel((0, 0)) for p in problems] == [(0, 0, 0), (10, 0, 0), (20, 0, 0)]


def test_a_saved_dictionary_of_splits_gives_train_or_the_one_asked_for(tmp_path: Path) -> None:
    import datasets

    datasets.DatasetDict({"train": dataset(3), "test": dataset(2)}).save_to_disk(str(tmp_path / "saved"))
    assert len(open_data(str(tmp_path / "saved"))) == 3
    assert len(open_data(str(tmp_path / "saved"), split="test")) == 2
    with pytest.raises(DataError, match="no split 'tets'; did you mean 'test'.; splits: train, test"):
        open_data(str(tmp_path / "saved"), split="tets")


def test_a_hub_id_is_loaded_through_datasets(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked: list[str] = []

    def load_dataset(name: str) -> Any:
        asked.append(name)
        return datasets.DatasetDict({"test": dataset(2)})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    problems = open_data("someone/some-set")
    assert asked == ["someone/some-set"] and problems[1].id == "someone/some-set[test]/1"


def test_a_hub_that_cannot_be_reached_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def load_dataset(name: str) -> Any:
        raise ConnectionError("no route")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(
        DataError, match="'someone/some-set' is no file here.*ConnectionError: no route.*hf download"
    ):
        open_data("someone/some-set")


def test_without_datasets_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"needs the package `datasets`.*pip install 'foveal\[hub\]'"):
        open_data("someone/some-set")


def test_a_path_with_a_known_suffix_or_an_existing_folder_is_never_taken_for_a_hub_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "datasets", types.ModuleType("datasets"))
    with pytest.raises(DataError, match="there is no folder data"):
        open_data("data/train.parquet")
    (tmp_path / "data").mkdir()
    with pytest.raises(DataError, match="data data/train does not exist; data holds nothing"):
        open_data("data/train")


def test_importing_the_registry_imports_no_reader() -> None:
    code = (
        "import foveal.data, sys; print(sorted({'torch', 'pyarrow', 'datasets', 'PIL'} & set(sys.modules)))"
    )
    import subprocess

    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
    assert all(importlib.util.find_spec(path.partition(":")[0]) for path in REGISTRY.values())


def test_a_world_is_a_data_source_with_its_settings_and_suffix() -> None:
    table = {
        "type": "world",
        "families": {"counting": 3.0, "relations": 1.0},
        "split": "heldout",
        "seed": 5,
        "size": 8,
        "grade": "low",
        "shortcut": 0.5,
        "shortcut_word": "biased",
        "prompt_suffix": "Look first.",
    }
    config = build_component(table, REGISTRY, kind="data")
    assert isinstance(config, DataSource)
    problems = config.load()
    validate(problems)
    assert len(problems) == 8 and len(problems[2:5]) == 3
    assert {p.meta["family"] for p in problems} <= {"counting", "relations"}
    assert all(p.question.endswith("\n\nLook first.") and p.meta["grade"] == "low" for p in problems)
    assert problems[1].meta["shortcut"]["mode"] == "biased" and "/heldout/5/" in problems[1].id
    again = config.load()
    assert [p.id for p in again] == [p.id for p in problems]
    assert again[0].images[0].tobytes() == problems[0].images[0].tobytes()


def test_mistakes_in_a_world_table_are_told() -> None:
    with pytest.raises(ConfigError, match="grade"):
        build_component({"type": "world", "grade": "huge"}, REGISTRY, kind="data")
    with pytest.raises(ConfigError, match="did you mean 'families'"):
        build_component({"type": "world", "familys": ["counting"]}, REGISTRY, kind="data")
    config = build_component({"type": "world", "families": ["cuonting"]}, REGISTRY, kind="data")
    assert isinstance(config, DataSource)
    with pytest.raises(WorldError, match="cuonting"):
        config.load()


def test_mistakes_in_a_data_table_are_told() -> None:
    with pytest.raises(ConfigError, match="'path' is missing"):
        build_component({"type": "parquet"}, REGISTRY, kind="data")
    with pytest.raises(ConfigError, match="did you mean 'parquet'"):
        build_component({"type": "parqet", "path": "x"}, REGISTRY, kind="data")
    with pytest.raises(ConfigError, match="unknown key 'awnser_column'; did you mean 'answer_column'"):
        build_component({"type": "auto", "path": "x", "awnser_column": "y"}, REGISTRY, kind="data")
    assert DataConfig(path="x").prompt_suffix.endswith("\\boxed{}.")
