"""Every shipped objective in a real run of three steps on a random model."""

import math
from pathlib import Path
from typing import Any

import pytest

from foveal.config import load
from foveal.crosscheck import perturbed_views
from foveal.objectives import REGISTRY
from foveal.spec import ConfigError
from foveal.train import loop
from run_cases import lines, world_config, world_table

PERTURBATIONS = {
    "removed": {"type": "patch_mask"},
    "preserved": {"type": "rotation"},
    "noised": {"type": "noise"},
}
LETTERS = {"type": "run_cases:Letters", "weight": 0.5}
REWARDS = [{"type": "boxed", "weight": 0.9}, LETTERS, {"type": "facts", "weight": 0.0}]
VIEWS = {
    "papo": {"removed"},
    "cppo": {"removed", "preserved"},
    "vppo": {"removed"},
    "noisy_rollout": {"noised"},
    "dvrp": {"removed", "noised"},
}
"""Views that a method needs pictures of; others need none."""


@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_three_steps_give_finite_metrics_on_the_views_of_the_method(
    name: str, tiny_folder: Path, tmp_path: Path
) -> None:
    wanted = VIEWS.get(name, set())
    config = world_config(
        tiny_folder,
        steps=3,
        objective={"type": name},
        perturbations={view: PERTURBATIONS[view] for view in wanted},
        rewards=REWARDS,
        validation=None,
        checkpoint={"every": 3},
    )
    assert set(perturbed_views(config.objective, steps=3)) == wanted
    loop.start(config, tmp_path / "run")
    steps = lines(tmp_path / "run")
    assert [line["step"] for line in steps] == [1, 2, 3]
    for line in steps:
        numbers = {key: value for key, value in line.items() if isinstance(value, int | float)}
        assert all(math.isfinite(value) for value in numbers.values())
        assert line["policy/skipped_count"] == 0 and None not in line.values()
        assert {f"loss/{term}" for term in terms_of(name)} | {"loss/total"} == {
            key for key in line if key.startswith("loss/")
        }
    assert any(line["policy/grad_norm"] > 0 for line in steps)


def terms_of(name: str) -> set[str]:
    added: dict[str, set[str]] = {
        "papo": {"kl_prcp"},
        "cppo": {"contrastive_perception"},
        "dvrp": {"kl_prcp", "noised_kl", "removed_entropy", "noised_entropy"},
    }
    return {"surrogate"} | added.get(name, set())


@pytest.mark.parametrize("name", sorted(VIEWS))
def test_a_method_without_its_view_is_refused(name: str, tiny_folder: Path) -> None:
    table = world_table(tiny_folder, objective={"type": name}, perturbations={})
    with pytest.raises(ConfigError, match=rf'{name} needs a "\w+" view'):
        load(table)


def test_a_perception_reward_without_its_reward_is_refused(tiny_folder: Path) -> None:
    objective: dict[str, Any] = {"type": "perception_reward"}
    with pytest.raises(ConfigError, match=r"reads the reward 'facts', but the rewards are boxed, letters"):
        load(world_table(tiny_folder, objective=objective))
    load(world_table(tiny_folder, objective={**objective, "coef": 0.0}))
    held = {"type": "papo", "base": objective}
    with pytest.raises(ConfigError, match=r"weight = 0, which leaves the sum of rewards"):
        load(world_table(tiny_folder, objective=held))
