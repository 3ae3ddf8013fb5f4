"""Files that are broken on purpose: a short message with the row, no traceback, no hang."""

import io
import json
import random
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_files import IMAGE, beside, jsonl, parquet, png, viewed
from foveal.data.bounded import read_json, short
from foveal.data.checks import validate
from foveal.data.errors import DataError
from foveal.data.pictures import Limits, decode, depth_of, rgb
from foveal.data.problems import DataConfig, open_data, problems_from
from foveal.data.stored import Stored
from layout_cases import CASES, Case

LIMITS = Limits(max_pixels=1 << 24)
PICTURE = PIL.Image.new("RGB", (12, 8), "red")
GOOD = {"id": "a", "question": "?!", "image": PICTURE, "answer": "1", "choices": ["1", "2"]}


def refused(rows: Any, **fields: Any) -> str:
    with pytest.raises(DataError) as caught:
        validate(problems_from(rows, **fields), decode=True)
    return str(caught.value)


@pytest.mark.parametrize(
    "row, part",
    [
        ({"question": "a \ud800 b"}, "question has half a character"),
        ({"answer": "\udfff"}, "answer has half a character"),
        ({"id": "\ud800"}, "id has half a character"),
        ({"question": "a\x00"}, "question has a zero byte"),
        ({"answer": float("inf")}, "answer is not finite, got inf"),
        ({"answer": float("nan")}, "answer is empty"),
        ({"answer": "nan"}, "answer is 'nan', which is no number"),
        ({"answer": "-inf"}, "answer is '-inf', which is no number"),
        ({"answer": 10**5000}, "answer is a whole number of 16610 bits; the most is 1000 digits"),
        ({"answer": "9" * 5000}, "answer has a number of more than 1000 digits"),
        ({"answer": "word " * 5000}, "answer states no short answer (got 24,999 characters"),
        ({"answer": [10**5000]}, "a whole number of 16610 bits"),
        ({"id": 10**5000}, "a whole number of 16610 bits"),
        ({"id": "x" * 5000}, "id has 5,000 characters, more than 500"),
        ({"question": "x" * 2_000_000}, "question has 2,000,000 characters"),
        ({"answer": {"x": "y" * 10**6}}, "answer should be text, a number or a list of them, got dict"),
        ({"image": {"x": "y" * 10**6}}, "got a table with x"),
        ({"image": "y" * 10**6}, "not a picture that can be read"),
        ({"image": "y/." * 10**6}, "3,000,000 characters that are no path and no picture in base64"),
        ({"image": "a\x00.png"}, "that are no path"),
        ({"image": "data:image/png,xyz"}, "a data: URL that is not base64"),
        ({"image": "data:image/png;base64,@@@"}, "broken base64"),
        ({"image": "iVBORw0KGgo" + "A" * 99}, "broken base64 of 110 characters"),
        ({"image": b""}, "no picture"),
        ({"image": "x" * 300 + ".png"}, "there is no such file"),
        ({"choices": {"a": {"b": 1}}}, "holds no options that can be read, got {'a': ...}"),
    ],
)
def test_hostile_cells_are_refused_with_their_row_in_a_short_message(row: dict[str, Any], part: str) -> None:
    rows = [GOOD, {**GOOD, "id": "b", **row}]
    said = refused(rows, id_column="id")
    assert "rows row 1" in said and part in said
    assert (
        len(said) < 700 and said.isprintable() is False
    )  # one line break, nothing else that is not printable
    assert said.replace("\n", "").isprintable()


DEEP = "[" * 5000 + "]" * 5000
NESTED = '{"a": ' * 100 + "1" + "}" * 100


