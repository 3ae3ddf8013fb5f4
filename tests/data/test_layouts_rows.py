"""The rules behind the layouts: turns, options, indices, marks, ids, places of pictures, rows in memory."""

import json
import os
import zipfile
from collections.abc import Mapping, Sequence
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from data_files import IMAGE, jsonl, parquet, png, viewed
from foveal.data.bounded import short
from foveal.data.checks import validate
from foveal.data.errors import DataError
from foveal.data.layouts.options import read_options
from foveal.data.marks import place_marks
from foveal.data.problems import PROMPT_SUFFIX, DataConfig, open_data, problems_from
from foveal.rewards.answers.verdict import verdict
from foveal.types import Problem
from layout_cases import BLUE, RED, table, zipped

PICTURE = PIL.Image.new("RGB", (12, 8), "red")


def one(row: Mapping[str, Any], **fields: Any) -> Problem:
    (problem,) = problems_from([row], **{"prompt_suffix": "", **fields})
    return problem


def refused(rows: Sequence[Mapping[str, Any]], **fields: Any) -> str:
    with pytest.raises(DataError) as caught:
        validate(problems_from(rows, **fields), decode=True)
    assert len(str(caught.value)) < 1500
    return str(caught.value)


@pytest.mark.parametrize(
    "cell, labels, texts",
    [
        (["a cube", "a cone"], "AB", ("a cube", "a cone")),
        ([3, 4.0, 5.5], "ABC", ("3", "4", "5.5")),
        (["A. 12", "B. 13"], "AB", ("12", "13")),
        (["(A) 12", "(B) 13"], "AB", ("12", "13")),
        (["A. 12", "13"], "AB", ("A. 12", "13")),
        ("['a, b', \"it's\", 3]", "ABC", ("a, b", "it's", "3")),
        ('["a", "b"]', "AB", ("a", "b")),
        ("['a' 'b']", "AB", ("a", "b")),
        ("['\\\\frac{1}{2}', '\\pi']", "AB", ("\\frac{1}{2}", "\\pi")),
        ("A. 200.96;B. 3215.36;C. 6280", "ABC", ("200.96", "3215.36", "6280")),
        ("A、红色；B、蓝色", "AB", ("红色", "蓝色")),
        ("(A) x = 1\n(B) see B. Russell", "AB", ("x = 1", "see B. Russell")),
        ({"A": "x", "B": "y", "C": None}, "AB", ("x", "y")),
        ({"text": ["x", "y"], "label": ["1", "2"]}, "AB", ("x", "y")),
        ({"a": "x", "b": "y"}, "AB", ("x", "y")),
        ({"B": "x", "D": "y"}, "BD", ("x", "y")),
        ([{"label": "A", "text": "x"}, {"label": "B", "text": "y"}], "AB", ("x", "y")),
        (
            [{"label": "A", "text": "x"}, {"label": "B", "text": None}, {"label": "C", "text": "y"}],
            "AC",
            ("x", "y"),
        ),
        ([{"text": "x"}, {"text": "y"}], "AB", ("x", "y")),
        (["1", None, "2", "3"], "ACD", ("1", "2", "3")),
        (["1", "", float("nan"), "3"], "AD", ("1", "3")),
        ("['1', None, '2']", "AC", ("1", "2")),
        ('["1", null, 2]', "AC", ("1", "2")),
        (["1", "None", "2"], "ABC", ("1", "None", "2")),
        ({"text": ["x", None, "y"], "label": ["A", "B", "C"]}, "AC", ("x", "y")),
        ("{'A': 'cat', 'B': \"it's\"}", "AB", ("cat", "it's")),
        ("{'A': 'cat', 'B': None, 'C': 3}", "AC", ("cat", "3")),
        ('{"A": "cat", "B": 2}', "AB", ("cat", "2")),
        ('[{"label": "A", "text": "x"}, {"label": "B", "text": "y"}]', "AB", ("x", "y")),
        ([["A", "cat"], ["B", "dog"]], "AB", ("cat", "dog")),
        ([("b", 1), ("c", 2)], "BC", ("1", "2")),
        (list(range(26)), "ABCDEFGHIJKLMNOPQRSTUVWXYZ", tuple(map(str, range(26)))),
    ],
)
def test_options_are_read_in_every_form(cell: object, labels: str, texts: tuple[str, ...]) -> None:
    found = read_options(cell)
    assert found is not None and found.labels == tuple(labels) and found.texts == texts


