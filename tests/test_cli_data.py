"""`foveal data show` and `foveal data check`, through the command's own entry point."""

import json
from collections import Counter
from pathlib import Path

import PIL.Image
import pytest

from data_files import jsonl
from foveal.cli import main
from foveal.data.bad_rows import KINDS
from foveal.data.sheet import COLUMNS, TILE_PX, contact_sheet
from foveal.types import Problem
from planted import good_row, planted


def run(*words: str) -> int:
    return main(["data", *words])


def test_check_prints_the_table_lists_the_bad_rows_and_ends_with_two(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, kinds = planted(tmp_path)
    del kinds[20]  # the reward of a run without a config can read it
    assert run("check", str(path), "id_column=id", "--write", str(tmp_path / "bad.jsonl")) == 2
    found = capsys.readouterr()
    for kind, number in Counter(kinds.values()).items():
        assert f"bad: {kind}" in found.out and f"{KINDS[kind]} ({number}):" in found.err
    assert "foveal: 13 of 30 rows cannot be used" in found.err and "Traceback" not in found.err
    listed = [json.loads(line) for line in (tmp_path / "bad.jsonl").read_text().splitlines()]
    assert {line["row"]: line["kind"] for line in listed} == kinds


def test_check_of_good_data_ends_with_zero_and_prints_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [good_row(tmp_path, n) for n in range(5)]
    rows[4] |= {"answer": "C", "question": "Which?"}
    path = jsonl(tmp_path / "train.jsonl", rows)
    held = jsonl(tmp_path / "val.jsonl", [{**rows[1], "id": "v"}, good_row(tmp_path, 8)])
    assert run("check", str(path), "--against", str(held), "--json") == 0
    table = json.loads(capsys.readouterr().out)
    assert table["rows"] == table["usable"] == 5 and table["bad_rows"] == {}
    assert table["golds"] == {"graded": 5, "wrong": {"count": 0, "first": []}}
    assert table["options_missing"] == {"count": 1, "first": ["p4"]}
    assert table["overlap"]["problems"] == {"count": 1, "first": ["v"]}
    assert table["prompt_tokens"]["limit"] == 4096 and table["prompt_tokens"]["max"] > 100


def test_check_takes_overrides_of_the_data_and_of_any_section(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{**good_row(tmp_path, n), "q": "?!"} for n in range(4)]
    for row in rows:
        del row["question"]
    path = jsonl(tmp_path / "d.jsonl", rows)
    words = ("question_column=q", "limit=2", "prompt_suffix=", "sampling.max_prompt_tokens=22", "--json")
    assert run("check", str(path), *words) == 0
    table = json.loads(capsys.readouterr().out)
    assert table["rows"] == 2 and table["prompt_tokens"]["limit"] == 22
    assert run("check", str(path), "question_column=q", "sampling.max_prompt_tokens=21") == 2
    assert "overlong: 4" in capsys.readouterr().err


def test_check_of_a_config_looks_at_its_data_and_its_validation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = jsonl(tmp_path / "d.jsonl", [good_row(tmp_path, n) for n in range(3)])
    config = tmp_path / "run.toml"
    config.write_text(
        f'[data]\npath = "{path}"\n[objective]\ntype = "grpo"\n[[rewards]]\ntype = "boxed"\n'
        f'[validation.data]\npath = "{path}"\nlimit = 2\n'
    )
    assert run("check", str(config), "--json") == 0
    table = json.loads(capsys.readouterr().out)
    assert table["rows"] == 3 and table["overlap"]["problems"]["count"] == 2


def test_check_of_a_world_looks_at_the_first_problems(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("check", "world", "size=12") == 0
    assert "rows that can be used │ 12" in capsys.readouterr().out


def test_answers_that_their_own_reward_does_not_pay_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The reward `choice` without options, and options of which the answer is none."""
    rows = [{**good_row(tmp_path, n), "choices": ["a", "b"]} for n in range(4)]
    rows[0]["answer"], rows[1]["answer"], rows[3]["answer"] = "A", "b", "E"
    rows[2] |= {"answer": "seven", "choices": None}
    path = jsonl(tmp_path / "d.jsonl", rows)
    config = tmp_path / "c.toml"
    config.write_text(f'[data]\npath = "{path}"\n[objective]\ntype = "grpo"\n[[rewards]]\ntype = "choice"\n')
    assert run("check", str(config), "--json") == 2
    found = capsys.readouterr()
    assert json.loads(found.out)["bad_rows"] == {"answer": 1, "ungradable": 1}
    assert "d.jsonl line 3: no reward of the run can grade the answer 'seven'" in found.err
    assert "d.jsonl line 4: answer is 'E', which is none of the options A, B" in found.err


def test_show_prints_the_mapping_prompts_and_a_sheet(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, _ = planted(tmp_path)
    out = tmp_path / "sheet.png"
    assert run("show", str(path), "--out", str(out)) == 0
    text = capsys.readouterr().out
    assert "question  question" in text and "images    image" in text and "30 rows" in text
    assert text.count("<|im_start|>user\n<|vision_start|>[<|image_pad|> x 4]<|vision_end|>How many?") == 3
    assert text.count("<|im_start|>assistant\n") == 3 and "--- answer: 6" in text
    assert "cannot be used: rows.jsonl line 2: question is empty" in text and "line 12" not in text
    assert f"written: {out} (pictures of 12 rows)" in text
    with PIL.Image.open(out) as sheet:
        assert sheet.width == COLUMNS * TILE_PX and sheet.height > 300
        assert len(sheet.convert("RGB").getcolors(1 << 24) or ()) > 1000


def test_show_names_what_is_wrong_where_no_row_can_be_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = jsonl(tmp_path / "d.jsonl", [{**good_row(tmp_path, 0), "answer": ""}])
    assert run("show", str(path), "--out", str(tmp_path / "a.png")) == 2
    found = capsys.readouterr()
    assert "none of the first 1 rows" in found.err and "line 1: answer is empty" in found.out
    assert not (tmp_path / "a.png").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["show", "nowhere/x.jsonl"], "there is no folder"),
        (["check", "nowhere/x.jsonl"], "there is no folder"),
        (["show", "{file}", "--rows", "0"], "--rows is 0; expected at least 1"),
        (["show", "{file}", "--out", "{folder}"], "is a folder; expected the name of a picture"),
        (["check", "{file}", "colum=3"], "unknown key 'colum'"),
        (["check", "{file}", "--model", "no_model"], "no such model"),
        (["check", "{file}", "--against", "nowhere/x.jsonl"], "there is no folder"),
        (["check", "{file}", "--write", "{folder}"], "cannot be written"),
        (["check", ""], "--data is empty"),
    ],
)
def test_mistakes_are_one_message(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = jsonl(tmp_path / "d.jsonl", [good_row(tmp_path, n) for n in range(2)])
    assert run(*(word.format(file=path, folder=tmp_path) for word in words)) == 2
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error


def test_sheet_draws_any_shapes_modes_and_letters() -> None:
    pictures = (
        PIL.Image.new("RGB", (1, 1), "red"),
        PIL.Image.new("L", (2000, 10)),
        PIL.Image.new("RGBA", (10, 2000)),
        PIL.Image.new("P", (300, 300)),
    )
    marks = "<image>" * 4
    problems = [
        (
            "a\nb",
            Problem(id="a", question=f"{marks}面积\x1b[2J\ud800?", images=pictures, answer="一"),
        ),
        ("c" * 500, Problem(id="b", question="word " * 1000, images=(), answer="x" * 9000)),
    ]
    sheet = contact_sheet(problems, suffix="?")
    assert sheet.width == 2 * TILE_PX and sheet.height < 600
