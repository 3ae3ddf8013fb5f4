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
from foveal.data.pictures import rgb
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


@pytest.mark.parametrize("mode", ["I", "F", "I;16", "La", "RGBa", "PA"])
def test_pictures_of_rare_modes_are_what_the_model_would_see_of_them(mode: str, tmp_path: Path) -> None:
    """12-bit grey, floats from 0 to 1, and half transparency: neither white nor black."""
    grey = Image.fromarray(np.linspace(0, 4095, 48, dtype=np.int32).reshape(6, 8))
    made = {
        "I": grey,
        "F": Image.fromarray(np.linspace(0, 1, 48, dtype=np.float32).reshape(6, 8)),
        "I;16": Image.fromarray(np.linspace(0, 4095, 48, dtype=np.uint16).reshape(6, 8)),
        "PA": picture(mode="P").convert("PA"),
        "La": picture(mode="LA").convert("La"),
        "RGBa": picture(mode="RGBA").convert("RGBa"),
    }[mode]
    assert made.mode == mode
    found = read(write_rows([{"question": "Q", "images": made, "answer": "a"}], tmp_path, name="train"))
    assert found[0].images[0].convert("RGB").tobytes() == rgb(made).tobytes()
    values = np.asarray(found[0].images[0].convert("L"))
    assert len(np.unique(values)) >= 10


def test_columns_that_a_file_name_cannot_tell_apart_keep_their_own_pictures(tmp_path: Path) -> None:
    long = "image" + "x" * 150
    names = ["img a", "img_a", f"{long}1", f"{long}2", "图" * 100, "画" * 100]
    row = {name: picture(10 * n) for n, name in enumerate(names)}
    file = Path(str(write_rows([row], tmp_path, name="train")))
    line = json.loads(file.read_text())
    for n, name in enumerate(names):
        with Image.open(tmp_path / line[name]) as found:
            assert same(found, picture(10 * n)), name


def test_what_a_file_cannot_hold_is_told_with_its_row_and_column(tmp_path: Path) -> None:
    inside: list[Any] = []
    inside.append(inside)
    table: dict[str, Any] = {}
    table["self"] = table
    deep: Any = 1
    for _ in range(5000):
        deep = [deep]
    cases: list[tuple[dict[str, Any], str]] = [
        ({"question": "half \ud800"}, "row 1, column 'question': character 5 of a text is '.ud800'"),
        ({"a": [{"\udc00": 1}]}, "row 1, column 'a-0': character 0"),
        ({"bad\ud800": 1}, "row 1, column .*: character 3"),
        ({"a": inside}, "row 1, column 'a-0-0.*more than 32 deep, or hold themselves"),
        ({"a": table}, "row 1, column 'a-self-.*more than 32 deep"),
        ({"a": deep}, "row 1, column 'a-0-0.*more than 32 deep"),
        ({"a": 10**5000}, "row 1 cannot be written to the run folder: Exceeds the limit"),
        ({"a": object()}, "row 1, column 'a': a object cannot be written to the run folder; expected text"),
    ]
    for number, (row, hint) in enumerate(cases):
        with pytest.raises(DataError, match=hint):
            write_rows([{"question": "Q"}, row], tmp_path / str(number), name="train")
    fine = {"question": "Q", "images": [], "answer": "a", "id": "p"}
    for change in ({"question": "\ud800"}, {"meta": {"x": inside}}, {"meta": {"x": 10**5000}}):
        with pytest.raises(DataError, match="problem 0 .'p'. cannot be written to the run folder"):
            write_rows([Problem(**{**fine, **change})], tmp_path / "problems", name="train")  # type: ignore[arg-type]


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
    with pytest.raises(DataError, match="problem 0 .'b'. cannot be written.*and its meta"):
        write_rows(
            [Problem(id="b", question="", images=(), answer="", meta={"x": object()})], tmp_path, name="odd"
        )
    with pytest.raises(ConfigError, match="item 1 is a dict, others are problems"):
        write_rows([problems[0], {}], tmp_path, name="odd")


def test_an_image_that_pillow_opened_as_a_kind_that_starts_programs_is_refused(tmp_path: Path) -> None:
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"
    row = {"question": "?", "image": Image.open(io.BytesIO(eps)), "answer": "1"}
    with pytest.raises(DataError, match="opened as EPS, which is not decoded"):
        write_rows([row], tmp_path, name="train")
