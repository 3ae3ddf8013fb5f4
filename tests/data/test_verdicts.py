"""Pictures are decoded once and remembered; the memory is fooled by no change and breaks no run."""

import io
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from data_files import jsonl, parquet, png, viewed
from foveal.data import verdicts
from foveal.data.checks import Plan, look
from foveal.data.errors import DataError
from foveal.data.pictures import Limits, Stored, decode, header
from foveal.data.problems import FileProblems, open_data
from foveal.data.verdicts import Verdicts, cache_folder, examine
from planted import good_row, photo

LIMITS = Limits(max_pixels=1 << 24)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FOVEAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(verdicts, "SETTLED_S", 0.0)  # files of a test are always fresh
    return tmp_path / "cache"


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was decoded, by where."""
    found: list[str] = []

    def noted(picture: Stored, limits: Limits) -> PIL.Image.Image:
        found.append(picture.where)
        return decode(picture, limits)

    monkeypatch.setattr(verdicts, "decode", noted)
    return found


def checked(problems: FileProblems, name: str = "data") -> list[int]:
    """Rows with bad pictures, looked at as a run does."""
    every = range(len(problems))
    kept = Verdicts(name)
    found = look(problems, Plan(opened=every, decoded=every, workers=2), kept)
    kept.save()
    return [row.row for row in found.bad]


def files(tmp_path: Path, count: int = 4) -> FileProblems:
    return open_data(str(jsonl(tmp_path / "d.jsonl", [good_row(tmp_path, n) for n in range(count)])))


def test_pictures_of_files_are_decoded_once(tmp_path: Path, decoded: list[str]) -> None:
    problems = files(tmp_path)
    assert checked(problems) == [] and len(decoded) == 4
    assert checked(problems) == [] and len(decoded) == 4


def test_pictures_inside_the_data_are_decoded_once_by_their_bytes(tmp_path: Path, decoded: list[str]) -> None:
    rows = viewed(4)
    rows[3]["images"] = rows[2]["images"]
    checked(open_data(str(parquet(tmp_path / "a.parquet", rows))))
    assert len(decoded) in (3, 4)  # the same picture may be decoded by two threads at once
    decoded.clear()
    rows[0]["images"] = [{"bytes": png("white"), "path": "0.png"}]
    checked(open_data(str(parquet(tmp_path / "a.parquet", rows))))
    assert decoded == ["a.parquet row 0, picture 1 of 1 (0.png)"]


def test_changed_file_of_equal_size_and_time_is_decoded_again(tmp_path: Path, decoded: list[str]) -> None:
    problems = files(tmp_path)
    checked(problems)
    decoded.clear()
    place = tmp_path / "2.jpg"
    before, content = place.stat(), place.read_bytes()
    place.write_bytes(content[: len(content) // 2].ljust(len(content), b"\xff"))
    os.utime(place, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert place.stat().st_size == before.st_size and place.stat().st_mtime_ns == before.st_mtime_ns
    checked(problems)
    assert decoded == ["d.jsonl line 3, picture 1 of 1 (2.jpg)"]


def test_file_replaced_by_one_that_breaks_off_is_found(tmp_path: Path) -> None:
    problems = files(tmp_path)
    assert checked(problems) == []
    cut = photo(77)
    (tmp_path / "new.jpg").write_bytes(cut[: len(cut) // 2])
    (tmp_path / "new.jpg").replace(tmp_path / "1.jpg")
    assert checked(problems) == [1]
    assert checked(problems) == [1]  # a bad verdict is never remembered


def test_file_changed_just_now_is_not_remembered(
    tmp_path: Path, decoded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verdicts, "SETTLED_S", 60.0)
    problems = files(tmp_path)
    checked(problems)
    checked(problems)
    assert len(decoded) == 8


def only_file(cache: Path) -> Path:
    (found,) = (cache / "pictures").iterdir()
    return found


@pytest.mark.parametrize(
    "damage",
    [
        lambda b: b[:-5],
        lambda b: b[: len(b) // 2],
        lambda b: b"",
        lambda b: b[:-1] + bytes([b[-1] ^ 1]),
        lambda b: b"x" + b[1:],
        lambda b: b + b"more",
        lambda b: os.urandom(500),
    ],
)
def test_damaged_cache_is_none_and_is_written_again(
    tmp_path: Path, cache: Path, decoded: list[str], damage: Callable[[bytes], bytes]
) -> None:
    problems = files(tmp_path)
    checked(problems)
    place = only_file(cache)
    whole = place.read_bytes()
    place.write_bytes(damage(whole))
    assert checked(problems) == [] and len(decoded) == 8
    assert place.read_bytes() != damage(whole) and len(place.read_bytes()) == len(whole)


def test_cache_that_cannot_be_written_or_read_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decoded: list[str]
) -> None:
    problems = files(tmp_path)
    (tmp_path / "file").write_text("")
    for place in (str(tmp_path / "file"), "/proc/nowhere", str(tmp_path / "file" / "deeper")):
        monkeypatch.setenv("FOVEAL_CACHE", place)
        assert checked(problems) == []
    assert len(decoded) == 12


def test_folder_in_place_of_the_cache_file_stops_nothing(tmp_path: Path, cache: Path) -> None:
    problems = files(tmp_path)
    checked(problems)
    place = only_file(cache)
    place.unlink()
    place.mkdir()
    assert checked(problems) == []


def test_processes_that_write_at_once_leave_a_whole_file(tmp_path: Path, cache: Path) -> None:
    def write(start: int) -> None:
        for n in range(20):
            kept = Verdicts("data")
            kept.add(bytes([start, n]) * 8, bytes(16))
            kept.save()

    threads = [threading.Thread(target=write, args=(start,)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(Verdicts("data")._known) >= 20
    assert [p.name for p in (cache / "pictures").iterdir() if p.name.startswith(".")] == []


def test_cache_is_bounded_least_recently_used_first(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verdicts, "CACHE_BYTES", 2000)
    for n in range(5):
        kept = Verdicts(f"data {n}")
        for m in range(20):
            kept.add(bytes([n, m]) * 8, bytes(16))
        kept.save()
        time.sleep(0.01)
    sizes = [p.stat().st_size for p in (cache / "pictures").iterdir()]
    assert sum(sizes) <= 2000 and len(sizes) == 2
    assert Verdicts("data 4")._known and not Verdicts("data 0")._known


def test_number_of_verdicts_is_bounded_new_ones_first(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verdicts, "MOST_VERDICTS", 10)
    for start in range(3):
        kept = Verdicts("data")
        for n in range(8):
            kept.add(bytes([start, n]) * 8, bytes(16))
        kept.save()
    known = Verdicts("data")._known
    assert len(known) == 10 and all(bytes([2, n]) * 8 in known for n in range(8))


def test_another_pillow_looks_again(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Verdicts("data")
    kept.add(bytes(16), bytes(16))
    kept.save()
    assert Verdicts("data").find(bytes(16)) == bytes(16)
    monkeypatch.setattr(PIL, "__version__", "0.1")
    assert Verdicts("data").find(bytes(16)) is None


def test_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FOVEAL_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache_folder() == Path("/somewhere/foveal")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/a")
    assert cache_folder() == Path("/home/a/.cache/foveal")


def test_limits_hold_for_remembered_pictures_too(tmp_path: Path) -> None:
    content = png("red", (60, 40))
    kept = Verdicts("data")
    examine(Stored(content=content, where="x"), LIMITS, kept, decoded=True)
    with pytest.raises(DataError, match="huge picture of 60 x 40"):
        examine(Stored(content=content, where="x"), Limits(max_pixels=100), kept, decoded=True)


def verdict(content: bytes, limits: Limits) -> bool:
    try:
        decode(Stored(content=content, where="x"), limits)
    except DataError:
        return False
    return True


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_small_decoding_of_a_jpeg_says_what_full_decoding_says() -> None:
    """Cut, overwritten and shortened JPEGs, baseline and progressive, with EXIF orientation."""
    draw = np.random.default_rng(7)
    small = Limits(max_pixels=verdicts.DRAFT_PIXELS, oversize="resize")
    seen = {True: 0, False: 0}
    for n in range(240):
        size = (int(draw.integers(80, 300)), int(draw.integers(80, 300)))
        picture = PIL.Image.fromarray(draw.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
        exif = PIL.Image.Exif()
        exif[0x112] = 1 + n % 8
        buffer = io.BytesIO()
        mode = ("RGB", "L", "CMYK")[n % 3]
        picture.convert(mode).save(buffer, "JPEG", progressive=bool(n % 2), exif=exif)
        content = bytearray(buffer.getvalue())
        if n % 4 == 0:
            content = content[: int(draw.integers(700, len(content)))]
        elif n % 4 == 1:
            for place in draw.integers(0, len(content), 12):
                content[place] = int(draw.integers(0, 256))
        elif n % 4 == 2:
            start = int(draw.integers(0, len(content)))
            del content[start : start + 100]
        try:
            header(Stored(content=bytes(content), where="x"), LIMITS)
        except DataError:
            continue
        whole = verdict(bytes(content), LIMITS)
        assert verdict(bytes(content), small) == whole, n
        seen[whole] += 1
    assert min(seen.values()) > 30