@pytest.mark.parametrize(
    "cell",
    [None, "", [], "[]", {}, "just text", "B. x; C. y", [None], "[", "['a", 7, "[" * 90, [b"x"], [PICTURE]]
    + ["{", "{'a'", "{'a': }", "{'a': 1 'b': 2}", "{'a': {'b': 1}}", [[1, 5], [2, 6]], list(range(27))]
    + [{"a": ["x"], "b": "y"}, {"label": ["A"], "text": ["x", "y"]}, [{"label": "A", "text": b"x"}]],
)
def test_what_holds_no_options_gives_none(cell: object) -> None:
    assert read_options(cell) is None


@pytest.mark.parametrize(
    "question, shown",
    [
        ("Which? A. red B. blue", True),
        ("Which?\n(A) red\n(B)  blue", True),
        ("Which? A: Red, B: Blue", True),
        ("Is red or blue right?", False),
        ("Which? A. red", False),
        ("Which? A. redder B. blue", False),
    ],
)
def test_options_are_put_behind_a_question_that_lacks_them(question: str, shown: bool) -> None:
    row = {"question": question, "choices": ["red", "blue"], "image": PICTURE, "answer": "A"}
    found = one(row).question
    assert found == (f"<image>{question}" if shown else f"<image>{question}\nA. red\nB. blue")
    assert one(row, show_options=False).question == f"<image>{question}"
    assert one(row).meta["choices"] == ["red", "blue"]


def test_an_empty_place_among_the_options_shifts_no_letter() -> None:
    row = {"question": "?!", "image": PICTURE, "answer": "C"}
    listed = one({**row, "choices": ["1", None, "2", "3"]})
    for found in (listed, one({**row, "A": "1", "B": "", "C": "2", "D": "3"})):
        assert found.question == "<image>?!\nA. 1\nC. 2\nD. 3" and found.answer == "C"
        assert found.meta["choices"] == {"A": "1", "C": "2", "D": "3"}
    assert one({**row, "choices": ["1", None, "2", "3"], "answer": 2}, answer_kind="index").answer == "C"
    assert one({**row, "choices": ["1", "2", None], "answer": "B"}).meta["choices"] == ["1", "2"]
    said = refused([{**row, "choices": ["1", None, "2"], "answer": 1}], answer_kind="index")
    assert "should be the number of one of 3 options, counted from 0, got '1'" in said


@pytest.mark.parametrize(
    "cell", ["cat, dog", [str(n) for n in range(27)], [PICTURE, PICTURE], {"a": ["x"]}, "B. x; C. y"]
)
def test_options_that_cannot_be_read_make_a_bad_row(cell: object) -> None:
    good = {"question": "?!", "image": PICTURE, "answer": "A", "choices": ["1", "2"]}
    for rows in ([good, {**good, "choices": cell}], [{**good, "choices": cell}] * 2):
        said = refused(rows)
        assert f"rows row 1: choices holds no options that can be read, got {short(cell)}" in said
    assert "choices" not in one({**good, "choices": cell}, choices_column=False).meta


@pytest.mark.parametrize("cell", [None, "", "[]", "{}", "nan", "N/A", [], {}, [None], ["", None], "[None]"])
def test_a_row_without_options_among_others_is_none_of_them(cell: object) -> None:
    good = {"question": "?!", "image": PICTURE, "answer": "A", "choices": ["1", "2"]}
    _, without = problems_from([good, {**good, "choices": cell}], prompt_suffix="")
    assert without.question == "<image>?!" and "choices" not in without.meta


