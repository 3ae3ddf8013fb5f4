"""A stranger's objective with a view of its own, perturbation and reward: files outside the package."""

import importlib
import json
import tomllib
from pathlib import Path

import pytest
import torch

from foveal.cli import main
from foveal.config import dump, load
from foveal.objectives.extension import build_objective
from foveal.objectives.grpo import GRPO
from foveal.objectives.papo import PAPO
from foveal.spec import ConfigError
from foveal.train.loop import start

OBJECTIVE = '''
"""A base objective that also asks to be sure of itself where the picture is noised."""

import torch
from foveal.objectives.extension import Extension, join_views
from foveal.types import CLEAN, Term


class Steady(Extension):
    """L_base + steady_coef * mean (log p(clean) - log p(noised))^2; gradient flows into both views."""

    steady_coef: float = 0.5

    @property
    def update_views(self):
        return join_views(CLEAN, "noised", *self.base.update_views)

    def rows(self, view, batch):
        return batch.inputs.completion_mask.any(-1)

    def masks(self, batch):
        return {**super().masks(batch), "steady": batch.inputs.completion_mask}

    def terms(self, batch, now):
        mask = batch.inputs.completion_mask
        gap = torch.where(mask, now[CLEAN].logprobs - now["noised"].logprobs, 0.0)
        term = Term(name="steady", coef=self.steady_coef, per_token=gap.square(), mask=mask)
        return [*super().terms(batch, now), term]
'''

PERTURBATION = '''
"""Stripes over the picture."""

import numpy as np
from PIL import Image
from foveal.types import Perturbation


class Stripes(Perturbation):
    width: int = 4

    def __call__(self, image, *, rng, context):
        pixels = np.array(image.convert("RGB"))
        start = int(rng.integers(self.width))
        pixels[(np.arange(len(pixels)) + start) // self.width % 2 == 0] = 0
        return Image.fromarray(pixels)
'''

REWARD = '''
"""Short answers."""

from foveal.types import Reward


class Short(Reward):
    is_accuracy = True
    limit: int = 3

    def __call__(self, problem, text):
        assert problem.answer
        return float(len(text) <= self.limit)
'''

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
type = "steady:Steady"
steady_coef = 0.25
[perturbations.noised]
type = "stripes:Stripes"
width = 6
[[rewards]]
type = "short:Short"
limit = 6
[checkpoint]
every = 1
"""


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A folder of a stranger's, with the config and the three files beside each other."""
    folder = tmp_path / "mine"
    folder.mkdir()
    for name, text in (("steady", OBJECTIVE), ("stripes", PERTURBATION), ("short", REWARD)):
        (folder / f"{name}.py").write_text(text)
    (folder / "run.toml").write_text(CONFIG)
    return folder


def metrics(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_strangers_objective_perturbation_and_reward_train_and_resume(
    elsewhere: Path, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the working directory of the files, and resumed from another one."""
    torch.set_num_threads(1)
    monkeypatch.chdir(elsewhere)
    run = tmp_path / "run"
    assert main(["train", "run.toml", "--model", str(tiny_folder), "--out", str(run)]) == 0
    found = metrics(run)
    assert len(found) == 2
    for line in found:
        assert line["loss/steady"] > 0
        assert line["loss/total"] == pytest.approx(line["loss/surrogate"] + line["loss/steady"])
        assert 0 <= line["reward/short"] <= 1
    assert 'type = "steady:Steady"' in (run / "config.toml").read_text()
    monkeypatch.chdir(tmp_path)
    (run / "summary.json").unlink()
    assert main(["train", "--resume", str(run)]) == 0
    assert (run / "summary.json").is_file()


def test_plug_ins_are_found_beside_the_config_from_any_working_directory(
    elsewhere: Path, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)
    words = ["train", "mine/run.toml", "--model", str(tiny_folder), "--out", "run", "objective.steady_coef=0"]
    assert main(words) == 0
    assert all(line["loss/steady"] == 0 for line in metrics(tmp_path / "run"))


def test_view_without_a_perturbation_is_named(
    elsewhere: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(elsewhere)
    text = CONFIG.replace("perturbations.noised", "perturbations.noisy")
    (elsewhere / "run.toml").write_text(text)
    assert main(["train", "run.toml", "--model", str(tiny_folder)]) == 2
    said = capsys.readouterr().err
    assert "steady:Steady needs a \"noised\" view, but [perturbations] has 'noisy'" in said
    assert "add [perturbations.noised]" in said


SHORTENED = '''
from foveal.objectives.extension import build_objective
from foveal.objectives.grpo import GRPO

class Halved(GRPO):
    """GRPO with half the advantage; it inherits the short name "grpo"."""

    def advantages(self, inputs):
        return super().advantages(inputs) / 2
'''


def test_an_instance_of_ones_own_class_goes_on_as_that_class(
    tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Passed from Python it has no import path, and the name that it inherits is that of another class."""
    (tmp_path / "beside").mkdir()
    (tmp_path / "beside" / "halved.py").write_text(SHORTENED)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path / "beside"))
    halved = importlib.import_module("halved").Halved()
    assert halved.type == "grpo"
    config = load(
        {
            **tomllib.loads(CONFIG),
            "objective": halved,
            "perturbations": {},
            "model": {"path": str(tiny_folder)},
            "rewards": [{"type": "choice"}],
            "steps": 1,
        }
    )
    assert config.objective.type == "halved:Halved"
    assert load(tomllib.loads(dump(config))) == config
    start(config, tmp_path / "run")
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert str(tmp_path / "beside") in manifest["import_paths"]
    assert build_objective(PAPO()).type == "papo"


def test_a_class_that_is_not_there_any_more_is_refused_in_words() -> None:
    class Local(GRPO):
        pass

    table = {**tomllib.loads(CONFIG), "perturbations": {}, "rewards": [{"type": "choice"}]}
    with pytest.raises(ConfigError, match="is defined in a function, where a resumed run cannot find it"):
        dump(load({**table, "objective": Local()}))
    with pytest.raises(ConfigError, match="made in a script, a notebook or a function"):
        load({**table, "objective": "__main__:Mine"})