@pytest.mark.parametrize(
    "cell, part", [(DEEP, "nested"), (NESTED, "nested deeper than 64"), ("9" * 5000, "digits")]
)
def test_json_is_bounded_in_depth_and_digits(tmp_path: Path, cell: str, part: str) -> None:
    line = f'{{"question": "?!", "image": "p.png", "answer": "1", "more": {cell}}}'
    (tmp_path / "d.jsonl").write_text(f"{line}\n")
    with pytest.raises(DataError, match=rf"d\.jsonl line 1: .*{part}"):
        open_data(str(tmp_path / "d.jsonl"))
    (tmp_path / "d.json").write_text(f"[{line}]")
    with pytest.raises(DataError, match=rf"d\.json: .*{part}"):
        open_data(str(tmp_path / "d.json"))


@pytest.mark.parametrize("cell", [DEEP, NESTED, "9" * 5000, "[" + "9" * 5000 + "]", "{", "[[]"])
def test_cells_of_csv_that_exceed_the_bounds_stay_text(tmp_path: Path, cell: str) -> None:
    (tmp_path / "p.png").write_bytes(png("red"))
    for column in ("more", "choices"):
        (tmp_path / f"{column}.csv").write_text(
            f'question,image,answer,{column}\n?!,p.png,1,"' + cell.replace('"', '""') + '"\n'
        )
    (problem,) = open_data(str(tmp_path / "more.csv"))
    assert problem.meta["more"] == cell
    try:
        validate(open_data(str(tmp_path / "choices.csv")), decode=True)
    except DataError as error:
        assert "choices.csv line 2: choices holds no options that can be read" in str(error)
        assert len(str(error)) < 700


def test_sixty_four_levels_are_read_and_one_more_is_not() -> None:
    for depth, ok in ((64, True), (65, False)):
        text = "[" * depth + "]" * depth
        if ok:
            read_json(text)
        else:
            with pytest.raises(DataError, match="nested"):
                read_json(text)


def test_values_in_messages_are_short_and_printable() -> None:
    values = (
        "x" * 10**6,
        b"x" * 10**6,
        ["x" * 10**6] * 9,
        {"x" * 10**6: 1},
        10**5000,
        "\ud800\x1b[2J\n",
        1.5,
    )
    for value in values:
        assert len(short(value)) <= 60 and short(value).isprintable()


@pytest.mark.parametrize("bits, white", [(10, 1023), (12, 4095), (14, 16383), (16, 65535)])
def test_deep_grey_is_scaled_by_the_depth_that_it_uses(bits: int, white: int) -> None:
    values = np.array([[0, round(white / 2), white]], dtype=np.uint16)
    assert depth_of(float(white)) == bits
    buffer = io.BytesIO()
    PIL.Image.fromarray(values).save(buffer, "PNG")
    image = decode(Stored(content=buffer.getvalue(), where="here"), LIMITS)
    assert [image.getpixel((x, 0)) for x in range(3)] == [(0, 0, 0), (128, 128, 128), (255, 255, 255)]


def test_floats_and_wide_integers_span_black_to_white() -> None:
    for values in (
        np.array([[0.0, 0.5, 1.0]], dtype=np.float32),
        np.array([[0, 128, 255]], dtype=np.int32),
        np.array([[0.0, 2047.5, 4095.0]], dtype=np.float32),
        np.array([[0, 1 << 23, (1 << 24) - 1]], dtype=np.int32),
        np.array([[float("nan"), 0.5, 1.0]], dtype=np.float32),
    ):
        image = rgb(PIL.Image.fromarray(values))
        grey = [image.getpixel((x, 0))[0] for x in range(3)]  # type: ignore[index]
        assert grey[0] == 0 and abs(grey[1] - 128) <= 1 and grey[2] == 255