def test_a_column_that_may_be_something_else_is_said_in_a_note() -> None:
    problems = problems_from([{"question": "?!", "choice": "yes/no", "image": PICTURE, "answer": "yes"}])
    (note,) = problems.understood.notes
    assert note == "choice holds no options that can be read, so the model is not shown any"
    assert problems[0].meta["choice"] == "yes/no"


def test_one_answer_in_several_spellings_is_one_answer() -> None:
    assert one({"question": "?!", "image": PICTURE, "answer": ["Yes", "yes"]}).answer == "Yes"
    assert (
        one({"question": "?!", "image": PICTURE, "answer": ["a", "b", "A"]}, answer_kind="all").answer
        == "a, b"
    )
    annotated = [{"answer": "yes", "answer_id": 1}, {"answer": "Yes", "answer_id": 2}]
    assert (
        one({"question": "?!", "image": PICTURE, "answers": annotated}, answer_column="answers").answer
        == "yes"
    )


def test_unequal_answers_in_a_list_ask_whether_any_or_all_are_right() -> None:
    row = {"question": "?!", "image": PICTURE, "answer": ["24/7", "3.429"]}
    said = refused([row])
    assert "rows row 0: answer has several answers, ['24/7', '3.429']" in said
    assert "answer_kind = 'any' (each of them is right) or 'all' (all of them have" in said
    assert one(row, answer_kind="all").answer == "24/7, 3.429"
    either = one(row, answer_kind="any")
    assert [verdict(either.answer, text) for text in ("24/7", "3.429", "24/7, 3.429", "3")] == [
        True,
        True,
        False,
        False,
    ]
    nokia = [*["nokia"] * 9, 'the "nokia" phone']
    assert one({**row, "answer": nokia}, answer_kind="any").answer == '["nokia", \'the "nokia" phone\']'
    letters = one({**row, "answer": ["A", "B"]}, answer_kind="any").answer
    assert [verdict(letters, text) for text in ("A", "B", "C")] == [True, True, False]
    for members in (["5'6\" tall", "66 inches"], [str(n) for n in range(40)]):
        assert "cannot be told apart" in refused([{**row, "answer": members}], answer_kind="any")


def test_several_letters_of_options_are_all_asked_for() -> None:
    row = {"question": "?!", "image": PICTURE, "choices": ["cat", "dog", "cow"]}
    assert one({**row, "answer": ["A", "C"]}).answer == "A, C"
    assert one({**row, "answer": ["cat", "cow"]}, answer_kind="all").answer == "A, C"
    assert one({**row, "answer": [0, 2]}, answer_kind="index").answer == "A, C"
    assert one({**row, "answer": ["A", "C"]}, answer_kind="any").answer == '["(A)", "(C)"]'
    assert "answer_kind = 'any'" in refused([{**row, "answer": ["cat", "cow"]}])


def test_true_and_false_are_yes_and_no() -> None:
    row = {"question": "?!", "image": PICTURE}
    assert [one({**row, "answer": value}).answer for value in (True, False, [True, True])] == [
        "yes",
        "no",
        "yes",
    ]


@pytest.mark.parametrize("answer", ["D", "zebra", "3", "A, D", "26"])
def test_an_answer_that_is_no_option_makes_a_bad_row(answer: str) -> None:
    row = {"question": "?!", "image": PICTURE, "choices": ["cat", "25"], "answer": "A"}
    for kind in ("auto", "text"):
        said = refused([row, {**row, "answer": answer}], answer_kind=kind)
        assert f"rows row 1: answer is {answer!r}, which is none of the options A, B" in said
        assert "answers that are missing" in said or "answer: 1" in said
    assert one({**row, "answer": answer}, choices_column=False).answer == answer


@pytest.mark.parametrize("answer", ["B", "(b)", "25", "25.0", "B. 25", "A, B", "cat", "Cat", "\\text{cat}"])
def test_an_answer_that_names_an_option_in_any_way_is_taken(answer: str) -> None:
    assert one({"question": "?!", "image": PICTURE, "choices": ["cat", "25"], "answer": answer}).answer


