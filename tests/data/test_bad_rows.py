"""Every row that cannot be used is found at once, counted by kind and named."""

import json
from collections import Counter
from pathlib import Path

import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_files import IMAGE, jsonl, parquet, png, viewed
from foveal.data.bad_rows import KINDS, SHOWN, BadRow, counts, described
from foveal.data.checks import Findings, Looked, Plan, look, spread, validate
from foveal.data.errors import DataError
from foveal.data.problems import DataConfig, open_data
from foveal.data.selection import Choice, Selected, choice_files, parse_choices, text_of
from foveal.data.summary import Summary, answer_kind, lines_of, shows_options, spread_of
from foveal.data.verdicts import Verdicts
from foveal.rewards.rules import Choice as ChoiceReward
from foveal.train.usable import gradable_by
from foveal.types import Problem
from planted import UNGRADABLE, Picky, good_row, photo, planted


def words(problem: Problem, sizes: object) -> int:
    """Stands for a tokenizer."""
    return len(problem.question.split())


def found_in(path: Path, *, observe: Summary | None = None, decode: bool = True) -> Findings:
    problems = open_data(str(path), prompt_suffix="", id_column="id")
    every = range(len(problems))
    plan = Plan(
        opened=every,
        decoded=every if decode else (),
        length=words,
        limit=1000,
        gradable=gradable_by([Picky()]),
        workers=2,
    )
    return look(problems, plan, Verdicts(None), observe=observe.observe if observe else lambda row: None)


def test_planted_faults_of_every_kind_are_all_found_in_one_pass(tmp_path: Path) -> None:
    path, kinds = planted(tmp_path)
    found = found_in(path)
    assert {row.row: row.kind for row in found.bad} == kinds
    assert set(kinds.values()) == set(KINDS) - {"id", "row", "text"}
    assert found.rows == found.looked == 30
    for row in found.bad:
        assert row.where == f"rows.jsonl line {row.row + 1}" and row.where in row.reason
        assert row.id == ("p3" if row.row == 16 else f"p{row.row}")


def test_message_counts_every_kind_and_names_the_first_few(tmp_path: Path) -> None:
    path, kinds = planted(tmp_path)
    message = described(found_in(path).bad, 30)
    assert message.startswith(
        "14 of 30 rows cannot be used (question: 3, answer: 2, marks: 1, no_picture: 1, "
    )
    for kind, number in Counter(kinds.values()).items():
        assert f"{KINDS[kind]} ({number}):" in message
    for row in kinds:
        assert f"line {row + 1}" in message
    assert 'data.bad_rows = "skip"' in message


def test_message_of_many_rows_stays_short() -> None:
    error = DataError("x" * 5000, kind="picture")
    bad = [BadRow.of(error, row=n, where=f"line {n}", id=str(n)) for n in range(1000)]
    message = described(bad, 2000)
    assert message.startswith("1,000 of 2,000 rows") and len(message) < 5000
    assert f"and {1000 - SHOWN} more" in message and "(5,000 characters)" in message


def test_half_letters_of_foreign_text_can_be_written() -> None:
    row = BadRow.of(DataError("bad \ud800 text"), row=0, where="a\udcff line 1", id="\ud83d")
    files = choice_files({"train": Choice(rows=2, bad=(row,))})
    assert "".join(files.values()).encode()
    assert parse_choices(files["data.json"], files["bad_rows.jsonl"])["train"].bad == (row,)


def test_header_alone_does_not_find_a_picture_that_breaks_off(tmp_path: Path) -> None:
    path, kinds = planted(tmp_path)
    missed = set(kinds) - {row.row for row in found_in(path, decode=False).bad}
    assert missed == {11}  # cut.jpg


