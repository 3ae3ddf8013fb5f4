"""Problems from parquet, JSONL and folders, and pictures as a person sees them."""

import csv
import io
import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pyarrow as pa
import pytest

import foveal.data.problems as problems_module
from data_files import COLORS, beside, jsonl, parquet, png, viewed
from foveal.data import REGISTRY
from foveal.data.checks import validate
from foveal.data.errors import DataError
from foveal.data.pictures import Limits, Stored, decode, rgb
from foveal.data.problems import PROMPT_SUFFIX, DataConfig, DataSource, FileProblems, first, open_data
from foveal.data.readers import ParquetRows
from foveal.data.world import Kept, WorldDataConfig
from foveal.spec import build_component
from foveal.types import Problem

LIMITS = Limits(max_pixels=1 << 24)


def pixel(problem: Problem) -> object:
    return problem.images[0].getpixel((0, 0))


def rgb_of(color: str) -> object:
    return PIL.Image.new("RGB", (1, 1), color).getpixel((0, 0))


def test_parquet_with_embedded_pictures_as_virl39k_has_them(tmp_path: Path) -> None:
    problems = open_data(str(parquet(tmp_path / "train.parquet", viewed())))
    assert len(problems) == 5
    assert [p.id for p in problems] == ["q0", "q1", "q2", "q3", "q4"]
    assert [pixel(p) for p in problems] == [rgb_of(color) for color in COLORS[:5]]
    assert problems[-1].question == f"<image>What colour is picture 4?\n\n{PROMPT_SUFFIX}"
    assert problems[1].answer == "green"
    assert problems[1].meta == {
        "category": "colours",
        "answer": "\\boxed{green}",
        "source": str(tmp_path / "train.parquet"),
    }
    assert [p.id for p in problems[3:]] == ["q3", "q4"]
    with pytest.raises(IndexError, match="5"):
        problems[5]
    validate(problems)


def test_parquet_as_geometry3k_has_it_gets_marks_ids_and_number_answers(tmp_path: Path) -> None:
    rows = [{"problem": "Find x.", "images": [{"bytes": png("red"), "path": None}] * 2, "answer": 12.0}]
    (problem,) = open_data(str(parquet(tmp_path / "geo.parquet", rows)), prompt_suffix="")
    assert (problem.id, problem.question, problem.answer) == ("geo/0", "<image><image>Find x.", "12")
    assert len(problem.images) == 2


def test_a_single_image_column_and_raw_bytes_are_read(tmp_path: Path) -> None:
    single = [{"question": "<image>?", "answer": 7, "image": {"bytes": png("blue"), "path": "b.png"}}]
    assert pixel(open_data(str(parquet(tmp_path / "a.parquet", single)))[0]) == rgb_of("blue")
    raw = [{"question": "a <image> b", "answer": ["x", "2"], "images": [png("green")]}]
    path = parquet(tmp_path / "b.parquet", raw, images=pa.list_(pa.binary()))
    problems = DataConfig(path=str(path), answer_kind="all").load()
    validate(problems)
    assert pixel(problems[0]) == rgb_of("green") and problems[0].answer == "x, 2"


def test_a_folder_of_parquet_shards_is_one_table_in_order_of_names(tmp_path: Path) -> None:
    rows = viewed()
    parquet(tmp_path / "train-00001-of-00002.parquet", rows[3:])
    parquet(tmp_path / "train-00000-of-00002.parquet", rows[:3])
    problems = open_data(str(tmp_path))
    assert [p.id for p in problems] == ["q0", "q1", "q2", "q3", "q4"]
    assert [pixel(p) for p in problems] == [rgb_of(color) for color in COLORS[:5]]
    assert problems.where(3) == "train-00001-of-00002.parquet row 0"
    parquet(tmp_path / "test-00000-of-00001.parquet", rows[:1])
    with pytest.raises(DataError, match="several splits: test, train; choose one with split = 'NAME'"):
        open_data(str(tmp_path))
    assert len(open_data(str(tmp_path), split="test")) == 1
    with pytest.raises(DataError, match="no files of split 'tain'; did you mean 'train'"):
        open_data(str(tmp_path), split="tain")