def test_one_number_out_of_range_does_not_change_how_the_others_are_read() -> None:
    values = [0, 1, 2, 1, 2, 0]
    rows = [{"question": "?!", "image": PICTURE, "choices": list("xyz"), "answer": n} for n in [*values, 9]]
    problems = problems_from(rows)
    assert problems.understood["answer"].kind == "index"
    assert [problems[n].answer for n in range(6)] == list("ABCBCA")
    said = refused(rows)
    assert "1 of 7 rows" in said and "one of 3 options, counted from 0, got '9'" in said
    said = refused([*rows[:6], {**rows[0], "answer": "many"}])
    assert "1 of 7 rows" in said and "got 'many'" in said
    ones = [{**row, "answer": n} for row, n in zip(rows, [1, 2, 3, 3, 1, 2, 9], strict=True)]
    assert problems_from(ones)[2].answer == "C"
    texts = [{**rows[0], "choices": ["7", "8", "9"], "answer": n} for n in (7, 8, 9, 7, 8, 9, 5)]
    assert problems_from(texts)[1].answer == "8" and "answer is '5', which is none" in refused(texts)


def test_options_that_are_their_own_letters_stand_in_the_picture() -> None:
    row = {"question": "Which piece?", "options": ["A", "B", "C"], "image": PICTURE, "answer": "C"}
    assert one(row).question == "<image>Which piece?"


def test_the_model_sees_letters_where_the_file_counts_and_the_answer_is_the_letter() -> None:
    choices = {"text": ["x", "y"], "label": ["1", "2"]}
    problem = one({"question": "?!", "choices": choices, "image": PICTURE, "answerKey": "2"})
    assert problem.question == "<image>?!\nA. x\nB. y" and problem.answer == "B"
    assert problem.meta["choices"] == ["x", "y"]


def test_letters_with_gaps_stay_a_table() -> None:
    problem = one({"question": "?!", "choices": {"B": "x", "D": "y"}, "image": PICTURE, "answer": "D"})
    assert problem.question == "<image>?!\nB. x\nD. y" and problem.meta["choices"] == {"B": "x", "D": "y"}


def test_meta_holds_plain_data_alone() -> None:
    row = {"question": "?!", "image": PICTURE, "answer": "1", "mask": PICTURE, "raw": [b"x"]}
    row |= {"day": date(2020, 1, 2), "cost": Decimal("1.50"), "text": "a\ud800", "nested": {"x": (1, None)}}
    meta = one(row).meta
    assert json.loads(json.dumps(meta, ensure_ascii=False).encode()) == meta
    assert meta["day"] == "2020-01-02" and meta["cost"] == "1.50" and meta["text"] == "a\ufffd"
    assert meta["nested"] == {"x": [1, None]} and "mask" not in meta and "raw" not in meta


def answers(values: Sequence[object], options: Sequence[object], **fields: Any) -> list[str]:
    rows = [
        {"question": "?!", "image": PICTURE, "choices": list(options), "answer": value} for value in values
    ]
    return [problem.answer for problem in problems_from(rows, **fields)]


def test_a_number_is_the_place_of_an_option_only_where_that_is_certain() -> None:
    assert answers([0, 1, 2], "xyz") == ["A", "B", "C"]
    assert answers(["0", "2"], "xyz") == ["A", "C"]
    assert answers([1, 2, 3], "xyz") == ["A", "B", "C"]
    assert answers([3, 4, 5], ["3", "4", "5"]) == ["3", "4", "5"]
    assert answers(["1", "2"], ["1", "2", "3"]) == ["1", "2"]
    for values, outside in (([7, 12], "7"), (["A", "1"], "1")):
        with pytest.raises(DataError, match=f"answer is '{outside}', which is none of the options A, B, C"):
            answers(values, "xyz")
    assert answers([1, 2], "xyz", answer_kind="index") == ["B", "C"]
    assert answers([0, 1], ["0", "1"]) == ["0", "1"]  # both readings name the same option
    for values, options in (([1, 2], "xyz"), ([1, 2], ["1", "2", "3"]), ([0, 1], ["1", "0"])):
        with pytest.raises(DataError, match="read in more than one way; set answer_kind = 'index'"):
            answers(values, options)


