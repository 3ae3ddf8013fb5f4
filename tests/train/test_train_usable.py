"""Bad rows before a run: refused without a folder, or left out, counted, listed, and again on resume."""

import json
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from data_files import jsonl
from foveal.config import load
from foveal.data import verdicts
from foveal.data.errors import DataError
from foveal.data.selection import Selected
from foveal.evaluation.records import Evaluation
from foveal.spec import FovealError
from foveal.train import loop, usable
from foveal.train.assess import assess
from foveal.train.record import RunFolder
from foveal.train.watcher import Silent
from planted import good_row, photo, planted
from run_cases import differences, lines, world_table


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verdicts, "SETTLED_S", 0.0)
        yield


class Heard(Silent):
    """Keeps what a run says."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def message(self, text: str) -> None:
        self.told.append(text)


def table(model: Path, path: Path, **changes: Any) -> dict[str, Any]:
    """Short prompts of a file with few steps; a limit that the planted rows exceed."""
    found = world_table(model, steps=4, checkpoint={"every": 2, "keep": 9}, validation=None)
    found["data"] = {"path": str(path), "prompt_suffix": "", "bad_rows": "skip", "id_column": "id"}
    found["rewards"] = [{"type": "planted:Picky"}, {"type": "run_cases:Letters", "weight": 0.5}]
    found["sampling"] |= {"max_prompt_tokens": 900}
    del found["validation"]
    return found | changes


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[int, str]]:
    """Rows with every planted fault; read only."""
    return planted(tmp_path_factory.mktemp("planted"))


@pytest.fixture(scope="module")
def whole(
    tiny_folder: Path, data: tuple[Path, dict[int, str]], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A run without the bad rows; read only."""
    run = tmp_path_factory.mktemp("whole") / "run"
    loop.start(load(table(tiny_folder, data[0])), run)
    return run


def test_refusal_names_every_kind_and_leaves_no_folder(
    tiny_folder: Path, data: tuple[Path, dict[int, str]], tmp_path: Path
) -> None:
    path, kinds = data
    config = load(table(tiny_folder, path), overrides=["data.bad_rows=refuse"])
    with pytest.raises(DataError) as caught:
        loop.start(config, tmp_path / "run")
    message = str(caught.value)
    assert message.startswith("14 of 30 rows cannot be used (")
    for row, kind in kinds.items():
        assert f"line {row + 1}" in message and f"{kind}: {Counter(kinds.values())[kind]}" in message
    assert f"foveal data check {path}" in message and 'data.bad_rows = "skip"' in message
    assert list(tmp_path.iterdir()) == []


def test_skipped_rows_are_counted_listed_and_never_drawn(
    whole: Path, data: tuple[Path, dict[int, str]]
) -> None:
    listed = [json.loads(line) for line in (whole / "bad_rows.jsonl").read_text().splitlines()]
    assert {line["row"]: line["kind"] for line in listed} == data[1]
    assert all(set(line) == {"data", "row", "where", "id", "kind", "reason"} for line in listed)
    kept = json.loads((whole / "data.json").read_text())["train"]
    assert (kept["rows"], kept["used"]) == (30, 16)
    assert kept["bad_rows"] == dict(Counter(data[1].values()))
    drawn = {line["problem_id"] for line in lines(whole, "completions.jsonl")}
    assert drawn and not drawn & {f"p{row}" for row in data[1]}


def test_run_says_how_many_rows_are_left_out(tiny_folder: Path, data: tuple[Path, dict[int, str]]) -> None:
    heard = Heard()
    run = loop.Run.prepare(load(table(tiny_folder, data[0])), watcher=heard)
    run.close()
    assert isinstance(run.problems, Selected) and len(run.problems) == run.pictures.order.size == 16
    assert any(
        text.startswith("14 of 30 rows cannot be used and are left out (question: 3") for text in heard.told
    )


