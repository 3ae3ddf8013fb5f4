"""A results folder like the quickstart's, with simulated numbers."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from foveal.evaluation.compare import compare_runs
from foveal.evaluation.records import Evaluation, ProblemRecord
from foveal.keys import generator

SKILL = {"cold_start": 0.45, "grpo": 0.60, "papo": 0.63, "cppo": 0.61}
WRONG = ("perception", "reasoning", "calculation", "inconsistency", "format")
SENTENCE = (
    "I see : red circle , blue square , none , green triangle . the asked one is red . so \\boxed{ red }"
)


def simulated(method: str, seed: int | None, *, problems: int = 300) -> Evaluation:
    """Problems of mixed hardness; a method is right where its skill beats the hardness."""
    hardness = generator("hardness").random(problems)
    rng = generator("simulated", method, str(seed))
    records = []
    for i in range(problems):
        right = bool(SKILL[method] + 0.25 * rng.normal() > hardness[i])
        kind = "correct" if right else WRONG[int(rng.choice(5, p=[0.7, 0.12, 0.08, 0.07, 0.03]))]
        records.append(
            ProblemRecord(
                id=f"p{i}",
                answer="red",
                correct=(right,),
                texts=(SENTENCE,),
                lengths=(24,),
                truncated=(False,),
                kinds=(kind,),
                format=(kind != "format",),
                correct_other_picture=(bool(rng.random() < 0.21),),
                family=("counting", "relations", "triangles")[i % 3],
                grade=("low", "medium", "high")[i % 3],
                template=f"t{i % 5}",
            )
        )
    return Evaluation(
        records=tuple(records),
        k=1,
        greedy=True,
        max_new_tokens=64,
        name=f"{method}-{seed}",
        method=method,
        seed=seed,
    )


def write(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def pictures(folder: Path, name: str) -> dict[str, str]:
    """A small drawn scene, and the same with patches greyed out."""
    image = Image.new("RGB", (112, 112), (236, 236, 232))
    pen = ImageDraw.Draw(image)
    pen.ellipse((8, 8, 46, 46), fill=(204, 60, 60))
    pen.rectangle((66, 10, 102, 46), fill=(60, 90, 200))
    pen.polygon([(84, 64), (64, 102), (104, 102)], fill=(60, 150, 90))
    hidden = image.copy()
    rng = generator("patches", name)
    for x in range(0, 112, 14):
        for y in range(0, 112, 14):
            if rng.random() < 0.6:
                ImageDraw.Draw(hidden).rectangle((x, y, x + 13, y + 13), fill=(225, 225, 222))
    found = {}
    for view, picture in (("clean", image), ("removed", hidden)):
        found[view] = f"gallery/{name}_{view}.png"
        (folder / "gallery").mkdir(parents=True, exist_ok=True)
        picture.save(folder / found[view])
    return found


def said(text: str, kind: str) -> dict[str, Any]:
    rng = generator("said", text)
    hot = {"red", "blue", "green", "circle", "square", "triangle", "none"}
    tokens = []
    for place, word in enumerate(text.split(" ")):
        heat = float(rng.exponential(1.2) if word in hot else rng.exponential(0.02))
        shift = float(rng.normal(0.6, 0.5) if word in hot else rng.normal(0, 0.03))
        tokens.append({"text": word if place == 0 else f" {word}", "kl_prcp": heat, "entropy_shift": shift})
    return {"text": text, "kind": kind, "tokens": tokens}


def gallery(folder: Path) -> list[dict[str, Any]]:
    seen_wrong = SENTENCE.replace("red", "green", 1).replace(
        "asked one is red . so \\boxed{ red", "asked one is green . so \\boxed{ green"
    )
    return [
        {
            "problem_id": f"counting-heldout-{i}",
            "question": "<image> What colour is the shape in the upper left of the picture?",
            "answer": "red",
            "pictures": [pictures(folder, f"g{i}")],
            "before": said(seen_wrong, "perception"),
            "after": {"grpo": said(SENTENCE, "correct"), "papo": said(SENTENCE + " .", "correct")},
        }
        for i in range(3)
    ]


def curves() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for method in ("grpo", "papo", "cppo"):
        found[method] = {}
        for seed in range(3):
            rng = generator("curve", method, seed)
            rise = 1 - np.exp(-np.arange(80) / 30)
            found[method][str(seed)] = [
                {
                    "step": step,
                    "reward/mean": float(0.45 + 0.2 * rise[step] + 0.04 * rng.normal()),
                    "reward/accuracy": float(0.4 + 0.22 * rise[step] + 0.04 * rng.normal()),
                    "kl_prcp/mean": float(
                        0.2 + (0.2 if method == "papo" else 0.05) * rise[step] + 0.02 * rng.normal()
                    ),
                    "policy/entropy": float(0.3 - 0.15 * rise[step] + 0.01 * rng.normal()),
                    "completion/length_mean": float(24 + rng.normal()),
                }
                for step in range(80)
            ]
    return found


def word_rows() -> list[dict[str, Any]]:
    """A shortcut study with two seeds: GRPO falls, CPPO once, PAPO never."""
    wrong = {"grpo": (0.15, 0.20), "cppo": (0.18, 0.88), "papo": (0.88, 0.90)}
    rows: list[dict[str, Any]] = [{"method": "cold_start", "seed": None, "accuracy_wrong": 0.39}]
    rows += [
        {"method": method, "seed": seed, "accuracy_wrong": value}
        for method, values in wrong.items()
        for seed, value in enumerate(values)
    ]
    return [
        {
            **row,
            "accuracy_random": 0.3 if row["accuracy_wrong"] < 0.5 else 0.89,
            "accuracy_right": 0.97,
            "follow": 0.9 - row["accuracy_wrong"] * 0.9,
            "describes": 0.05
            if row["accuracy_wrong"] < 0.18
            else 0.1
            if row["accuracy_wrong"] < 0.5
            else 0.95,
            "accuracy_other_picture": 0.25,
            "perception_error_fraction": 0.1,
            "cpu_seconds": 0.0 if row["seed"] is None else 33.0,
            "steps": 0 if row["seed"] is None else 60,
            "problems": 400,
        }
        for row in rows
    ]


@pytest.fixture
def words_folder(tmp_path: Path) -> Path:
    """The folder of a shortcut study."""
    folder = tmp_path / "words"
    write(folder / "summary.json", {"schema_version": 2, "rows": word_rows()})
    items = gallery(folder)
    for item in items:
        item["word"] = "green"
        item["after"]["grpo"] = said("I see none . so \\boxed{ green }", "follows the word")
    write(folder / "gallery.json", items)
    write(folder / "curves.json", curves())
    write(folder / "report_notes.json", {"config": "shortcut_grpo", "command": "foveal quickstart"})
    return folder


@pytest.fixture(scope="session")
def whole_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("results"))


@pytest.fixture
def folder(tmp_path: Path, whole_folder: Path) -> Path:
    return Path(shutil.copytree(whole_folder, tmp_path / "results"))


def build(tmp_path: Path) -> Path:
    """Write the whole folder."""
    runs = [simulated(m, s) for m in SKILL for s in ([None] if m == "cold_start" else [0, 1, 2])]
    rows = []
    for one in runs:
        one.save(tmp_path / "evaluations" / one.name)
        summary = one.summary
        shares = ("accuracy", "accuracy_other_picture", "perception_error_fraction", "format")
        rows.append(
            {
                "method": one.method,
                "seed": one.seed,
                **{name: summary[name]["value"] for name in shares},
                "kl_prcp_median": 0.041,
                "cpu_seconds": 0 if one.seed is None else 66.0,
                "steps": 0 if one.seed is None else 80,
                "problems": 300,
            }
        )
    write(tmp_path / "summary.json", {"schema_version": 1, "rows": rows})
    write(tmp_path / "comparisons.json", compare_runs(runs))
    write(tmp_path / "curves.json", curves())
    write(tmp_path / "gallery.json", gallery(tmp_path))
    notes = {
        "config": "configs/quickstart.toml",
        "hardware": "2 cores",
        "commit": "0000000",
        "command": "make quickstart",
    }
    write(tmp_path / "report_notes.json", notes)
    return tmp_path
