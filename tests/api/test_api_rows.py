"""Rows of every kind that a person has in memory, written down and read again as they were."""

import datetime
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from foveal.api.rows import write_rows
from foveal.data.errors import DataError
from foveal.data.problems import DataConfig, DataSource
from foveal.spec import ConfigError
from foveal.types import Problem


def picture(shade: int = 0, mode: str = "RGB") -> Image.Image:
    pixels = np.arange(6 * 8 * 3, dtype=np.uint8).reshape(6, 8, 3) + shade
    return Image.fromarray(pixels).convert(mode)


def png(shade: int = 0) -> bytes:
    buffer = io.BytesIO()
    picture(shade).save(buffer, format="PNG")
    return buffer.getvalue()


def read(source: str | DataSource) -> list[Problem]:
    opened = source if isinstance(source, DataSource) else DataConfig(path=source, prompt_suffix="")
    return list(opened.load())


def same(found: Image.Image, wanted: Image.Image) -> bool:
    return found.convert("RGB").tobytes() == wanted.convert("RGB").tobytes()


@pytest.mark.parametrize(
    "cell",
    [
        picture(),
        [picture()],
        png(),
        {"bytes": png(), "path": "circle.png"},
        [{"bytes": png(), "path": None}],
        np.asarray(picture()),
    ],
    ids=["PIL", "list", "bytes", "table", "tables", "array"],
)
def test_pictures_in_every_form_are_the_same_picture(cell: Any, tmp_path: Path) -> None:
    found = read(write_rows([{"question": "Q", "images": cell, "answer": "a"}], tmp_path, name="train"))
    assert len(found[0].images) == 1
    assert same(found[0].images[0], picture())


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "CMYK", "LA", "YCbCr"])
def test_pictures_of_every_mode_are_kept(mode: str, tmp_path: Path) -> None:
    opaque = picture(mode=mode)
    found = read(write_rows([{"question": "Q", "images": opaque, "answer": "a"}], tmp_path, name="train"))
    assert same(found[0].images[0], opaque)


def test_a_picture_that_many_rows_share_is_written_once(tmp_path: Path) -> None:
    shared = picture()
    rows = [{"question": f"Q{n}", "images": [shared], "answer": "a"} for n in range(5)]
    write_rows(rows, tmp_path, name="train")
    assert len(list((tmp_path / "train").iterdir())) == 1


def test_relative_paths_start_at_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pictures").mkdir()
    picture().save(tmp_path / "pictures" / "a.png")
    monkeypatch.chdir(tmp_path)
    rows = [{"question": "Is it in a.png?", "image_path": "pictures/a.png", "answer": "a.png"}]
    found = read(write_rows(rows, tmp_path / "run" / "data", name="train"))
    assert same(found[0].images[0], picture())
    assert (found[0].question, found[0].answer) == ("<image>Is it in a.png?", "a.png")
    rows = [{"question": "Q", "image": Path("pictures") / "a.png", "answer": "a"}]
    line = json.loads(Path(str(write_rows(rows, tmp_path / "again", name="train"))).read_text())
    assert line["image"] == str(tmp_path / "pictures" / "a.png")


def test_cells_of_other_kinds_stay_what_they_are(tmp_path: Path) -> None:
    row = {
        "question": "Q",
        "images": [picture()],
        "answer": "4",
        "count": np.int64(4),
        "share": np.float32(0.5),
        "nothing": float("nan"),
        "labels": ("a", "b"),
        "nested": {"deep": [np.bool_(True), None]},
        3: "three",
    }
    line = json.loads(Path(str(write_rows([row], tmp_path, name="train"))).read_text())
    assert (line["count"], line["share"], line["nothing"]) == (4, 0.5, None)
    assert (line["labels"], line["nested"], line["3"]) == (["a", "b"], {"deep": [True, None]}, "three")
    with pytest.raises(DataError, match="row 1, column 'when': a datetime cannot be written"):
        write_rows([row, {"when": datetime.datetime(2020, 1, 1)}], tmp_path / "b", name="train")