def test_same_rows_without_the_bad_ones_give_the_same_run(
    whole: Path, tiny_folder: Path, data: tuple[Path, dict[int, str]], tmp_path: Path
) -> None:
    """Leaving out is the same as deleting the lines by hand."""
    path, kinds = data
    shutil.copytree(path.parent, tmp_path / "clean")
    kept = [line for n, line in enumerate(path.read_text().splitlines(True)) if n not in kinds]
    clean = tmp_path / "clean" / "rows.jsonl"
    clean.write_text("".join(kept))
    loop.start(load(table(tiny_folder, clean), overrides=["data.bad_rows=refuse"]), tmp_path / "run")
    assert lines(tmp_path / "run") == lines(whole)
    assert not (tmp_path / "run" / "bad_rows.jsonl").exists()


def half_of(whole: Path, run: Path) -> Path:
    """The run as a kill after its second step leaves it."""
    shutil.copytree(whole, run)
    shutil.rmtree(run / "checkpoints" / "step-000004")
    (run / "summary.json").unlink()
    return run


def resume(run: Path, watcher: Any = None) -> None:
    loop.resume(run, config=load(run / "config.toml"), watcher=watcher)


def test_resume_leaves_the_same_rows_out(whole: Path, tmp_path: Path) -> None:
    run = half_of(whole, tmp_path / "run")
    resume(run)
    assert differences(run, whole) == []
    assert (run / "bad_rows.jsonl").read_bytes() == (whole / "bad_rows.jsonl").read_bytes()


def own_run(tiny_folder: Path, folder: Path) -> tuple[Path, Path]:
    """Data that a test may change, and a run on it that has its last two steps before it."""
    path, _ = planted(folder / "data")
    run = folder / "whole"
    loop.start(load(table(tiny_folder, path)), run)
    return path, half_of(run, folder / "half")