def test_broken_lines_are_bad_rows_like_others(tmp_path: Path) -> None:
    good = [json.dumps(good_row(tmp_path, n)) for n in range(4)]
    path = tmp_path / "d.jsonl"
    broken = [b'{"id": ', b"[1, 2]", b'{"question": "\xff\xfe"}', b"null"]
    whole = [line.encode() for line in good]
    path.write_bytes(
        b"\n".join([whole[0], broken[0], whole[1], broken[1], whole[2], *broken[2:], whole[3], b""])
    )
    found = found_in(path)
    assert [(row.where, row.kind, row.id) for row in found.bad] == [
        (f"d.jsonl line {line}", "text", None) for line in (2, 4, 6, 7)
    ]
    assert found.rows == 8 and "broken JSON" in found.bad[0].reason and "not UTF-8" in found.bad[2].reason
    problems = open_data(str(path), id_column="id")
    assert problems[2].id == "p1"
    with pytest.raises(DataError, match="line 2: broken JSON"):
        problems[1]


def as_text(cells: list[bytes]) -> pa.Array:
    """A column of text whose bytes nobody has checked."""
    return pa.Array.from_buffers(pa.string(), len(cells), pa.array(cells, pa.binary()).buffers())


def test_text_of_parquet_that_is_no_utf8_is_a_fault_of_its_row(tmp_path: Path) -> None:
    picture = {"bytes": png("red"), "path": None}
    columns = {
        "id": ["a", "b", "c", "d"],
        "question": as_text([b"good?", b"bad \xff", b"fine?", b"fine?"]),
        "answer": as_text([b"1", b"2", b"\xfe", b"4"]),
        "image": pa.array([picture] * 4, IMAGE),
    }
    pq.write_table(pa.table(columns), tmp_path / "d.parquet")
    found = found_in(tmp_path / "d.parquet")
    assert [(row.row, row.kind) for row in found.bad] == [(1, "question"), (2, "answer")]
    assert "question should be text, got bytes" in found.bad[0].reason


def test_path_of_a_picture_that_is_no_utf8_is_a_bad_picture(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png("red"))
    columns = {
        "id": ["a", "b"],
        "question": ["one?", "two?"],
        "answer": ["1", "2"],
        "image": pa.StructArray.from_arrays(
            [pa.array([None, None], pa.binary()), as_text([b"a.png", b"\xff.png"])], ["bytes", "path"]
        ),
    }
    pq.write_table(pa.table(columns), tmp_path / "d.parquet")
    assert [(row.row, row.kind) for row in found_in(tmp_path / "d.parquet").bad] == [(1, "picture")]


def test_broken_lines_of_csv_are_bad_rows(tmp_path: Path) -> None:
    good_row(tmp_path, 0)
    path = tmp_path / "d.csv"
    path.write_text(
        "id,question,image,answer\na,one?,0.jpg,1\nb,two?,0.jpg\nc,three,four?,0.jpg,1\nd,x?,0.jpg,2\n"
    )
    assert [(row.row, row.kind) for row in found_in(path).bad] == [(1, "text"), (2, "text")]


def test_ids_that_are_no_text_are_a_kind_of_their_own(tmp_path: Path) -> None:
    rows = [good_row(tmp_path, n) for n in range(3)]
    rows[1]["id"] = 1.5
    found = found_in(jsonl(tmp_path / "d.jsonl", rows))
    assert [(row.row, row.kind, row.id) for row in found.bad] == [(1, "id", None)]


def test_pictures_of_all_rows_are_decoded_in_order_whatever_the_threads(tmp_path: Path) -> None:
    rows = [good_row(tmp_path, n) for n in range(40)]
    problems = open_data(str(jsonl(tmp_path / "d.jsonl", rows)))
    every = range(40)
    seen: list[Looked] = []
    plan = Plan(opened=every, decoded=every, workers=3)
    look(problems, plan, Verdicts(None), observe=seen.append)
    assert [looked.row for looked in seen] == list(every)
    assert len({looked.pictures[0].digest for looked in seen}) == 40


def test_a_decoder_that_raises_anything_is_a_bad_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from foveal.data import verdicts

    def broken(*given: object) -> None:
        raise ZeroDivisionError("inside a decoder")

    rows = [good_row(tmp_path, n) for n in range(2)]
    path = jsonl(tmp_path / "d.jsonl", rows)
    monkeypatch.setattr(verdicts, "decode", broken)
    found = found_in(path)
    assert [row.kind for row in found.bad] == ["picture"] * 2
    assert "ZeroDivisionError: inside a decoder" in found.bad[0].reason