def test_a_place_that_no_option_has_names_the_row() -> None:
    rows = [{"question": "?!", "image": PICTURE, "choices": ["x", "y"], "answer": n} for n in (0, 1, 5)]
    said = refused(rows, answer_kind="index")
    assert "rows row 2: answer should be the number of one of 2 options, counted from 0, got '5'" in said


@pytest.mark.parametrize(
    "texts, labels, marked, order",
    [
        (("?",), (1, 2), ("<image><image>?",), (0, 1)),
        (("<image 2> <image 1>",), (1, 2), ("<image> <image>",), (1, 0)),
        (("<image1> then <image_1>",), (1,), ("<image> then image 1",), (0,)),
        (("of <image 3>",), (1, 3), ("<image>of <image>",), (0, 1)),
        (("a <image>", "b"), (1,), ("a <image>", "b"), (0,)),
        (("a", "b"), (1,), ("<image>a", "b"), (0,)),
        (("<image 5>",), (5,), ("<image>",), (0,)),
    ],
)
def test_marks_are_one_per_picture(
    texts: tuple[str, ...], labels: tuple[int, ...], marked: tuple[str, ...], order: tuple[int, ...]
) -> None:
    found = place_marks(texts, labels, front=0, where="row")
    assert (found.texts, found.order) == (marked, order)


def test_numbered_marks_take_the_pictures_of_their_columns() -> None:
    row = {"question": "<image 3> or <image 1>?", "image_1": PICTURE, "image_2": None, "answer": "A"}
    problem = one({**row, "image_3": PIL.Image.new("RGB", (12, 8), "blue")})
    assert problem.question == "<image> or <image>?"
    assert [image.getpixel((0, 0)) for image in problem.images] == [(0, 0, 255), (255, 0, 0)]


def test_a_conversation_keeps_its_system_prompt_and_earlier_turns() -> None:
    turns = [
        {"role": "system", "content": "Look first."},
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "A bus."}]},
        {"role": "user", "content": "Its colour?"},
    ]
    problem = one({"prompt": turns, "image": PICTURE, "answer": "red"}, prompt_suffix="Box it.")
    assert problem.system == "Look first." and problem.question == "Its colour?\n\nBox it."
    assert [(turn.role, turn.text) for turn in problem.turns] == [
        ("user", "<image>What is it?"),
        ("assistant", "A bus."),
    ]
    assert problem.marks == 1
    assert problem.asked == (
        "[system] Look first.\n\n[user] <image>What is it?\n\n[assistant] A bus.\n\n"
        "[user] Its colour?\n\nBox it."
    )


def test_a_picture_without_a_mark_goes_before_the_first_turn_of_the_user() -> None:
    turns = [("user", "What is it?"), ("assistant", "A bus."), ("user", "Its colour?")]
    messages = [{"role": role, "content": text} for role, text in turns]
    problem = one({"messages": messages, "image": PICTURE, "answer": "red"})
    assert problem.turns[0].text == "<image>What is it?" and problem.question == "Its colour?"


def test_the_reply_behind_the_question_is_the_answer_only_where_no_column_has_one() -> None:
    turns = [{"from": "human", "value": "?!"}, {"from": "gpt", "value": "It is <answer> 3 </answer>."}]
    assert one({"conversations": turns, "image": PICTURE}).answer == "3"
    assert one({"conversations": turns, "image": PICTURE, "answer": "4"}).answer == "4"