def deep_png(top: int) -> bytes:
    """A PNG of 16 bits per sample in colour, which Pillow cannot write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\x00" + struct.pack(">3H", top, 0, top // 2) * 4 for _ in range(4))
    head = struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def test_deep_colour_is_read_and_refused_where_it_would_come_out_black() -> None:
    bright = decode(Stored(content=deep_png(65535), where="here"), LIMITS)
    assert bright.getpixel((0, 0)) == (255, 0, 127)
    with pytest.raises(
        DataError, match="here: a colour picture of 16 bits per sample that uses the low ones"
    ):
        decode(Stored(content=deep_png(4095), where="here"), LIMITS)
    black = decode(Stored(content=png("black"), where="here"), LIMITS)
    assert black.getpixel((0, 0)) == (0, 0, 0)


def bomb() -> bytes:
    """200,000 x 200,000 pixels in a few bytes."""
    head = b"IHDR" + struct.pack(">IIBBBBB", 200_000, 200_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head))


@pytest.mark.parametrize(
    "content",
    [
        bomb(),
        b"DDS " + bytes(124),
        b"DDS " + struct.pack("<I", 124) + b"\xff" * 300,
        b"%!PS-Adobe EPSF\n",
        b"\x00" * 99,
    ],
    ids=["bomb", "DDS", "garbage DDS", "EPS", "zeros"],
)
def test_bombs_and_garbage_are_refused_at_once(content: bytes) -> None:
    start = time.monotonic()
    with pytest.raises(DataError, match="here"):
        decode(Stored(content=content, where="here"), LIMITS)
    assert time.monotonic() - start < 2.0


def mutated(content: bytes, rng: random.Random) -> bytes:
    """Bytes changed, cut, doubled or put in at random places."""
    data = bytearray(content)
    for _ in range(rng.randint(1, 6)):
        place = rng.randrange(len(data)) if data else 0
        kind = rng.randrange(5)
        if kind == 0 and data:
            data[place] = rng.randrange(256)
        elif kind == 1:
            del data[place : place + rng.randint(1, 40)]
        elif kind == 2:
            data[place:place] = rng.choice(
                (b"\x00", b"\xff" * 8, b'"', b"{", b"[", b"\\ud800", b"9" * 50, b"null")
            )
        elif kind == 3:
            data = data[: max(1, place)]
        else:
            data[place:place] = data[place : place + rng.randint(1, 60)]
    return bytes(data)


PICTURES: dict[str, Callable[[], bytes]] = {
    kind: (lambda kind=kind: _saved(kind)) for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP")
}


def _saved(kind: str) -> bytes:
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (24, 32, 3), dtype=np.uint8)
    PIL.Image.fromarray(noise).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", PICTURES)
def test_mutated_pictures_are_read_or_refused(kind: str) -> None:
    good, rng = PICTURES[kind](), random.Random(kind)
    for _ in range(60):
        try:
            decode(Stored(content=mutated(good, rng), where="here"), LIMITS)
        except DataError as error:
            assert str(error).startswith("here") and len(str(error)) < 1000


FILES = [
    case for case in CASES if case.name not in ("PAPO_eval", "class numbers of datasets", "CLEVR counting")
]


@pytest.mark.parametrize("case", FILES, ids=lambda case: case.name)
def test_mutated_files_of_every_layout_are_read_or_refused(tmp_path: Path, case: Case) -> None:
    path, rng = case.write(tmp_path), random.Random(case.name)
    good = path.read_bytes()
    for _ in range(12):
        path.write_bytes(mutated(good, rng))
        try:
            validate(DataConfig(path=str(path), **case.options).load(), decode=True)
        except DataError as error:
            assert len(str(error)) < 6000


def odd(rng: random.Random, depth: int = 0) -> Any:
    """A cell of any type."""
    leaves: list[Any] = [
        None,
        "",
        "x",
        "<image>",
        "<image 2>",
        "\ud800",
        0,
        -1,
        10**400,
        1.5,
        float("nan"),
        True,
    ]
    leaves += [
        b"x",
        "[1, 2]",
        "['a', 'b']",
        '{"a": 1}',
        "A. x; B. y",
        "<answer>3</answer>",
        PICTURE,
        "nan",
        "0",
    ]
    if depth > 2 or rng.random() < 0.6:
        return rng.choice(leaves)
    if rng.random() < 0.5:
        return [odd(rng, depth + 1) for _ in range(rng.randrange(4))]
    keys = (
        "role",
        "content",
        "from",
        "value",
        "type",
        "text",
        "image",
        "bytes",
        "path",
        "label",
        "ground_truth",
        "a",
    )
    return {rng.choice(keys): odd(rng, depth + 1) for _ in range(rng.randrange(4))}


@pytest.mark.parametrize("seed", range(4))
def test_rows_of_odd_cells_are_read_or_refused(seed: int) -> None:
    rng = random.Random(seed)
    names = (
        "question",
        "problem",
        "prompt",
        "messages",
        "conversations",
        "query",
        "image",
        "images",
        "image_1",
    )
    more = (
        "answer",
        "solution",
        "label",
        "reward_model",
        "choices",
        "options",
        "option",
        "A",
        "B",
        "id",
        "hint",
        "system",
    )
    for _ in range(150):
        chosen = rng.sample((*names, *more), rng.randint(2, 8))
        rows = [{name: odd(rng) for name in chosen} for _ in range(rng.randint(1, 3))]
        try:
            problems = problems_from(rows, text_only=rng.random() < 0.5)
            problems.understood.lines()
            validate(problems, decode=True)
        except DataError as error:
            assert len(str(error)) < 8000


BASES: tuple[dict[str, Any], ...] = (
    GOOD,
    {"prompt": [{"role": "user", "content": "?!"}], "images": [PICTURE], "solution": "<answer>1</answer>"},
    {"conversations": [{"from": "human", "value": "?!"}, {"from": "gpt", "value": "1"}], "image": PICTURE},
    {"question": "<image 1>?", "image_1": PICTURE, "image_2": None, "options": "['a', 'b']", "answer": "A"},
)


@pytest.mark.parametrize("base", BASES, ids=["columns", "prompt", "conversations", "numbered"])
def test_good_rows_with_one_odd_cell_are_read_or_refused(base: dict[str, Any]) -> None:
    rng = random.Random(len(base))
    taken = 0
    for _ in range(150):
        rows = [dict(base), {**base, rng.choice([*base, "system", "extra", "hint"]): odd(rng)}]
        try:
            validate(problems_from(rows, text_only=True), decode=True)
            taken += 1
        except DataError as error:
            assert len(str(error)) < 3000
    assert 10 < taken < 150


def test_damage_inside_a_parquet_file_is_an_error_of_the_row(tmp_path: Path) -> None:
    path = parquet(tmp_path / "d.parquet", viewed(4), group=2)
    good, rng, told = path.read_bytes(), random.Random(0), set()
    for _ in range(120):
        data = bytearray(good)
        place = rng.randrange(len(data))
        data[place] ^= 1 << rng.randrange(8)
        path.write_bytes(bytes(data))
        try:
            validate(open_data(str(path)), decode=True)
        except DataError as error:
            assert len(str(error)) < 3000
            told.add("the file is damaged" in str(error))
    assert told == {True, False}


def test_bytes_in_text_columns_and_text_in_picture_columns_are_told(tmp_path: Path) -> None:
    columns = {
        "question": pa.array([b"?!"]),
        "image": pa.array([{"bytes": png("red")}], IMAGE),
        "answer": pa.array(["1"]),
    }
    pq.write_table(pa.table(columns), tmp_path / "d.parquet")
    with pytest.raises(DataError, match="question"):
        validate(open_data(str(tmp_path / "d.parquet")))
    path = beside(tmp_path)
    record = json.loads(path.read_text().splitlines()[0])
    with pytest.raises(DataError, match="not a picture|no such file"):
        validate(open_data(str(jsonl(path, [{**record, "images": ["data.jsonl"]}]))))


def test_a_parquet_of_one_row_group_with_a_bad_picture_names_the_row(tmp_path: Path) -> None:
    rows = viewed(3)
    rows[1]["images"] = [{"bytes": b"DDS " + bytes(124), "path": "1.dds"}]
    with pytest.raises(DataError, match=r"train\.parquet row 1, picture 1 of 1 \(1\.dds\)"):
        validate(open_data(str(parquet(tmp_path / "train.parquet", rows, group=3))), decode=True)