def test_answers_of_mixed_types_do_not_become_one_type(tmp_path: Path) -> None:
    rows = [{"question": "Q", "images": [picture()], "answer": answer} for answer in (4, "four", 4.5)]
    assert [problem.answer for problem in read(write_rows(rows, tmp_path, name="train"))] == [
        "4",
        "four",
        "4.5",
    ]


def test_a_dataset_keeps_its_pictures_as_stored_and_its_classes_by_name(tmp_path: Path) -> None:
    import datasets

    features = datasets.Features(
        {
            "question": datasets.Value("string"),
            "image": datasets.Image(),
            "answer": datasets.ClassLabel(names=["red", "blue"]),
        }
    )
    rows = {"question": ["Q0", "Q1"], "image": [picture(0), picture(9)], "answer": [1, 0]}
    data = datasets.Dataset.from_dict(rows, features=features)
    found = read(write_rows(data, tmp_path / "a", name="train"))
    assert [problem.answer for problem in found] == ["blue", "red"]
    assert same(found[1].images[0], picture(9))
    chosen = read(write_rows(data.select([1]), tmp_path / "b", name="train"))
    assert [problem.question for problem in chosen] == ["<image>Q1"]
    with pytest.raises(ConfigError, match="it is a table of train, test; choose a split"):
        write_rows(datasets.DatasetDict({"train": data, "test": data}), tmp_path / "c", name="data")


def test_a_data_frame_and_an_arrow_table_are_rows(tmp_path: Path) -> None:
    import pandas
    import pyarrow

    rows = [{"question": "Q", "images": {"bytes": png(), "path": None}, "answer": "a"}]
    for index, data in enumerate((pandas.DataFrame(rows), pyarrow.Table.from_pylist(rows))):
        found = read(write_rows(data, tmp_path / str(index), name="train"))
        assert (found[0].answer, len(found)) == ("a", 1)
        assert same(found[0].images[0], picture())


class Lazy:
    """A data set of one's own: a length and items, made on each access."""

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"question": f"Q{index}", "images": [picture(index)], "answer": "a"}


def test_a_data_set_of_ones_own_is_rows(tmp_path: Path) -> None:
    found = read(write_rows(Lazy(), tmp_path, name="train"))
    assert [problem.question for problem in found] == ["<image>Q0", "<image>Q1"]
    assert same(found[1].images[0], picture(1))


def test_problems_are_kept_to_the_letter(tmp_path: Path) -> None:
    problems = [
        Problem(
            id="a/1",
            question="Compare <image> with <image>. Ünïcode",
            images=(picture(), picture(9)),
            answer="7",
            meta={"family": "mine", "scene": {"cells": [1, 2]}, "level": 3},
        ),
        Problem(id="b", question="No picture", images=(), answer="x"),
    ]
    found = read(write_rows(problems, tmp_path, name="train"))
    for own, wanted in zip(found, problems, strict=True):
        assert (own.id, own.question, own.answer, dict(own.meta)) == (
            wanted.id,
            wanted.question,
            wanted.answer,
            dict(wanted.meta),
        )
        assert [same(a, b) for a, b in zip(own.images, wanted.images, strict=True)] == [True] * len(
            wanted.images
        )
    again = write_rows(problems, tmp_path, name="train")
    assert isinstance(again, DataSource)
    opened = again.load()
    assert len(opened[0].images) == len(opened[0].images) == 2
    with pytest.raises(DataError, match="'b': meta cannot be written"):
        write_rows(
            [Problem(id="b", question="", images=(), answer="", meta={"x": object()})], tmp_path, name="odd"
        )
    with pytest.raises(ConfigError, match="item 1 is a dict, others are problems"):
        write_rows([problems[0], {}], tmp_path, name="odd")
