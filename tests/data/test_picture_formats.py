"""Which kinds of pictures are opened, whatever their names say."""

import io
import subprocess
from pathlib import Path

import PIL.Image
import pytest
from PIL import features

from foveal.data import pictures
from foveal.data.errors import DataError
from foveal.data.pictures import FORMATS, Limits, Stored, decode, size
from foveal.data.problems import problems_from
from foveal.data.verdicts import in_memory

LIMITS = Limits(max_pixels=1 << 20)
BUILT = [name for name in FORMATS if name != "AVIF" or features.check("avif")]

EPS = b"""%!PS-Adobe-3.0 EPSF-3.0
%%BoundingBox: 0 0 8 8
%%EndComments
(%pipe%touch canary) (w) file
showpage
"""
STARTS = {
    "EPS": EPS,
    "PDF": b"%PDF-1.7\n",
    "PSD": b"8BPS\x00\x01" + b"\x00" * 20,
    "DDS": b"DDS " + b"\x00" * 124,
    "SVG": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "JPEG 2000": b"\x00\x00\x00\x0cjP  \r\n\x87\n",
}


def saved(kind: str) -> bytes:
    out = io.BytesIO()
    PIL.Image.new("RGB", (8, 6), "red").save(out, format=kind)
    return out.getvalue()


@pytest.mark.parametrize("kind", BUILT)
def test_pictures_of_the_list_are_opened_by_what_is_in_them(kind: str) -> None:
    picture = Stored(content=saved(kind), where="row 0 (x.txt)")
    assert size(picture, LIMITS) == (8, 6)
    red, green, _ = decode(picture, LIMITS).getpixel((4, 3))  # type: ignore[misc]
    assert red > 200 > 60 > green


@pytest.mark.parametrize("as_file", [False, True])
@pytest.mark.parametrize("kind", STARTS)
def test_other_kinds_are_refused_by_name_and_the_list_is_told(
    kind: str, as_file: bool, tmp_path: Path
) -> None:
    (tmp_path / "x.png").write_bytes(STARTS[kind])
    picture = Stored(content=tmp_path / "x.png" if as_file else STARTS[kind], where="row 0 (x.png)")
    with pytest.raises(DataError, match=rf"it is {kind}.*expected one of {', '.join(FORMATS)}; convert"):
        size(picture, LIMITS)


@pytest.mark.parametrize("kind", ["ICO", "PCX", "TGA", "SGI", "MSP", "SPIDER"])
def test_kinds_that_pillow_would_open_are_not(kind: str) -> None:
    mode = {"MSP": "1", "SPIDER": "F"}.get(kind, "RGB")
    out = io.BytesIO()
    PIL.Image.new(mode, (32, 32)).save(out, format=kind)
    assert PIL.Image.open(io.BytesIO(out.getvalue())).size == (32, 32)
    with pytest.raises(DataError, match="expected one of PNG, JPEG"):
        decode(Stored(content=out.getvalue(), where="row 0"), LIMITS)


def test_no_program_is_started_for_a_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(*arguments: object, **settings: object) -> None:
        raise AssertionError(f"started {arguments}")

    monkeypatch.setattr(subprocess, "Popen", start)
    with pytest.raises(DataError, match="it is EPS"):
        decode(Stored(content=EPS, where="row 0"), LIMITS)


def test_an_image_opened_elsewhere_is_not_decoded_by_a_kind_off_the_list(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def start(*arguments: object, **settings: object) -> None:
        raise AssertionError(f"started {arguments}")

    monkeypatch.setattr(subprocess, "Popen", start)
    row = {"question": "?!", "image": PIL.Image.open(io.BytesIO(EPS)), "answer": "1"}
    with pytest.raises(DataError, match="rows row 0.* opened as EPS, which is not decoded"):
        problems_from([row])[0]
    with pytest.raises(DataError, match="opened as EPS"):
        in_memory(PIL.Image.open(io.BytesIO(EPS)), where="p", decoded=True)
    for kind in ("JPEG", "MPO"):
        opened = PIL.Image.open(io.BytesIO(saved(kind)))
        assert decode(Stored(content=opened, where="row 0"), LIMITS).size == (8, 6)
    assert problems_from([{**row, "image": PIL.Image.new("RGB", (8, 6))}])[0].images[0].size == (8, 6)


def test_one_place_opens_pictures() -> None:
    source = Path(pictures.__file__).parents[1]
    found = {
        path.relative_to(source).as_posix()
        for path in source.rglob("*.py")
        if "Image.open" in path.read_text()
    }
    assert found == {"data/pictures.py"}


def test_the_security_page_names_the_list() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "security.md").read_text()
    assert f"{', '.join(FORMATS[:-1])} or {FORMATS[-1]}" in " ".join(page.split())