def test_pictures_are_read_by_row_group_and_the_cache_stays_small(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", viewed(6), group=2)
    rows = ParquetRows([path], cache_bytes=1)
    assert rows.cells(4)["images"] == [{"path": "4.png"}]  # no bytes without need
    for index in (5, 0, 3, 5):
        (cell,) = rows.pictures(index, "images")  # type: ignore[misc]
        assert cell["bytes"] == png(COLORS[index])
        assert len(rows._cache) == 1


def test_jsonl_beside_image_files(tmp_path: Path) -> None:
    problems = open_data(str(beside(tmp_path)))
    assert [p.id for p in problems] == ["data/0", "data/1", "data/2"]
    assert [pixel(p) for p in problems] == [rgb_of(color) for color in COLORS[:3]]
    assert problems[0].question.startswith("<image>Colour 0?")
    validate(problems)


def test_a_json_list_is_read_too(tmp_path: Path) -> None:
    (tmp_path / "p.png").write_bytes(png("red"))
    (tmp_path / "data.json").write_text(json.dumps([{"question": "?!", "image": "p.png", "answer": "red"}]))
    assert pixel(open_data(str(tmp_path / "data.json"))[0]) == rgb_of("red")


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_an_image_folder_with_metadata(tmp_path: Path, kind: str) -> None:
    rows = []
    for n, color in enumerate(COLORS[:3]):
        (tmp_path / f"{n}.png").write_bytes(png(color))
        rows.append({"file_name": f"{n}.png", "question": f"Colour, {n}?", "answer": color})
    if kind == "jsonl":
        jsonl(tmp_path / "metadata.jsonl", rows)
    elif kind == "parquet":
        parquet(tmp_path / "metadata.parquet", rows)
    else:
        with (tmp_path / "metadata.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    problems = open_data(str(tmp_path))
    validate(problems)
    assert [(p.answer, pixel(p)) for p in problems] == [(color, rgb_of(color)) for color in COLORS[:3]]


def test_an_image_folder_with_several_pictures_a_row_and_a_split(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    for n in range(2):
        (tmp_path / "train" / f"{n}.png").write_bytes(png(COLORS[n]))
    jsonl(
        tmp_path / "train" / "metadata.jsonl",
        [{"file_names": ["0.png", "1.png"], "question": "<image> or <image>?", "answer": "A"}],
    )
    (problem,) = DataConfig(type="folder", path=str(tmp_path), split="train", prompt_suffix="").load()
    assert len(problem.images) == 2 and problem.question == "<image> or <image>?"


def test_columns_can_be_named_limited_and_choices_reach_the_rewards(tmp_path: Path) -> None:
    (tmp_path / "p.png").write_bytes(png("red"))
    rows = [{"q": "Which?", "pic": "p.png", "label": 3, "n": n, "opts": ["1", "3"]} for n in range(4)]
    config = DataConfig(
        path=str(jsonl(tmp_path / "d.jsonl", rows)),
        question_column="q",
        images_column="pic",
        answer_column="label",
        id_column="n",
        choices_column="opts",
        limit=2,
    )
    problems = config.load()
    assert [p.id for p in problems] == ["0", "1"] and problems[0].meta["choices"] == ["1", "3"]


def test_numbered_marks_become_plain_ones(tmp_path: Path) -> None:
    rows = [
        {
            "question": "<image 1> and <image 2>?",
            "images": [{"bytes": png("red"), "path": None}] * 2,
            "answer": "A",
        }
    ]
    (problem,) = open_data(str(parquet(tmp_path / "a.parquet", rows)), prompt_suffix="")
    assert problem.question == "<image> and <image>?"


@pytest.mark.parametrize("name", sorted(set(REGISTRY) - {"world"}))
def test_every_short_name_builds_a_config(name: str) -> None:
    config = build_component({"type": name, "path": "x"}, REGISTRY, kind="data")
    assert isinstance(config, DataSource) and config.type == name


def test_transparent_figures_are_composed_on_white() -> None:
    clear = PIL.Image.new("RGBA", (2, 1), (0, 0, 0, 0))
    clear.putpixel((1, 0), (0, 0, 0, 255))
    assert [rgb(clear).getpixel((x, 0)) for x in (0, 1)] == [(255, 255, 255), (0, 0, 0)]


def test_palette_grey_bilevel_and_sixteen_bit_pictures_keep_their_looks() -> None:
    assert rgb(PIL.Image.new("RGB", (1, 1), "red").convert("P")).getpixel((0, 0)) == (255, 0, 0)
    assert rgb(PIL.Image.new("1", (1, 1), 1)).getpixel((0, 0)) == (255, 255, 255)
    assert rgb(PIL.Image.new("L", (1, 1), 99)).getpixel((0, 0)) == (99, 99, 99)
    deep = PIL.Image.fromarray(np.array([[0, 257 * 128, 65535]], dtype=np.uint16))
    assert [rgb(deep).getpixel((x, 0)) for x in range(3)] == [(0, 0, 0), (128, 128, 128), (255, 255, 255)]


def test_pictures_are_turned_upright_and_belong_to_nobody_else() -> None:
    image = PIL.Image.new("RGB", (40, 20), "red")
    exif = image.getexif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", exif=exif)
    found = Stored(content=buffer.getvalue(), where="here")
    assert decode(found, LIMITS).size == (20, 40)
    assert decode(found, Limits(max_pixels=200, oversize="resize")).size == (10, 20)


def test_open_data_gives_file_problems(tmp_path: Path) -> None:
    assert isinstance(open_data(str(beside(tmp_path))), FileProblems)


def test_the_first_problems_are_a_view_that_decodes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[object] = []
    monkeypatch.setattr(problems_module, "decode", lambda picture, limits: decoded.append(picture))
    found = first(open_data(str(parquet(tmp_path / "d.parquet", viewed()))), 3)
    assert isinstance(found, FileProblems) and len(found) == 3 and decoded == []
    assert found[2].id == found[-1].id == "q2" and len(decoded) == 2
    with pytest.raises(IndexError):
        found[3]


def test_the_first_problems_of_a_world_are_made_once_and_only_so_many_are_kept() -> None:
    world = WorldDataConfig(size=9).load()
    kept = Kept(first(world, 4), 2)
    assert len(kept) == 4 and [p.id for p in kept] == [world[i].id for i in range(4)]
    assert kept[1] is kept[-3] and kept[2] is not kept[2]
    with pytest.raises(IndexError):
        kept[4]


def test_rows_are_read_by_one_thread_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = open_data(str(parquet(tmp_path / "data.parquet", viewed(5))))
    wanted = [(problem.question, problem.images[0].tobytes()) for problem in data]
    reading = threading.Lock()

    def alone(read: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any) -> Any:
            assert reading.acquire(blocking=False), "two threads read at once"
            try:
                time.sleep(0.001)
                return read(*given)
            finally:
                reading.release()

        return call

    for name in ("cells", "pictures"):
        monkeypatch.setattr(data._rows, name, alone(getattr(data._rows, name)))
    places = [*range(5), *range(4, -1, -1)] * 2
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda place: data[place], places))
    assert [(of.question, of.images[0].tobytes()) for of in found] == [wanted[place] for place in places]
