"""A run on rows with options, a system prompt and earlier turns records what the model was asked."""

import json
from pathlib import Path

from PIL import Image

from foveal.config import load
from foveal.train import loop
from run_cases import world_table


def test_completions_record_the_whole_prompt_options_included(tiny_folder: Path, tmp_path: Path) -> None:
    Image.new("RGB", (56, 56), "red").save(tmp_path / "red.png")
    turns = [
        {"role": "system", "content": "Look first."},
        {"role": "user", "content": "<image>Is it red?"},
        {"role": "assistant", "content": "Yes."},
        {"role": "user", "content": "Which shape?"},
    ]
    row = {"messages": turns, "images": ["red.png"], "options": ["square", "circle"], "answer": "A"}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    table = world_table(tiny_folder, steps=1, data={"path": str(tmp_path / "rows.jsonl")})
    loop.start(load(table), tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "completions.jsonl").read_text().splitlines()]
    assert lines and lines[0]["question"].startswith(
        "[system] Look first.\n\n[user] <image>Is it red?\n\n[assistant] Yes.\n\n"
        "[user] Which shape?\nA. square\nB. circle\n\n"
    )
    assert lines[0]["answer"] == "A"
