"""Every mistake in the data is told at start, with file, row and way out."""

import io
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pyarrow.parquet as pq
import pytest

from data_files import beside, jsonl, parquet, png, viewed
from foveal.data.checks import validate
from foveal.data.errors import DataError
from foveal.data.problems import DataConfig, open_data
from foveal.types import IMAGE_MARK, Problem


def refused(path: Path, *, sample: int | None = None, **fields: Any) -> str:
    with pytest.raises(DataError) as caught:
        validate(DataConfig(path=str(path), **fields).load(), sample=sample, decode=True)
    return str(caught.value)


def rgb_of(color: str) -> object:
    return PIL.Image.new("RGB", (1, 1), color).getpixel((0, 0))


def test_a_missing_file_names_the_nearest_in_its_folder(tmp_path: Path) -> None:
    parquet(tmp_path / "train.parquet", viewed(1))
    with pytest.raises(DataError, match=r"trian\.parquet does not exist; did you mean 'train\.parquet'"):
        open_data(str(tmp_path / "trian.parquet"))
    with pytest.raises(DataError, match="there is no folder .*nowhere"):
        open_data(str(tmp_path / "nowhere" / "x.parquet"))


def test_unknown_kinds_of_files_and_folders_are_told(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(DataError, match=r"a\.txt: unknown kind of file.*\.parquet or \.jsonl"):
        open_data(str(tmp_path / "a.txt"))
    with pytest.raises(DataError, match=r"no parquet, JSONL or metadata file; it holds a\.txt"):
        open_data(str(tmp_path))
    (tmp_path / "b.png").write_bytes(png("red"))
    with pytest.raises(DataError, match=r"1 pictures but no metadata\.jsonl.*file_name, question and answer"):
        open_data(str(tmp_path))
    with pytest.raises(DataError, match=r"type = 'parquet'; expected \.parquet"):
        DataConfig(type="parquet", path=str(beside(tmp_path))).load()


def test_a_missing_column_names_those_found_the_nearest_and_the_mapping(tmp_path: Path) -> None:
    rows = [{"qestion": "?", "images": [], "answr": "1"}]
    path = jsonl(tmp_path / "d.jsonl", rows)
    with pytest.raises(DataError) as caught:
        open_data(str(path))
    message = str(caught.value)
    for part in (
        "did you mean 'qestion'?",
        "columns: qestion, images, answr",
        "question_column = 'NAME'",
        "d.jsonl",
    ):
        assert part in message
    with pytest.raises(DataError, match=r"no column 'answer' \(answer_column\); did you mean 'answr'"):
        open_data(str(path), question_column="qestion", answer_column="answer")
    bare = jsonl(tmp_path / "e.jsonl", [{"question": "?", "answer": "1"}])
    with pytest.raises(DataError, match="no column for the images .*images_column = 'NAME'"):
        open_data(str(bare))
    assert DataConfig(path=str(bare), text_only=True).load()[0].images == ()


def test_unreadable_pictures_name_row_and_path(tmp_path: Path) -> None:
    path = beside(tmp_path)
    (tmp_path / "pics" / "1.png").write_text("no picture")
    (tmp_path / "pics" / "2.png").rename(tmp_path / "pics" / "2b.png")
    message = refused(path)
    assert "2 of 3 rows cannot be used" in message
    assert "data.jsonl line 2, picture 1 of 1 (pics/1.png): not a picture that can be read" in message
    assert (
        "data.jsonl line 3, picture 1 of 1 (pics/2.png): there is no such file; did you mean '2b.png'?"
        in message
    )
    with pytest.raises(DataError, match=r"line 2.*pics/1\.png"):
        open_data(str(path))[1]


def test_a_picture_that_breaks_off_is_found_by_decoding(tmp_path: Path) -> None:
    rows = viewed(2)
    noise = PIL.Image.fromarray(np.arange(64 * 64 * 3, dtype=np.uint32).astype(np.uint8).reshape(64, 64, 3))
    buffer = io.BytesIO()
    noise.save(buffer, format="JPEG")
    rows[1]["images"] = [{"bytes": buffer.getvalue()[: len(buffer.getvalue()) // 2], "path": "cut.jpg"}]
    path = parquet(tmp_path / "a.parquet", rows)
    validate(open_data(str(path)))  # its header is whole
    assert "a.parquet row 1, picture 1 of 1 (cut.jpg): the picture cannot be decoded" in refused(path)


def test_a_huge_picture_names_its_pixels_and_the_limit_or_is_scaled_down(tmp_path: Path) -> None:
    rows = viewed(2)
    rows[1]["images"] = [{"bytes": png("green", (300, 200)), "path": "big.png"}]
    path = parquet(tmp_path / "a.parquet", rows)
    message = refused(path, max_image_pixels=10_000)
    for part in (
        "row 1",
        "300 x 200 = 60,000 pixels",
        "the limit is 10,000",
        "oversize = 'resize'",
        "max_image_pixels",
    ):
        assert part in message
    problems = DataConfig(path=str(path), max_image_pixels=10_000, oversize="resize").load()
    validate(problems, decode=True)
    image = problems[1].images[0]
    assert image.size == (122, 81) and image.getpixel((60, 40)) == rgb_of("green")
    assert problems.sizes(1) == ((300, 200),)


def test_a_decompression_bomb_is_refused_without_decoding(tmp_path: Path) -> None:
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    bomb = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    bomb += struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
    rows = viewed(1)
    rows[0]["images"] = [{"bytes": bomb, "path": "bomb.png"}]
    path = parquet(tmp_path / "a.parquet", rows)
    assert "row 0, picture 1 of 1 (bomb.png): huge picture" in refused(path, oversize="resize")


def test_a_picture_thin_as_a_line_is_refused(tmp_path: Path) -> None:
    rows = viewed(1)
    rows[0]["images"] = [{"bytes": png("red", (900, 3)), "path": None}]
    assert "900 x 3 pixels, a side ratio above 200" in refused(parquet(tmp_path / "a.parquet", rows))


@pytest.mark.parametrize(
    "question, count, part",
    [
        ("<image><image>?", 1, "2 <image> marks but the row has 1 pictures"),
        ("<image>?", 2, "1 <image> marks but the row has 2 pictures"),
        ("<image 3> or <image 1>?", 2, "the marks 3, 1"),
        ("<image> or <image 2>?", 2, "the marks 2"),
    ],
)
def test_marks_that_do_not_match_name_row_counts_and_way_out(
    tmp_path: Path, question: str, count: int, part: str
) -> None:
    rows = [{"question": question, "answer": "1", "images": [{"bytes": png("red"), "path": None}] * count}]
    message = refused(parquet(tmp_path / "a.parquet", [*viewed_like(rows[0]), *rows]))
    assert "a.parquet row 1" in message and part in message and "write exactly one <image>" in message


def viewed_like(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{**row, "question": "fine?"}]


@pytest.mark.parametrize(
    "row, part",
    [
        ({"answer": " "}, "answer is empty; every row needs an answer"),
        ({"answer": None}, "answer is empty"),
        ({"answer": []}, "answer is empty"),
        ({"answer": {"x": 1}}, "answer should be text, a number or a list of them, got dict"),
        ({"answer": {"a": True}}, "got dict {'a': ...}"),
        ({"question": " <image> "}, "question is empty"),
        ({"question": ["a"]}, "question should be text, got list ['a']"),
        ({"question": "<|vision_start|><image>?"}, "control token '<|vision_start|>'"),
        ({"image": 5}, "expected a path, bytes, or a table with `bytes` or `path`, got int '5'"),
        ({"image": {"url": "x"}}, "got a table with url; name the column"),
        ({"image": "https://x.org/a.png"}, "is an address; download the picture"),
        ({"image": []}, "image has no picture; add one, remove the row, or set text_only = true"),
        ({"id": 1.5}, "id should be text or a whole number, got float 1.5"),
        ({"id": "a"}, "the id 'a' is also that of d.jsonl line 1; make ids unique, or set id_column"),
    ],
)
def test_bad_rows_are_named_with_their_field(tmp_path: Path, row: Mapping[str, Any], part: str) -> None:
    (tmp_path / "p.png").write_bytes(png("red"))
    good = {"id": "a", "question": "?!", "image": "p.png", "answer": "1"}
    path = jsonl(tmp_path / "d.jsonl", [good, {**good, "id": "b", **row}])
    message = refused(path, id_column="id")
    assert "1 of 2 rows cannot be used" in message and "d.jsonl line 2" in message and part in message


def test_broken_lines_are_named_by_number(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    for lines, part in (
        (b'\n{"a": \n', r"d\.jsonl line 2: broken JSON: .* at column"),
        (b"[1]\n", r"line 1: expected an object, got list"),
        (b'{"a": "\xff"}\n', r"line 1: not UTF-8"),
    ):
        path.write_bytes(lines)
        with pytest.raises(DataError, match=part):
            open_data(str(path))
    (tmp_path / "d.csv").write_text("question,answer,image\na,b\n")
    with pytest.raises(DataError, match=r"d\.csv line 2: expected 3 cells"):
        open_data(str(tmp_path / "d.csv"))
    (tmp_path / "d.json").write_text('{"a": 1}')
    with pytest.raises(DataError, match=r"d\.json: expected a list of objects"):
        open_data(str(tmp_path / "d.json"))


def test_empty_and_broken_files_are_told(tmp_path: Path) -> None:
    (tmp_path / "d.jsonl").write_text("\n")
    with pytest.raises(DataError, match=r"d\.jsonl is empty"):
        open_data(str(tmp_path / "d.jsonl"))
    parquet(tmp_path / "full.parquet", viewed(1))
    pq.write_table(pq.read_table(tmp_path / "full.parquet").slice(0, 0), tmp_path / "empty.parquet")
    with pytest.raises(DataError, match=r"empty\.parquet: no rows"):
        open_data(str(tmp_path / "empty.parquet"))
    (tmp_path / "broken.parquet").write_bytes((tmp_path / "full.parquet").read_bytes()[:50])
    with pytest.raises(DataError, match=r"broken\.parquet: not a parquet file"):
        open_data(str(tmp_path / "broken.parquet"))


def test_validate_tells_of_all_mistakes_counts_the_rest_and_reports_progress(tmp_path: Path) -> None:
    (tmp_path / "p.png").write_bytes(png("red"))
    rows = [{"question": "?!", "image": "p.png", "answer": ""} for _ in range(20)]
    seen: list[tuple[int, int]] = []
    with pytest.raises(DataError) as caught:
        validate(
            open_data(str(jsonl(tmp_path / "d.jsonl", rows))),
            progress=lambda done, of: seen.append((done, of)),
        )
    message = str(caught.value)
    assert message.startswith("20 of 20 rows cannot be used (answer: 20):\n") and message.endswith(
        "and 15 more"
    )
    assert "line 1:" in message and "line 5:" in message and "line 6:" not in message
    assert seen == [(n + 1, 20) for n in range(20)]


def test_validate_opens_the_pictures_of_a_sample_only(tmp_path: Path) -> None:
    path = beside(tmp_path)
    (tmp_path / "pics" / "1.png").write_text("no picture")
    validate(open_data(str(path)), sample=1)
    assert "line 2" in refused(path, sample=3)


def test_validate_checks_problems_that_come_from_no_file() -> None:
    good = Problem(id="a", question=f"{IMAGE_MARK}?!", images=(PIL.Image.new("RGB", (4, 4)),), answer="1")
    validate([good])
    with pytest.raises(DataError, match=r"problem 1 \(b\): the question has 1 <image> marks but 0 pictures"):
        validate([good, Problem(id="b", question=good.question, images=(), answer="1")])
    with pytest.raises(DataError, match=r"the id 'a' is also that of problem 0; make ids unique$"):
        validate([good, good])
    with pytest.raises(DataError, match="no rows"):
        validate([])


def test_a_split_of_what_has_no_splits_is_refused(tmp_path: Path) -> None:
    file = parquet(tmp_path / "only.parquet", viewed())
    with pytest.raises(DataError, match="single file, which has no splits, but split = 'test'; leave split"):
        open_data(str(file), split="test")
    with pytest.raises(DataError, match="no files of split 'test'; splits: none; it holds only.parquet"):
        open_data(str(tmp_path), split="test")
    (tmp_path / "metadata.jsonl").write_text("{}\n")
    with pytest.raises(DataError, match="metadata.jsonl describes the whole folder, which has no splits"):
        open_data(str(tmp_path), split="test")


def test_bytes_that_are_no_picture_are_named_without_an_address_in_memory(tmp_path: Path) -> None:
    rows = viewed(1)
    rows[0]["images"] = [{"bytes": b"no picture", "path": "x.png"}]
    with pytest.raises(DataError, match="begin like no known kind of picture") as caught:
        open_data(str(parquet(tmp_path / "d.parquet", rows)))[0]
    assert "BytesIO" not in str(caught.value)