def test_text_that_no_tokenizer_takes_is_a_bad_row(tmp_path: Path) -> None:
    def refuses(problem: Problem, sizes: object) -> int:
        raise UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed")

    problems = open_data(str(jsonl(tmp_path / "d.jsonl", [good_row(tmp_path, 0)])))
    found = look(problems, Plan(opened=range(1), decoded=(), length=refuses), Verdicts(None))
    assert [row.kind for row in found.bad] == ["question"] and "surrogates" in found.bad[0].reason


def test_lazily_opened_pictures_in_memory_are_decoded(tmp_path: Path) -> None:
    cut = photo(1)
    (tmp_path / "cut.jpg").write_bytes(cut[: len(cut) // 2])
    lazy = PIL.Image.open(tmp_path / "cut.jpg")
    problem = Problem(id="a", question="<image>?!", images=(lazy,), answer="1")
    validate([problem])
    with pytest.raises(DataError, match=r"problem 0 \(a\): the picture cannot be decoded"):
        validate([problem], decode=True)


def test_gradable_is_what_any_accuracy_reward_can_read() -> None:
    free = Problem(id="a", question="?", images=(), answer="a red cube")
    letter = Problem(id="b", question="?", images=(), answer="B")
    empty = Problem(id="c", question="?", images=(), answer=UNGRADABLE)
    assert [gradable_by([ChoiceReward()])(p) for p in (free, letter, empty)] == [False, True, False]
    assert [gradable_by([ChoiceReward(), Picky()])(p) for p in (free, letter, empty)] == [True, True, False]
    assert gradable_by([])(empty)


def test_selected_rows_keep_their_order_and_text(tmp_path: Path) -> None:
    problems = open_data(str(parquet(tmp_path / "a.parquet", viewed(5))))
    chosen = Selected(problems, [0, 2, 4])
    assert [problem.id for problem in chosen] == ["q0", "q2", "q4"]
    assert chosen[-1].id == "q4" and [p.id for p in chosen[1:]] == ["q2", "q4"]
    assert chosen.text(1).images == () and chosen.text(1).id == "q2"
    assert text_of(list(chosen), 2) == text_of(chosen, 2)
    with pytest.raises(IndexError):
        chosen[3]


def test_choice_that_leaves_nothing_is_refused() -> None:
    row = BadRow(row=0, where="line 1", id="a", kind="answer", reason="line 1: answer is empty")
    with pytest.raises(DataError, match="all 1 rows of the data cannot be used.*line 1: answer is empty"):
        Choice(rows=1, bad=(row,)).of([Problem(id="a", question="?", images=(), answer="")])


def test_choice_file_and_list_must_agree() -> None:
    row = BadRow(row=3, where="line 4", id=None, kind="answer", reason="empty")
    choices = {"train": Choice(rows=5, bad=(row,), ids="ab"), "validation": Choice(rows=2, ids="cd")}
    files = choice_files(choices)
    assert parse_choices(files["data.json"], files["bad_rows.jsonl"]) == choices
    with pytest.raises(ValueError, match="counts .*'answer': 1.* bad rows of train"):
        parse_choices(files["data.json"], "")


def test_spread_takes_rows_from_everywhere() -> None:
    assert spread(3, 9) == {0, 3, 6} and spread(20, 3) == {0, 1, 2} and spread(0, 3) == set()
    assert spread_of([5, 1, 3, 2]) == {"min": 1, "median": 2, "p95": 5, "max": 5} and spread_of([]) == {}


def test_summary_counts_repeats_letters_and_overlap(tmp_path: Path) -> None:
    rows = [good_row(tmp_path, n) for n in range(6)]
    rows[1] |= {"answer": "B", "question": "Which?\nA. one\nB. two"}
    rows[2] |= {"answer": "C", "question": "Which?"}
    rows[3] |= {"question": rows[0]["question"], "image": "0.jpg"}
    rows[4] |= {"answer": "(D)", "question": "Which one?", "choices": ["a", "b", "c", "d"]}
    summary, other = Summary(), Summary()
    found = found_in(jsonl(tmp_path / "train.jsonl", rows), observe=summary)
    table = summary.table(found, limit=1000)
    assert table["repeated"] == {"count": 1, "first": ["p3"]}
    assert table["options_missing"] == {"count": 1, "first": ["p2"]}
    assert table["answer_kinds"] == {"letter": 3, "number": 3}
    assert table["pictures"]["per_row"] == {"1": 6} and table["pictures"]["distinct"] == 5
    assert table["pictures"]["formats"] == {"JPEG": 6} and table["pictures"]["largest"] == "64 x 48"
    # The same problem under another id, and its picture under another question; one row is new.
    held = [{**rows[5], "id": "v0"}, {**rows[2], "id": "v1", "question": "Another?"}, good_row(tmp_path, 9)]
    found_in(jsonl(tmp_path / "val.jsonl", held), observe=other)
    overlap = summary.overlap(other)
    assert overlap["problems"] == {"count": 1, "first": ["v0"]}
    assert overlap["pictures"] == {"count": 2, "first": ["v0", "v1"]}
    assert any(line[0] == "repeated problems" and "p3" in line[2] for line in lines_of(table))


def test_prompt_lengths_count_the_overlong_too(tmp_path: Path) -> None:
    path, _ = planted(tmp_path)
    summary = Summary()
    found = found_in(path, observe=summary)
    tokens = summary.table(found, limit=1000)["prompt_tokens"]
    assert tokens["max"] == 2500 and tokens["above"] == 2 and found.longest == 4


@pytest.mark.parametrize(
    ("question", "shown"),
    [
        ("Which? (A) 1 (B) 2", True),
        ("Which?\nA. 1\nB. 2", True),
        ("Which? A: 1, B: 2", True),
        ("哪个?A、一 B、二", False),  # the first label sticks to other text
        ("哪个?\nA、一\nB、二", True),
        ("Is A larger than B?", False),
        ("In triangle ABC, angle A. is?", False),
    ],
)
def test_options_in_the_question_are_seen(question: str, shown: bool) -> None:
    problem = Problem(id="a", question=question, images=(), answer="A")
    assert shows_options(problem) is shown
    listed = Problem(id="a", question="?", images=(), answer="A", meta={"choices": ["1", "2"]})
    assert not shows_options(listed)  # the model is not asked with what only the rewards see
    own = Problem(id="a", question="?", images=(), answer="A", meta={"choices": ["A", "B"]})
    assert shows_options(own)  # the letters are drawn in the picture


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ("B", "letter"),
        ("(c)", "text"),
        ("12", "number"),
        ("-3.5e4", "number"),
        ("25 %", "number"),
        ("12 cm", "number with unit"),
        ("12 cm^2", "expression"),
        ("60度", "number with unit"),
        ("x = 3", "expression"),
        ("\\sqrt{3}", "expression"),
        ("True", "yes or no"),
        ("a red cube", "text"),
        ("red, blue", "list"),
    ],
)
def test_kinds_of_answers(answer: str, kind: str) -> None:
    assert answer_kind(answer) == kind


def test_config_takes_the_two_settings_and_no_other(tmp_path: Path) -> None:
    assert DataConfig(path="a").bad_rows == "refuse" and DataConfig(path="a").check_pictures == "all"
    with pytest.raises(ValueError, match="bad_rows"):
        DataConfig(path="a", bad_rows="drop")  # type: ignore[arg-type]


def test_counts_stand_in_the_order_of_kinds() -> None:
    bad = [
        BadRow(row=0, where="", id=None, kind=kind, reason="") for kind in ("overlong", "answer", "overlong")
    ]
    assert list(counts(bad).items()) == [("answer", 1), ("overlong", 2)]
