"""A run with a gate does not start on a model that does not look."""

import pytest

from foveal.config import load
from foveal.data.world import WorldDataConfig
from foveal.spec import ConfigError, FovealError
from foveal.train import loop
from foveal.train.validate import judge_of


def settings(folder, **validation):
    return {
        "steps": 1,
        "threads": 1,
        "model": {"path": str(folder)},
        "data": {"type": "world"},
        "sampling": {"group_size": 2, "prompts_per_step": 2, "max_new_tokens": 4},
        "objective": {"type": "grpo"},
        "rewards": [{"type": "boxed"}],
        "validation": {"data": {"type": "world", "split": "heldout"}, "problems": 6, **validation},
    }


def test_a_random_model_is_refused_before_the_first_step(tiny_folder, tmp_path):
    config = load(settings(tiny_folder, other_picture=True, gate=True))
    with pytest.raises(FovealError, match="does not look"):
        loop.start(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()  # a run that never started leaves none behind


def test_a_gate_without_other_pictures_is_refused(tiny_folder):
    with pytest.raises(ConfigError, match="other_picture = true"):
        load(settings(tiny_folder, gate=True, other_picture=False))


def test_a_world_problem_without_a_donor_is_left_out():
    problems = WorldDataConfig(families=("counting",), split="heldout", size=1).load()
    _, other = judge_of(WorldDataConfig())
    assert callable(other) and other(problems[0], problems) is None