@pytest.mark.parametrize(
    "turns, part",
    [
        ([{"role": "user", "content": "?"}, {"role": "tool", "content": "x"}], "unknown speaker 'tool'"),
        ([{"role": "assistant", "content": "x"}], "no turn of a user"),
        (
            [{"role": "user", "content": "?"}, {"role": "system", "content": "x"}],
            "system turn that is not the first",
        ),
        ([{"role": "user", "content": [{"type": "video", "video": "a.mp4"}]}], "a part of type 'video'"),
        ([{"role": "user", "content": "<video>?"}], "a <video> mark"),
        ([{"role": "user", "content": 5}], "content should be text or a list of parts, got int"),
        ([{"role": "user", "content": "<|im_end|>"}], "control token '<|im_end|>'"),
        ([{"role": "system", "content": "<|im_end|>"}, {"role": "user", "content": "?!"}], "control token"),
        ("text", "should be a list of turns"),
    ],
)
def test_turns_that_cannot_be_a_prompt_are_named(turns: object, part: str) -> None:
    good = {"prompt": [{"role": "user", "content": "?!"}], "image": PICTURE, "answer": "1"}
    said = refused([good, {**good, "prompt": turns}])
    assert "rows row 1" in said and part in said


def test_a_suffix_that_the_question_has_is_not_repeated() -> None:
    row = {"problem": f"How many? {PROMPT_SUFFIX}", "image": PICTURE, "answer": "3"}
    assert one(row, prompt_suffix=PROMPT_SUFFIX).question.count("internal monologue") == 1


def test_the_answer_column_is_never_suggested_for_the_question() -> None:
    with pytest.raises(DataError) as caught:
        one({"solution": "3", "images": PICTURE})
    assert "did you mean" not in str(caught.value) and "question_column = 'NAME'" in str(caught.value)


@pytest.mark.parametrize(
    "truth, answer",
    [
        ("<think>so \\boxed{7}</think><answer>B</answer>", "B"),
        ("<answer> yes </answer>", "yes"),
        ("$\\boxed{21}$", "21"),
        ("<answer>\\boxed{4}</answer>", "4"),
        ("3", "3"),
    ],
)
def test_truths_are_reduced_to_what_they_state(truth: str, answer: str) -> None:
    problem = one({"problem": "?!", "image": PICTURE, "solution": truth})
    assert problem.answer == answer and problem.meta["solution"] == truth


def test_a_truth_that_states_nothing_is_refused() -> None:
    row = {"problem": "?!", "image": PICTURE, "solution": "First we see that. " * 60}
    assert "solution states no short answer (got 1,139 characters, 'First we" in refused([row])
    assert "answer_kind = 'text'" in refused([{**row, "solution": "<think>3</think>"}])
    assert one(row, answer_kind="text").answer == row["solution"].strip()  # type: ignore[attr-defined]
    long = "the option with many words " * 20
    assert one({**row, "choices": [long, "x"], "solution": long}).answer == long.strip()


def test_ids_with_gaps_or_duplicates_give_way_to_file_and_row(tmp_path: Path) -> None:
    row = {"problem": "?!", "images": [RED], "answer": "1"}
    for ids, part in (([1, 1], "has 1 duplicates in 2 rows"), ([1, None], "is empty in 1 of 2 rows")):
        path = table(tmp_path, [{**row, "id": number} for number in ids], id=None)
        problems = open_data(str(path))
        validate(problems)
        assert [problem.id for problem in problems] == ["train/0", "train/1"]
        assert any(f"id {part}" in note for note in problems.understood.notes)
    path = table(tmp_path, [{**row, "id": number} for number in (1, 2)])
    assert [p.id for p in open_data(str(path))] == ["1", "2"]
    assert [p.id for p in DataConfig(path=str(path), id_column=False).load()] == ["train/0", "train/1"]


def test_a_few_bad_ids_are_faults_of_their_rows() -> None:
    rows: list[dict[str, Any]] = [
        {"id": f"p{n}", "question": "?!", "image": PICTURE, "answer": "1"} for n in range(30)
    ]
    said = refused([*rows, {**rows[0], "id": "p3"}])
    assert "1 of 31 rows" in said and "the id 'p3' is also that of rows row 3" in said
    said = refused([*rows, {**rows[0], "id": None}, {**rows[0], "id": 1.5}])
    assert (
        "2 of 32 rows" in said and "rows row 31: id should be text or a whole number, got float 1.5" in said
    )
    assert "set id_column = false" in said
    validate(problems_from([*rows, {**rows[0], "id": "p3"}, {**rows[0], "id": None}], id_column=False))