def test_resume_keeps_a_row_out_that_was_mended_and_refuses_one_that_broke(
    tiny_folder: Path, tmp_path: Path
) -> None:
    path, run = own_run(tiny_folder, tmp_path)
    whole = tmp_path / "whole"
    (path.parent / "nowhere.jpg").write_bytes(photo(5))  # row 14 could be used now
    broken = (path.parent / "0.jpg").read_bytes()
    (path.parent / "0.jpg").write_bytes(broken[: len(broken) // 2])
    with pytest.raises(DataError, match=r"(?s)used until now cannot be used any more.*1 of 30 rows.*line 1,"):
        resume(run)
    (path.parent / "0.jpg").write_bytes(broken)
    resume(run)
    assert differences(run, whole) == []


def test_resume_refuses_other_rows(tiny_folder: Path, tmp_path: Path) -> None:
    path, run = own_run(tiny_folder, tmp_path)
    text = path.read_text()
    path.write_text(text + json.dumps(good_row(path.parent, 99)) + "\n")
    with pytest.raises(DataError, match="not what the run began with .30 rows then, 31 now"):
        resume(run)
    path.write_text(text.replace('"p0"', '"other"'))
    with pytest.raises(DataError, match="not what the run began with .other ids"):
        resume(run)
    path.write_text(text)
    (run / "bad_rows.jsonl").unlink()
    with pytest.raises(FovealError, match=r"data\.json and bad_rows\.jsonl cannot be read: it counts"):
        resume(run)
    (run / "data.json").write_text("{")
    with pytest.raises(FovealError, match=r"data\.json .*cannot be read.*restore them"):
        resume(run)


def test_run_of_before_the_choice_was_kept_goes_on(whole: Path, tmp_path: Path) -> None:
    run = half_of(whole, tmp_path / "run")
    (run / "data.json").unlink()
    (run / "bad_rows.jsonl").unlink()
    resume(run)
    assert differences(run, whole) == []


def test_picture_that_breaks_on_decoding_is_found_before_the_folder_is_made(
    tiny_folder: Path, tmp_path: Path
) -> None:
    rows = [good_row(tmp_path, n) for n in range(8)]
    cut = photo(3, (200, 160))
    (tmp_path / "3.jpg").write_bytes(cut[: len(cut) - 200])
    path = jsonl(tmp_path / "d.jsonl", rows)
    config = load(table(tiny_folder, path), overrides=["data.bad_rows=refuse"])
    with pytest.raises(DataError, match=r"(?s)1 of 8 rows.*picture: 1.*line 4.*3\.jpg.*cannot be decoded"):
        loop.start(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    for setting, found in (("sample", True), ("headers", False)):
        config = load(table(tiny_folder, path), overrides=[f"data.check_pictures={setting}"])
        run = loop.Run.prepare(config, watcher=Silent())
        run.close()
        assert (len(run.problems) == 7) is found


def test_sample_of_the_pictures_is_spread_over_the_rows(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(usable, "SAMPLED_ROWS", 2)
    rows = [good_row(tmp_path, n) for n in range(6)]
    for n in (1, 3):
        cut = photo(n, (200, 160))
        (tmp_path / f"{n}.jpg").write_bytes(cut[: len(cut) - 200])
    config = load(
        table(tiny_folder, jsonl(tmp_path / "d.jsonl", rows)), overrides=["data.check_pictures=sample"]
    )
    run = loop.Run.prepare(config, watcher=Silent())
    run.close()
    assert [row.row for row in run.choices["train"].bad] == [3]  # rows 0 and 3 are decoded


def test_validation_and_evaluation_leave_bad_rows_out_and_count_them(
    tiny_folder: Path, data: tuple[Path, dict[int, str]], tmp_path: Path
) -> None:
    path, kinds = data
    validation = {
        "every": 9,
        "problems": 12,
        "data": {"path": str(path), "prompt_suffix": "", "bad_rows": "skip", "id_column": "id"},
    }
    config = load(table(tiny_folder, path, validation=validation, steps=1))
    loop.start(config, tmp_path / "run")
    among = Counter(kind for row, kind in kinds.items() if row < 12)
    head = json.loads((tmp_path / "run" / "validation" / "step-000000.json").read_text())
    assert head["bad_rows"] == dict(among) and head["summary"]["problems"] == 12 - among.total()
    kept = json.loads((tmp_path / "run" / "data.json").read_text())
    assert kept["validation"]["rows"] == 12 and kept["validation"]["bad_rows"] == dict(among)
    listed = [
        json.loads(line)["data"] for line in (tmp_path / "run" / "bad_rows.jsonl").read_text().splitlines()
    ]
    assert Counter(listed) == {"train": 14, "validation": among.total()}

    told: list[str] = []
    found = assess(config, samples=0, limit=12, message=told.append)
    assert found.bad_rows == dict(among) and len(found.records) == 12 - among.total()
    assert any("left out" in text for text in told)
    assert Evaluation.load(found.save(tmp_path / "one")).bad_rows == dict(among)
    with pytest.raises(DataError, match="8 of 12 rows cannot be used"):
        assess(load(table(tiny_folder, path), overrides=["data.bad_rows=refuse"]), samples=0, limit=12)


def test_evaluation_of_before_bad_rows_were_counted_is_read(whole: Path, tmp_path: Path) -> None:
    evaluation = Evaluation(records=(), k=1, greedy=True, max_new_tokens=1)
    head = {
        "schema_version": 1,
        "k": 1,
        "greedy": True,
        "max_new_tokens": 1,
        "name": "",
        "method": "",
        "seed": None,
    }
    (tmp_path / "old.json").write_text(json.dumps(head | {"level": evaluation.level}))
    (tmp_path / "old.jsonl").write_text("")
    assert Evaluation.load(tmp_path / "old") == evaluation


def test_kill_between_folder_and_choice_is_no_harm(
    whole: Path, tiny_folder: Path, data: tuple[Path, dict[int, str]], tmp_path: Path
) -> None:
    RunFolder.create(tmp_path / "run", load(table(tiny_folder, data[0]))).close()
    resume(tmp_path / "run")
    assert lines(tmp_path / "run") == lines(whole)


def test_long_check_says_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    clock = iter([0.0, 1.0, 10.5, 11.0, 31.0, 60.0])
    monkeypatch.setattr(usable.time, "monotonic", lambda: next(clock))
    tick = usable._Told(told.append)
    for done in (10, 210, 220, 620, 1000):
        tick(done, 1000)
    assert told == [
        "checking the data: 210 of 1,000 rows, 20 per second, 0.7 minutes left",
        "checking the data: 620 of 1,000 rows, 20 per second, 0.3 minutes left",
    ]
