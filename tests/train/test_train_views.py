"""What a run gives its perturbations: saliency, donors, progress; and what it refuses at the start."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from foveal.cli import main
from foveal.config import load
from foveal.data.collate import collate
from foveal.policy import load_policy
from foveal.train import loop
from foveal.types import CLEAN, Group, Inputs
from policy_cases import problem
from run_cases import lines, world_config
from saliency_cases import build_dinov2, masked

CONFIG = """
steps = 2
threads = 1
[data]
type = "world"
families = ["counting"]
[sampling]
group_size = 3
prompts_per_step = 2
max_new_tokens = 4
[objective]
type = "papo"
kl_prcp_coef = 0.1
[perturbations.removed]
type = "salient_mask"
model = "dino"
layers = [2, 3]
[[rewards]]
type = "boxed"
[checkpoint]
every = 1
"""


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a config and, beside it, the model that it names."""
    torch.set_num_threads(1)
    folder = tmp_path / "mine"
    folder.mkdir()
    build_dinov2(folder / "dino")
    (folder / "run.toml").write_text(CONFIG)
    monkeypatch.chdir(folder)
    return folder


def test_a_salient_mask_trains_resumes_elsewhere_and_hides_what_the_model_attends_to(
    elsewhere: Path, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    assert main(["train", "run.toml", "--model", str(tiny_folder), "--out", str(run)]) == 0
    assert [line["step"] for line in lines(run)] == [1, 2]
    assert all(line["kl_prcp/mean"] > 0 for line in lines(run))
    monkeypatch.chdir(tmp_path)
    (run / "summary.json").unlink()
    assert main(["train", "--resume", str(run)]) == 0
    config = load(run / "config.toml")
    processor = load_policy(str(tiny_folder)).processor
    of = problem("whole", "<image>?", (112, 84))
    inputs = collate(
        [Group(problem=of, completions=(), rewards=(), correct=())],
        processor=processor,
        views=config.objective.views,
        perturbations=config.perturbations,
        key=(0, 0),
    )
    expected = masked(elsewhere / "dino", of.images[0], (2, 3), ratio=0.6)
    assert (expected == 0).all(-1).mean() == pytest.approx(28 / 48)
    wanted, _ = processor.pixels([Image.fromarray(expected)])
    assert torch.equal(inputs.vision["removed"].pixels[0], wanted)
    assert not torch.equal(wanted, inputs.vision[CLEAN].pixels[0])


def test_a_saliency_model_that_cannot_be_used_stops_the_run_before_its_folder_is_made(
    elsewhere: Path, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    words = ["train", "run.toml", "--model", str(tiny_folder), "--out", str(run)]
    assert main([*words, "perturbations.removed.layers=[9]"]) == 2
    said = capsys.readouterr().err
    assert "has 4 layers, but layers = [9]" in said and "Traceback" not in said
    assert main([*words, "perturbations.removed.model=./nothing"]) == 2
    assert "no such model: './nothing' is not a folder" in capsys.readouterr().err
    assert not run.exists()


def test_each_step_passes_the_finished_share_and_the_data_to_the_views(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.set_num_threads(1)
    passed: list[tuple[float, int]] = []

    def spied(groups: list[Group], **given: Any) -> Inputs:
        passed.append((given["progress"], len(given["donors"])))
        return collate(groups, **given)

    monkeypatch.setattr(loop, "collate", spied)
    perturbation = {"type": "chain", "steps": ["other_picture", {"type": "diffusion_noise"}]}
    config = world_config(tiny_folder, steps=4, perturbations={"removed": perturbation}, validation=None)
    loop.start(config, tmp_path / "run")
    assert passed == [(0.0, 7), (0.25, 7), (0.5, 7), (0.75, 7)]
    assert np.isfinite([line["loss/total"] for line in lines(tmp_path / "run")]).all()
