"""What a peer is measured with: a folder with random weights, and TRL's step on the same work."""

import json
import subprocess
import sys
from pathlib import Path

import checkpoint
import pytest
import trl_step
import workload
from transformers import AutoModelForImageTextToText

from foveal.policy import load_policy

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("benchmark") / "1m"
    checkpoint.main(["--shape", "1m", "--out", str(out)])
    return out


def test_the_folder_opens_with_transformers_and_with_the_library(folder: Path) -> None:
    model = AutoModelForImageTextToText.from_pretrained(folder)
    assert sum(weight.numel() for weight in model.parameters()) == 1_064_896
    policy = load_policy(str(folder))
    encoded = policy.processor.encode(workload.problem(0, workload.side_of(16), 0))
    assert int(encoded.prompt.image_mask.sum()) == 16
    assert json.loads((folder / "tokenizer_config.json").read_text())["processor_class"] == (
        "Qwen2_5_VLProcessor"
    )


def test_a_folder_that_is_there_is_not_written_over(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        checkpoint.arguments(["--out", str(folder)])
    assert "is there already" in capsys.readouterr().err


def test_the_peers_step_takes_the_same_work_and_needs_nothing_of_the_library(folder: Path) -> None:
    args = trl_step.arguments(["--checkpoint", str(folder), "--visual-tokens", "16"])
    assert args.side == 112
    assert trl_step.QUESTION in workload.QUESTION
    code = "import sys, trl_step; print([m for m in sys.modules if m.split('.')[0] in ('foveal', 'torch')])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT / "benchmarks", capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


def test_no_completion_of_the_peer_has_advantage_zero() -> None:
    rewards = trl_step.rewarded(["a7", "b", [{"content": ""}], "8"])
    assert rewards == pytest.approx([0.5, 0.001, 0.004, 1.009])
    same = trl_step.rewarded(["x"] * 8)
    assert len(set(same)) == 8


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--visual-tokens", "15"], "expected a square number"),
        (["--warmup", "3"], "expected fewer than --steps"),
        (["--checkpoint", "/no/such"], "no config.json there"),
    ],
)
def test_a_wrong_argument_is_said(
    folder: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        trl_step.arguments(["--checkpoint", str(folder), *words])
    assert said in capsys.readouterr().err
