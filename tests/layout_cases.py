"""Files as the field's data sets have them, written with pyarrow, PIL, `datasets` and zip alone.

`python tests/layout_cases.py` prints the table of docs/layouts.md; with `--write` it replaces the one there.
"""

import base64
import csv
import json
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_files import IMAGE, jsonl, png
from foveal.data.errors import DataError
from foveal.data.problems import DataConfig, FileProblems

RED = {"bytes": png("red"), "path": None}
BLUE = {"bytes": png("blue"), "path": None}
IMAGES = pa.list_(IMAGE)
PAGE = Path(__file__).parents[1] / "docs" / "layouts.md"
BEGIN, END = "<!-- table: python tests/layout_cases.py --write -->", "<!-- end of table -->"


@dataclass(frozen=True, kw_only=True)
class Case:
    """A layout, how to write it, and what its first problem has to be."""

    name: str
    write: Callable[[Path], Path]
    columns: str
    asks: str
    """The question of the first row with options and marks, without the suffix."""
    answer: str
    colors: tuple[str, ...] = ("red",)
    choices: object = None
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options that have to be set, besides `path`."""
    refused: str = ""
    """Without them, a part of the message, which names them."""
    more: Mapping[str, Any] = field(default_factory=dict)
    """Further fields of the first problem: `system`, `turns`, `id`, or keys of `meta`."""


def table(folder: Path, rows: Sequence[Mapping[str, Any]], name: str = "train.parquet", **kinds: Any) -> Path:
    usual = {"images": IMAGES, "image": IMAGE, "decoded_image": IMAGE}
    columns = {key: pa.array([row.get(key) for row in rows], {**usual, **kinds}.get(key)) for key in rows[0]}
    pq.write_table(pa.table(columns), folder / name)
    return folder / name


def pictures(folder: Path, *names: str) -> None:
    for n, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(png(("red", "blue")[n % 2]))


def zipped(path: Path, *names: str) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for n, name in enumerate(names):
            archive.writestr(name, png(("red", "blue")[n % 2]))


def easyr1(folder: Path) -> Path:
    rows = [{"problem": "<image>Find x.", "images": [RED], "answer": "48"}]
    return table(folder, rows)


def papo_train(folder: Path) -> Path:
    rows = [
        {
            "id": "0",
            "problem": "<image>How many?",
            "images": [RED],
            "answer": "3",
            "problem_type": "numerical",
            "source": "virl39k",
        }
    ]
    return table(folder, rows)


def trl_text(folder: Path) -> Path:
    turns = [{"role": "system", "content": "Think first."}, {"role": "user", "content": "Which colour?"}]
    return table(folder, [{"prompt": turns, "image": RED, "solution": "<answer> red </answer>"}])


def trl_parts(folder: Path) -> Path:
    parts = [{"type": "image", "text": None}, {"type": "text", "text": "Which colour?"}]
    rows = [{"prompt": [{"role": "user", "content": parts}], "images": [RED], "solution": "red"}]
    return table(folder, rows)


def trl_in_parts(folder: Path) -> Path:
    """Pictures inside the parts themselves, as `datasets` stores a decoded column."""
    part = pa.struct([("type", pa.string()), ("text", pa.string()), ("image", IMAGE)])
    turns = pa.list_(pa.struct([("role", pa.string()), ("content", pa.list_(part))]))
    content = [
        {"type": "image", "text": None, "image": RED},
        {"type": "text", "text": "or", "image": None},
        {"type": "image", "text": None, "image": BLUE},
        {"type": "text", "text": "?", "image": None},
    ]
    rows = [{"prompt": [{"role": "user", "content": content}], "answer": "first"}]
    return table(folder, rows, prompt=turns)


def ms_swift(folder: Path) -> Path:
    pictures(folder, "imgs/0.png")
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "<image>Which colour?"},
    ]
    row = {"messages": messages, "images": ["imgs/0.png"], "solution": "<answer>red</answer>"}
    return jsonl(folder / "train.jsonl", [row])


def ms_swift_turns(folder: Path) -> Path:
    pictures(folder, "0.png", "1.png")
    messages = [
        {"role": "user", "content": "<image>Which colour?"},
        {"role": "assistant", "content": "Red."},
        {"role": "user", "content": "And <image>?"},
    ]
    row = {"messages": messages, "images": ["0.png", "1.png"], "solution": "blue"}
    return jsonl(folder / "train.jsonl", [row])


def verl(folder: Path) -> Path:
    rows = [
        {
            "data_source": "hiyouga/geometry3k",
            "prompt": [{"role": "user", "content": "<image>Find x."}],
            "images": [RED],
            "ability": "math",
            "reward_model": {"style": "rule", "ground_truth": "3"},
            "extra_info": {"split": "train", "index": 0, "answer": "3", "question": "<image>Find x."},
        }
    ]
    return table(folder, rows)


def sharegpt(folder: Path) -> Path:
    pictures(folder, "coco/0.png")
    turns = [{"from": "human", "value": "<image>\nWhich colour?"}, {"from": "gpt", "value": "red"}]
    (folder / "llava.json").write_text(
        json.dumps([{"id": "0", "image": "coco/0.png", "conversations": turns}])
    )
    return folder / "llava.json"


def vlm_r1(folder: Path) -> Path:
    pictures(folder, "Clevr/0.png", "Clevr/1.png")
    turns = [{"from": "human", "value": "<image><image>Same colour?"}, {"from": "gpt", "value": "no"}]
    row = {
        "id": 1,
        "image": ["Clevr/0.png", "Clevr/1.png"],
        "conversations": turns,
        "accu_reward_method": "default",
    }
    return jsonl(folder / "train.jsonl", [row])


def openrlhf(folder: Path) -> Path:
    """Turns as JSON text, with the picture in a part (OpenRLHF-M, lmm-r1)."""
    url = "data:image/png;base64," + base64.b64encode(png("red")).decode()
    content = [{"type": "image", "image": url}, {"type": "text", "text": "Which colour?"}]
    row = {"message": json.dumps([{"role": "user", "content": content}]), "answer": "red"}
    return jsonl(folder / "train.jsonl", [row])


def open_r1(folder: Path) -> Path:
    return table(folder, [{"image": RED, "problem": "How many?", "solution": "<answer> 3 </answer>"}])


def lmms_open_r1(folder: Path) -> Path:
    rows = [
        {
            "image": RED,
            "problem": "Find x. Choices: A: 3 B: 4",
            "solution": "<think>By \\boxed{7} it is A.</think>\n\n<answer>A</answer>",
            "original_question": "Find x.",
            "original_answer": "Answer: A",
        }
    ]
    return table(folder, rows)


def mathvista(folder: Path) -> Path:
    query = (
        "Hint: Please answer the question and provide the correct option letter, e.g., A, B, C, D, at the "
        "end.\nQuestion: Which angle?\nChoices:\n(A) 135°\n(B) 140°"
    )
    common = {"image": "images/1.jpg", "decoded_image": RED, "unit": None}
    rows = [
        {
            **common,
            "pid": "1",
            "question": "Which angle?",
            "query": query,
            "choices": ["135°", "140°"],
            "answer": "140°",
            "precision": None,
            "question_type": "multi_choice",
            "answer_type": "text",
        },
        {
            **common,
            "pid": "2",
            "question": "How long?",
            "query": "Hint: one decimal place.\nQuestion: How long? (Unit: cm)",
            "choices": None,
            "answer": "1.2",
            "precision": 1.0,
            "question_type": "free_form",
            "answer_type": "float",
        },
    ]
    return table(folder, rows, "testmini-00000-of-00001.parquet", image=None)


def mathvision(folder: Path) -> Path:
    rows = [
        {
            "id": "4",
            "question": "Which piece is missing?\n<image1>",
            "options": ["2 by 2", "3 by 1"],
            "image": "images/4.jpg",
            "decoded_image": RED,
            "answer": "B",
            "solution": None,
            "level": 1,
            "subject": "combinatorics",
        }
    ]
    return table(folder, rows, image=None)


def mathverse(folder: Path) -> Path:
    common = {"problem_index": "1", "image": RED, "answer": "B", "question_type": "multi-choice"}
    asked = "Find the angle.\nChoices:\nA:50°\nB:60°"
    rows = [
        {
            **common,
            "sample_index": str(n + 1),
            "problem_version": version,
            "question": text,
            "query_wo": f"Please directly answer.\nQuestion: {asked}",
            "query_cot": "According to the question shown in the image, please first conduct reasoning."
            if not text
            else f"Please first conduct reasoning.\nQuestion: {asked}",
            "question_for_eval": asked,
        }
        for n, (version, text) in enumerate(
            [
                ("Text Dominant", asked),
                ("Text Lite", asked),
                ("Vision Intensive", asked),
                ("Vision Dominant", asked),
                ("Vision Only", ""),
            ]
        )
    ]
    return table(folder, rows)


def mmmu(folder: Path) -> Path:
    empty = {f"image_{n}": None for n in range(1, 8)}
    rows = [
        {
            "id": "test_1",
            "question": "Compare <image 1> with the others.",
            "options": "['<image 2>', '<image 1> again', \"it's none\"]",
            "answer": "A",
            "subject": "Art",
            **empty,
            "image_1": RED,
            "image_2": BLUE,
        }
    ]
    return table(folder, rows, **{f"image_{n}": IMAGE for n in range(1, 8)})


def mmmu_vision(folder: Path) -> Path:
    rows = [{"id": "v1", "image": RED, "options": "['a', 'b']", "answer": "B", "subject": "Art"}]
    return table(folder, rows)


def logicvista(folder: Path) -> Path:
    pictures(folder, "images/v1_0.png")
    row = {
        "imagename": "v1_0.png",
        "question": "What choice (A or B) fits the pattern?",
        "answer": "B",
        "reasoning": "The dot stays.",
        "skill": ["inductive"],
        "capability": ["diagram"],
    }
    (folder / "dataset.json").write_text(json.dumps({"v1_0": row}))
    return folder / "dataset.json"


def wemath(folder: Path) -> Path:
    pictures(folder, "3steps/image/165-3.png")
    row = {
        "ID": "3steps_3",
        "split": "testmini",
        "knowledge concept": "area",
        "question": "What is the area?",
        "option": "A. 200.96;B. 3215.36;C. 6280; D. No correct answer",
        "answer": "B",
        "image_path": "3steps/image/165-3.png",
        "key": "3steps_3",
        "question number": 1575,
    }
    (folder / "testmini.json").write_text(json.dumps([row]))
    return folder / "testmini.json"


def dynamath(folder: Path) -> Path:
    rows = [
        {
            "id": str(n % 2),
            "question": "What is the slope?",
            "image": "images/0.png",
            "decoded_image": RED,
            "ground_truth": "1.5",
            "answer_type": "float",
            "subject": "algebra",
            "level": "high school",
        }
        for n in range(4)
    ]
    return table(folder, rows, image=None)


def geometry3k_choices(folder: Path) -> Path:
    rows = [{"images": [RED], "problem": "<image>Find x.", "choices": ["3", "4", "5", "6"], "answer": "C"}]
    return table(folder, rows)


def clevr_count(folder: Path) -> Path:
    import datasets

    features = datasets.Features(
        {
            "images": datasets.List(datasets.Image()),
            "problem": datasets.Value("string"),
            "answer": datasets.Value("string"),
        }
    )
    rows = {"images": [[RED]], "problem": ["<image>How many items?"], "answer": ["3"]}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(str(folder / "train.parquet"))
    return folder / "train.parquet"


def papo_eval(folder: Path) -> Path:
    (folder / "data").mkdir()
    for split, path in (("hiyouga_geometry3k", "hiyouga_geometry3k"), ("We_Math", "We-Math_We-Math")):
        turns = [{"role": "user", "content": "<image>Find x."}, {"role": "assistant", "content": "5"}]
        row = {"messages": turns, "images": [f"./data/images/{path}/{path}_0_0.png"], "id": f"{path}_0"}
        table(folder / "data", [row], f"{split}-00000-of-00001.parquet", images=None)
        zipped(folder / f"{path}_images.zip", f"{path}/{path}_0_0.png")
    return folder


def virl39k(folder: Path) -> Path:
    rows = [
        {
            "question": "<image>How many?",
            "answer": "\\boxed{3}",
            "PassRate_32BTrained": 0.5,
            "PassRate_7BBase": 0.1,
            "category": "counting",
            "source": "virl",
            "qid": "q0",
            "image": ["images/q0.png"],
        }
    ]
    zipped(folder / "images.zip", "images/q0.png")
    return table(folder, rows, "39Krelease.parquet", image=None)


def mmk12(folder: Path) -> Path:
    rows = [{"id": "k1", "question": "<image>求值", "answer": "C", "subject": "math", "image": RED}]
    return table(folder, rows)


def class_labels(folder: Path) -> Path:
    import datasets

    features = datasets.Features(
        {
            "image": datasets.Image(),
            "question": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["cat", "dog"]),
        }
    )
    rows = {"image": [RED], "question": ["Which animal?"], "label": [1]}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(str(folder / "saved"))
    return folder / "saved"


def scienceqa(folder: Path) -> Path:
    rows = [
        {
            "image": RED,
            "question": "Which is it?",
            "choices": ["rock", "plant"],
            "answer": n % 2,
            "hint": "Plants are green." if n == 0 else "",
            "task": "closed choice",
            "lecture": "",
            "solution": "It is grey.",
        }
        for n in range(2)
    ]
    return table(folder, rows)


def aokvqa(folder: Path) -> Path:
    rows = [
        {
            "image": RED,
            "question_id": "a",
            "question": "What is it?",
            "choices": ["car", "bus"],
            "correct_choice_idx": 1,
            "direct_answers": "['bus', 'a bus']",
        }
    ]
    return table(folder, rows)


def vlmevalkit(folder: Path) -> Path:
    row = {
        "index": 7,
        "image": base64.b64encode(png("red")).decode(),
        "question": "Which colour?",
        "hint": "",
        "A": "red",
        "B": "blue",
        "C": "",
        "answer": "A",
        "category": "colour",
    }
    with (folder / "MMBench.tsv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(row), delimiter="\t")
        writer.writeheader()
        writer.writerow(row)
    return folder / "MMBench.tsv"


def base64_images(folder: Path) -> Path:
    row = {"problem": "Which?", "images": [base64.b64encode(png("red")).decode()], "answer": "red"}
    return jsonl(folder / "train.jsonl", [row])


def data_urls(folder: Path) -> Path:
    url = "data:image/png;base64," + base64.b64encode(png("red")).decode()
    return jsonl(folder / "train.jsonl", [{"question": "Which?", "image_url": url, "answer": "red"}])


def arc_choices(folder: Path) -> Path:
    rows = [
        {
            "id": "a",
            "question": "Which?",
            "choices": {"text": ["red", "blue"], "label": ["A", "B"]},
            "answerKey": "A",
            "image": RED,
        }
    ]
    return table(folder, rows)


def mixed(folder: Path) -> Path:
    rows = [
        {"problem": "<image>How many?", "images": [RED], "answer": "3"},
        {"problem": "1 + 1?", "images": [], "answer": "2"},
    ]
    return table(folder, rows)


def two_columns(folder: Path) -> Path:
    rows = [{"question": "<image>Or <image>?", "after": RED, "before": BLUE, "answer": "before"}]
    return table(folder, rows, before=IMAGE, after=IMAGE)


def annotated(folder: Path) -> Path:
    answers = [*["nokia"] * 9, "nokia phone"]
    return table(folder, [{"question": "What brand?", "image": RED, "answers": answers}])


def counted_from_one(folder: Path) -> Path:
    pictures(folder, "0.png")
    row = {"question": "Which?", "image": "0.png", "options": ["red", "green", "blue"], "answer": 1}
    return jsonl(folder / "train.jsonl", [row])


AB = "A. {}\nB. {}"
MATHVISTA_ASKS = (
    "<image>Hint: Please answer the question and provide the correct option letter, e.g., A, B, C, D, at the "
    "end.\nQuestion: Which angle?\nChoices:\n(A) 135°\n(B) 140°"
)
CASES = (
    Case(
        name="EasyR1",
        write=easyr1,
        columns="problem, images, answer",
        asks="<image>Find x.",
        answer="48",
    ),
    Case(
        name="PAPO_ViRL39K",
        write=papo_train,
        columns="problem, images, answer, id",
        asks="<image>How many?",
        answer="3",
        more={"id": "0", "problem_type": "numerical"},
    ),
    Case(
        name="TRL, content as text",
        write=trl_text,
        columns="prompt: turns; image, solution",
        asks="<image>Which colour?",
        answer="red",
        more={"system": "Think first.", "solution": "<answer> red </answer>"},
    ),
    Case(
        name="TRL, content as parts",
        write=trl_parts,
        columns="prompt: turns of parts; images, solution",
        asks="<image>Which colour?",
        answer="red",
    ),
    Case(
        name="TRL, pictures in the parts",
        write=trl_in_parts,
        columns="prompt: turns of parts with pictures; answer",
        asks="<image>or<image>?",
        answer="first",
        colors=("red", "blue"),
    ),
    Case(
        name="ms-swift",
        write=ms_swift,
        columns="messages, images: paths, solution",
        asks="<image>Which colour?",
        answer="red",
        more={"system": "Be brief."},
    ),
    Case(
        name="ms-swift, several turns",
        write=ms_swift_turns,
        columns="messages, images: paths, solution",
        asks="And <image>?",
        answer="blue",
        colors=("red", "blue"),
        more={"turns": [("user", "<image>Which colour?"), ("assistant", "Red.")]},
    ),
    Case(
        name="verl",
        write=verl,
        columns="prompt: turns; images, reward_model.ground_truth, data_source, extra_info",
        asks="<image>Find x.",
        answer="3",
        more={"data_source": "hiyouga/geometry3k"},
    ),
    Case(
        name="LLaVA / ShareGPT",
        write=sharegpt,
        columns="conversations: from, value; image: path",
        asks="<image>\nWhich colour?",
        answer="red",
        more={"id": "0"},
    ),
    Case(
        name="VLM-R1",
        write=vlm_r1,
        columns="conversations; image: paths",
        asks="<image><image>Same colour?",
        answer="no",
        colors=("red", "blue"),
    ),
    Case(
        name="OpenRLHF-M",
        write=openrlhf,
        columns="message: turns as JSON text, picture as data: URL; answer",
        asks="<image>Which colour?",
        answer="red",
    ),
    Case(
        name="open-r1-multimodal",
        write=open_r1,
        columns="image, problem, solution with tags",
        asks="<image>How many?",
        answer="3",
    ),
    Case(
        name="lmms open-r1-8k",
        write=lmms_open_r1,
        columns="image, problem, solution: reasoning and tags",
        asks="<image>Find x. Choices: A: 3 B: 4",
        answer="A",
    ),
    Case(
        name="MathVista",
        write=mathvista,
        columns="query, choices, answer, decoded_image, image: path",
        asks=MATHVISTA_ASKS,
        answer="140°",
        choices=["135°", "140°"],
        more={"id": "1", "answer_type": "text", "question": "Which angle?"},
    ),
    Case(
        name="MathVision",
        write=mathvision,
        columns="question, options, answer, decoded_image, image: path",
        asks="Which piece is missing?\n<image>\n" + AB.format("2 by 2", "3 by 1"),
        answer="B",
        choices=["2 by 2", "3 by 1"],
    ),
    Case(
        name="MathVerse",
        write=mathverse,
        columns="question, query_cot, image, answer, problem_version, problem_index",
        asks="<image>Find the angle.\nChoices:\nA:50°\nB:60°",
        answer="B",
        more={"id": "1", "problem_index": "1", "problem_version": "Text Dominant"},
    ),
    Case(
        name="MMMU and MMMU-Pro",
        write=mmmu,
        columns="question, options as text, answer, image_1 ... image_7",
        asks="Compare <image> with the others.\nA. <image>\nB. image 1 again\nC. it's none",
        answer="A",
        colors=("red", "blue"),
        choices=["<image 2>", "<image 1> again", "it's none"],
    ),
    Case(
        name="MMMU-Pro, vision",
        write=mmmu_vision,
        columns="image, options as text, answer",
        asks="<image>Answer the question that stands in the picture.",
        answer="B",
        choices=["a", "b"],
    ),
    Case(
        name="LogicVista",
        write=logicvista,
        columns="an object of objects: imagename, question, answer",
        asks="<image>What choice (A or B) fits the pattern?",
        answer="B",
        more={"id": "v1_0"},
    ),
    Case(
        name="We-Math",
        write=wemath,
        columns="question, option as one text, answer, image_path",
        asks="<image>What is the area?\nA. 200.96\nB. 3215.36\nC. 6280\nD. No correct answer",
        answer="B",
        choices=["200.96", "3215.36", "6280", "No correct answer"],
    ),
    Case(
        name="DynaMath",
        write=dynamath,
        columns="question, ground_truth, decoded_image, id with duplicates",
        asks="<image>What is the slope?",
        answer="1.5",
        more={"id": "train/0"},
    ),
    Case(
        name="Geometry3K, free form",
        write=easyr1,
        columns="problem, images, answer",
        asks="<image>Find x.",
        answer="48",
    ),
    Case(
        name="Geometry3K, multiple choice",
        write=geometry3k_choices,
        columns="problem, images, choices, answer",
        asks="<image>Find x.\nA. 3\nB. 4\nC. 5\nD. 6",
        answer="C",
        choices=["3", "4", "5", "6"],
    ),
    Case(
        name="CLEVR counting",
        write=clevr_count,
        columns="images (features of datasets), problem, answer",
        asks="<image>How many items?",
        answer="3",
    ),
    Case(
        name="PAPO_eval",
        write=papo_eval,
        columns="messages, images: paths into a zip per split",
        asks="<image>Find x.",
        answer="5",
        options={"split": "We_Math"},
        refused="several splits: We_Math, hiyouga_geometry3k; choose one with split = 'NAME'",
        more={"id": "We-Math_We-Math_0"},
    ),
    Case(
        name="ViRL39K",
        write=virl39k,
        columns="question, answer in a box, image: paths into images.zip, qid",
        asks="<image>How many?",
        answer="3",
        more={"id": "q0", "answer": "\\boxed{3}"},
    ),
    Case(
        name="MMK12",
        write=mmk12,
        columns="question, answer, image, id",
        asks="<image>求值",
        answer="C",
    ),
    Case(
        name="class numbers of datasets",
        write=class_labels,
        columns="image, question, label: ClassLabel",
        asks="<image>Which animal?",
        answer="dog",
    ),
    Case(
        name="ScienceQA",
        write=scienceqa,
        columns="question, choices, answer: index, hint, image",
        asks="<image>Plants are green.\nWhich is it?\n" + AB.format("rock", "plant"),
        answer="A",
        choices=["rock", "plant"],
    ),
    Case(
        name="A-OKVQA",
        write=aokvqa,
        columns="question, choices, correct_choice_idx, image",
        asks="<image>What is it?\n" + AB.format("car", "bus"),
        answer="B",
        choices=["car", "bus"],
    ),
    Case(
        name="VLMEvalKit (TSV)",
        write=vlmevalkit,
        columns="index, image: base64, question, A, B, ..., answer",
        asks="<image>Which colour?\n" + AB.format("red", "blue"),
        answer="A",
        choices=["red", "blue"],
        more={"id": "7"},
    ),
    Case(
        name="options as label and text",
        write=arc_choices,
        columns="question, choices.label, choices.text, answerKey, image",
        asks="<image>Which?\n" + AB.format("red", "blue"),
        answer="A",
        choices=["red", "blue"],
    ),
    Case(
        name="pictures as base64",
        write=base64_images,
        columns="problem, images: base64, answer",
        asks="<image>Which?",
        answer="red",
    ),
    Case(
        name="pictures as data: URLs",
        write=data_urls,
        columns="question, image_url, answer",
        asks="<image>Which?",
        answer="red",
    ),
    Case(
        name="text-only rows among others",
        write=mixed,
        columns="problem, images, answer",
        asks="<image>How many?",
        answer="3",
        options={"text_only": True},
        refused="set text_only = true",
    ),
    Case(
        name="several picture columns of any name",
        write=two_columns,
        columns="question, before, after, answer",
        asks="<image>Or <image>?",
        answer="before",
        colors=("blue", "red"),
        options={"images_column": "before, after"},
        refused="images_column = 'after, before'",
    ),
    Case(
        name="TextVQA: the answers of ten people",
        write=annotated,
        columns="question, image, answers: texts",
        asks="<image>What brand?",
        answer='["nokia", "nokia phone"]',
        options={"answer_column": "answers", "answer_kind": "any"},
        refused="did you mean 'answers'",
    ),
    Case(
        name="an index that may count from 0 or 1",
        write=counted_from_one,
        columns="question, image, options, answer: 1",
        asks="<image>Which?\nA. red\nB. green\nC. blue",
        answer="A",
        choices=["red", "green", "blue"],
        options={"answer_kind": "index_from_1"},
        refused="set answer_kind = 'index'",
    ),
)


def opened(case: Case, folder: Path) -> FileProblems:
    return DataConfig(path=str(case.write(folder)), prompt_suffix="", **case.options).load()


def refusal(path: Path) -> str:
    """What is said of a file without options; empty when it opens and every row can be used."""
    try:
        problems = DataConfig(path=str(path)).load()
        for index in range(len(problems)):
            problems[index]
    except DataError as error:
        return str(error)
    return ""


def line(case: Case) -> str:
    """The row of the table for a layout."""
    with tempfile.TemporaryDirectory() as place:
        problems = opened(case, Path(place))
        found = problems.understood
        said = refusal(Path(problems.path)) if case.options else ""
    opens = "yes" if not said else "says which option"
    needed = ", ".join(f"`{key} = {json.dumps(value)}`" for key, value in case.options.items()) or "none"
    parts = []
    for one in found.sources:
        if one.kind != "none" and one.field != "id":
            steps = f" ({'; '.join(one.steps)})" if one.steps else ""
            parts.append(f"{one.field}: {', '.join(one.columns) or '-'}{steps}")
    return f"| {case.name} | {case.columns} | {opens} | {needed} | {found.layout}. {'; '.join(parts)} |"


def page_table() -> str:
    head = ["| layout | columns | opens? | options needed | what was understood |", "|---|---|---|---|---|"]
    return "\n".join([*head, *(line(case) for case in CASES)])


if __name__ == "__main__":
    text = page_table()
    if "--write" in sys.argv:
        before, _, rest = PAGE.read_text().partition(BEGIN)
        PAGE.write_text(f"{before}{BEGIN}\n{text}\n{END}{rest.partition(END)[2]}")
    else:
        print(text)