def test_two_files_of_one_name_give_ids_apart(tmp_path: Path) -> None:
    rows = [{key: cell for key, cell in row.items() if key != "qid"} for row in viewed(2)]
    for part in ("a", "b"):
        (tmp_path / part).mkdir()
        parquet(tmp_path / part / "rows.parquet", rows)
    assert len({problem.id for problem in open_data(str(tmp_path))}) == 4


def test_a_nested_column_can_be_named_and_a_wrong_one_is_told() -> None:
    row = {"problem": "?!", "image": PICTURE, "extra": {"truth": {"value": 3}, "asked": "How many?"}}
    assert one(row, answer_column="extra.truth.value").answer == "3"
    assert (
        one(row, answer_column="extra.truth.value", question_column="extra.asked").question
        == "<image>How many?"
    )
    with pytest.raises(DataError, match="no column 'extra.tuth'"):
        one(row, answer_column="extra.tuth")
    with pytest.raises(DataError, match="answer_column = 'extra.NAME'"):
        one(row, answer_column="extra")


def test_rows_in_memory_come_as_lists_datasets_frames_and_tables() -> None:
    import datasets
    import pandas
    import pyarrow as pa

    rows = [{"problem": "?!", "images": [RED], "answer": "1"}]
    kinds = (rows, datasets.Dataset.from_list(rows), pandas.DataFrame(rows), pa.Table.from_pylist(rows))
    for kind in kinds:
        problems = problems_from(kind, name="mine")
        validate(problems, decode=True)
        assert problems[0].id == "mine/0" and problems[0].images[0].getpixel((0, 0)) == (255, 0, 0)
    for picture in (PICTURE, np.asarray(PICTURE), png("red"), {"bytes": png("red")}, [PICTURE]):
        assert one({"problem": "?!", "image": picture, "answer": np.int64(3)}).images[0].size == (12, 8)
    assert one({"problem": "?!", "image": PICTURE, "answer": np.int64(3)}).answer == "3"
    with pytest.raises(DataError, match="cannot read rows from int"):
        problems_from(5)
    with pytest.raises(DataError, match="row 1: expected a dict"):
        problems_from([rows[0], "x"])
    with pytest.raises(DataError, match="several splits"):
        problems_from(datasets.DatasetDict({"train": datasets.Dataset.from_list(rows)}))
    with pytest.raises(DataError, match="no rows"):
        problems_from([])


def test_a_picture_of_another_row_is_never_taken_for_a_missing_one(tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(png("red"))
    (tmp_path / "b").mkdir()
    zipped(tmp_path / "a.zip", "c/1.png", "c/d/2.png")
    row = {"problem": "?!", "answer": "1"}
    for path in ("b/1.png", "x/2.png", "../1.png"):
        with pytest.raises(DataError, match="there is no such file"):
            open_data(str(jsonl(tmp_path / "d.jsonl", [{**row, "images": [path]}])))[0]
    for path in ("1.png", "images/1.png", "./data/images/1.png", "d/2.png", "data/c/1.png"):
        assert open_data(str(jsonl(tmp_path / "d.jsonl", [{**row, "images": [path]}])))[0].images


def test_links_and_paths_that_leave_a_zip_are_not_in_it(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(png("red"))
    (tmp_path / "data").mkdir()
    with zipfile.ZipFile(tmp_path / "data" / "a.zip", "w") as archive:
        link = zipfile.ZipInfo("link.png")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "../secret.png")
        archive.writestr("../up.png", png("red"))
        archive.writestr("/root.png", png("red"))
    for name in ("link.png", "up.png", "../up.png", "root.png"):
        path = jsonl(tmp_path / "data" / "d.jsonl", [{"problem": "?!", "answer": "1", "images": [name]}])
        with pytest.raises(DataError, match="there is no such file"):
            open_data(str(path))[0]


def test_a_file_of_a_zip_that_is_too_large_or_broken_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zipped(tmp_path / "a.zip", "p.png")
    path = jsonl(tmp_path / "d.jsonl", [{"problem": "?!", "answer": "1", "images": ["p.png"]}])
    with monkeypatch.context() as patch:
        patch.setattr("foveal.data.archives.MAX_FILE_BYTES", 10)
        with pytest.raises(DataError, match="bytes unpacked, more than 10"):
            open_data(str(path))[0]
    content = bytearray((tmp_path / "a.zip").read_bytes())
    content[45] ^= 0xFF
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(DataError, match="broken in its zip"):
        open_data(str(path))[0]
    (tmp_path / "a.zip").write_bytes(b"PK no zip")
    with pytest.raises(DataError, match="there is no such file"):
        open_data(str(path))[0]


def test_a_picture_in_two_zips_is_ambiguous_unless_its_path_says_which(tmp_path: Path) -> None:
    zipped(tmp_path / "a.zip", "a/p.png")
    zipped(tmp_path / "b.zip", "b/p.png")
    row = {"problem": "?!", "answer": "1"}
    with pytest.raises(DataError, match="p.png is in several zips"):
        open_data(str(jsonl(tmp_path / "d.jsonl", [{**row, "images": ["p.png"]}])))[0]
    assert open_data(str(jsonl(tmp_path / "d.jsonl", [{**row, "images": ["images/b/p.png"]}])))[0].images


def test_the_whole_disk_is_not_scanned_for_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        DataError, match="holds more than 20,000 files and folders, so it is no folder of a data set"
    ):
        open_data("/")
    monkeypatch.setattr("foveal.data.sources.MAX_ENTRIES", 20)
    for n in range(30):
        (tmp_path / f"{n}.png").write_bytes(b"")
    parquet(tmp_path / "train.parquet", viewed(1))
    assert len(open_data(str(tmp_path))) == 1  # pictures do not count


