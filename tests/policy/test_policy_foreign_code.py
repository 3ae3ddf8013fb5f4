"""A model folder that brings code: nothing of it runs, and nobody is asked on the terminal."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from foveal.policy import load_policy
from foveal.saliency import saliency_model
from foveal.spec import FovealError
from foveal.types import SaliencySource

AUTO_MAP = {
    "AutoConfig": "evil.Config",
    "AutoModel": "evil.Model",
    "AutoModelForImageTextToText": "evil.Model",
    "AutoTokenizer": ["evil.Tokenizer", "evil.Tokenizer"],
    "AutoProcessor": "evil.Processor",
    "AutoImageProcessor": "evil.Processor",
}


def evil_copy(source: Path, target: Path, **fields: object) -> Path:
    """The folder with a file of code that each of its tables points at."""
    shutil.copytree(source, target)
    canary = target.parent / "canary"
    (target / "evil.py").write_text(
        f"import pathlib\npathlib.Path({str(canary)!r}).write_text('ran')\n"
        "class Config: pass\nModel = Tokenizer = Processor = Config\n"
    )
    names = ("config.json", "tokenizer_config.json", "preprocessor_config.json", "processor_config.json")
    for name in names:
        if (target / name).is_file() or name == "config.json":
            edit(target / name, lambda table: table | {"auto_map": AUTO_MAP})
    edit(target / "config.json", lambda table: table | fields)
    return target


def edit(file: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    file.write_text(json.dumps(change(json.loads(file.read_text()))))


@pytest.fixture(autouse=True)
def answers_yes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Whoever asks is told "y", and is remembered."""
    asked: list[str] = []

    def ask(prompt: str = "") -> str:
        asked.append(prompt)
        return "y"

    monkeypatch.setattr("builtins.input", ask)
    return asked


def test_a_folder_of_an_unknown_type_is_refused_before_its_code_is_looked_at(
    tiny_folder: Path, tmp_path: Path, answers_yes: list[str]
) -> None:
    folder = evil_copy(tiny_folder, tmp_path / "model", model_type="evil")
    with pytest.raises(FovealError, match="model_type 'evil'; expected one of qwen2_5_vl"):
        load_policy(str(folder))
    assert not (tmp_path / "canary").exists() and not answers_yes


def test_the_code_beside_a_known_model_tokenizer_and_processor_is_not_followed(
    tiny_folder: Path, tmp_path: Path, answers_yes: list[str]
) -> None:
    policy = load_policy(str(evil_copy(tiny_folder, tmp_path / "model")))
    kinds = {type(policy.model), type(policy.processor.tokenizer), type(policy.processor._images)}
    assert all(kind.__module__.startswith("transformers.") for kind in kinds)
    assert not (tmp_path / "canary").exists() and not answers_yes


def test_a_tokenizer_class_of_the_folder_is_not_loaded(
    tiny_folder: Path, tmp_path: Path, answers_yes: list[str]
) -> None:
    folder = evil_copy(tiny_folder, tmp_path / "model")
    edit(folder / "tokenizer_config.json", lambda table: table | {"tokenizer_class": "EvilTokenizer"})
    try:
        load_policy(str(folder))
    except FovealError as error:
        assert "tokenizer" in str(error)
    assert not (tmp_path / "canary").exists() and not answers_yes


def test_a_saliency_model_of_another_type_is_refused_before_its_code_is_looked_at(
    tiny_folder: Path, tmp_path: Path, answers_yes: list[str]
) -> None:
    folder = evil_copy(tiny_folder, tmp_path / "model", model_type="evil")
    with pytest.raises(FovealError, match="is of type 'evil'; expected a DINOv2 model"):
        saliency_model(SaliencySource(model=str(folder), layers=(1,), max_patches=64))
    assert not (tmp_path / "canary").exists() and not answers_yes


class _Writes:
    """Unpickling it writes a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return os.system, (f"echo ran > {self.file}",)


def test_weights_that_are_a_pickle_are_not_loaded(tiny_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    (folder / "model.safetensors").unlink()
    with (folder / "pytorch_model.bin").open("wb") as file:
        pickle.dump(_Writes(tmp_path / "canary"), file)
    with pytest.raises(FovealError, match="weights"):
        load_policy(str(folder))
    assert not (tmp_path / "canary").exists()


def test_the_command_line_refuses_the_folder_without_a_question(tiny_folder: Path, tmp_path: Path) -> None:
    folder = evil_copy(tiny_folder, tmp_path / "model", model_type="evil")
    line = [sys.executable, "-m", "foveal", "train", "quickstart_grpo", "--model", str(folder), "--out"]
    done = subprocess.run(
        [*line, str(tmp_path / "run")], input="y\n" * 9, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2 and "model_type 'evil'" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr and "trust_remote_code" not in done.stdout + done.stderr
    assert not (tmp_path / "canary").exists()