@pytest.mark.parametrize("place", ["\x00", "a" * 5000, "x/" * 3000, "~nobody-of-that-name/x.jsonl"])
def test_paths_that_no_system_takes_are_told(place: str) -> None:
    with pytest.raises(DataError) as caught:
        open_data(f"./{place}" if not place.startswith("~") else place)
    assert len(str(caught.value)) < 1_000


def test_a_pipe_is_neither_data_nor_a_picture(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jsonl")
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(DataError, match="no file that can be read: a broken link, a pipe, a device"):
        open_data(str(tmp_path / "pipe.jsonl"))
    row = {"problem": "?!", "answer": "1"}
    for name, kind in (("pipe.png", "pipe"), ("/dev/zero", "device"), (".", "folder")):
        with pytest.raises(DataError, match=f"it is a {kind}"):
            open_data(str(jsonl(tmp_path / "d.jsonl", [{**row, "images": [name]}])))[0]


def test_the_understanding_is_printed_line_by_line(tmp_path: Path) -> None:
    row = {
        "prompt": [{"role": "user", "content": "?!"}],
        "images": [RED],
        "reward_model": {"ground_truth": "3"},
    }
    found = open_data(str(table(tmp_path, [row], images=None))).understood
    assert found.layout == "verl"
    assert found.lines() == [
        "layout    verl",
        "question  prompt                     the last turn of the user (a list of turns)",
        "images    images                     as it is (a usual name)",
        "answer    reward_model.ground_truth  as it is (a usual name)",
        "id        -                          file and row (no column of unique ids)",
    ]


def test_the_first_problems_keep_the_understanding_of_all(tmp_path: Path) -> None:
    problems = open_data(str(parquet(tmp_path / "d.parquet", viewed(5))))
    assert problems.first(2).understood is problems.understood


def test_several_columns_are_named_in_their_order(tmp_path: Path) -> None:
    rows = [{"question": "<image> or <image>?", "b": BLUE, "a": RED, "answer": "1"}]
    path = table(tmp_path, rows, a=IMAGE, b=IMAGE)
    (problem,) = DataConfig(path=str(path), images_column="a, b").load()
    assert [image.getpixel((0, 0)) for image in problem.images] == [(255, 0, 0), (0, 0, 255)]
    with pytest.raises(DataError, match="no column 'c'"):
        DataConfig(path=str(path), images_column="a, c").load()
