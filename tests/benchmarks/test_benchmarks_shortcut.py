"""The rules of the shortcut study: which haze, which weights, and seeds that are used once."""

from pathlib import Path
from typing import Any

import shortcut_study as study


def rows(stage: str, haze: float, values: list[float], *, arm: str = "grpo") -> list[dict[str, Any]]:
    return [
        {"stage": stage, "arm": arm, "haze": haze, "seed": seed, "accuracy_wrong": value}
        for seed, value in enumerate(values)
    ]


def test_a_haze_is_refused_with_the_second_run_that_sees_and_accepted_with_the_seventh_that_fell() -> None:
    assert study.verdict(rows("haze", 0.6, [0.1, 0.9]), 0.6) is None
    assert study.verdict(rows("haze", 0.6, [0.1, 0.9, 0.9]), 0.6) is False
    assert study.verdict(rows("haze", 0.6, [0.1] * 6 + [0.9]), 0.6) is None
    assert study.verdict(rows("haze", 0.6, [0.1] * 6 + [0.9, 0.1]), 0.6) is True
    assert study.verdict(rows("haze", 0.6, [0.1] * 7), 0.6) is True
    assert study.verdict(rows("final", 0.6, [0.1] * 8), 0.6) is None


def test_the_haze_is_the_smallest_accepted_one_above_a_refused_one() -> None:
    found = rows("haze", 0.61, [0.9, 0.9]) + rows("haze", 0.62, [0.1] * 7) + rows("haze", 0.66, [0.1] * 7)
    assert study.chosen_haze(found) == 0.62
    assert study.chosen_haze(found[2:]) is None


def test_the_seeds_that_saw_at_the_nearest_haze_are_tried_first() -> None:
    found = rows("haze", 0.62, [0.1, 0.9]) + rows("haze", 0.63, [0.1, 0.2])
    for row in found:
        row["seed"] += 200
    order = study.seeds_in_order(found, 0.64)
    assert order[:6] == [202, 203, 204, 205, 206, 207] and order[6:] == [201, 200]
    assert study.seeds_in_order(found[:2], 0.63)[0] == 201 and 201 not in study.seeds_in_order(found, 0.63)


def weight_rows(values: dict[str, list[float]]) -> list[dict[str, Any]]:
    found = [row for arm, own in values.items() for row in rows("weights", 0.6, own, arm=arm)]
    for row in found:
        row["seed"] += 100
    return found


CPPO = {
    "cppo_0.01": [0.1, 0.1, 0.2],
    "cppo_0.03": [0.1, 0.1, 0.8],
    "cppo_0.1": [0.1] * 3,
    "cppo_0.3": [0.1] * 3,
}


def test_the_best_weight_falls_least() -> None:
    papo = {
        "papo_0.02": [0.1] * 3,
        "papo_0.06": [0.9, 0.9, 0.1],
        "papo_0.2": [0.8] * 3,
        "papo_0.6": [0.1] * 3,
    }
    found = weight_rows(papo | CPPO)
    assert study.best_weights(found) == {"papo": 0.2, "cppo": 0.03}
    assert study.best_weights(found[1:]) is None


def test_weights_that_tie_are_settled_by_more_seeds_and_then_by_the_mean() -> None:
    papo = {"papo_0.02": [0.1] * 3, "papo_0.06": [0.9] * 3, "papo_0.2": [0.8] * 3, "papo_0.6": [0.7] * 3}
    found = weight_rows(papo | CPPO)
    assert [arm.name for arm in study.tied(found, "papo")] == ["papo_0.06", "papo_0.2", "papo_0.6"]
    assert study.best_weights(found) is None
    more = {"papo_0.06": [0.9] * 5 + [0.1], "papo_0.2": [0.8] * 6, "papo_0.6": [0.7] * 6}
    assert study.best_weights(weight_rows(papo | more | CPPO)) == {"papo": 0.2, "cppo": 0.03}


def test_no_seed_is_used_in_two_stages() -> None:
    used = [set(s) for s in (study.HAZE_SEEDS, study.WEIGHT_SEEDS, study.TIE_SEEDS, study.FINAL_SEEDS)]
    assert len(set().union(*used)) == sum(map(len, used)) and len(study.FINAL_SEEDS) >= 8


def test_the_arms_differ_in_what_they_say_and_nothing_else(tmp_path: Path) -> None:
    from foveal.config import load, shipped

    arms = {arm.name: arm for arm in study.final_arms({"papo": 0.2, "cppo": 0.03})}
    assert set(arms) == {"grpo", "papo", "cppo", "placebo", "kl", "papo_published", "cppo_published"}
    configs = {}
    for name, arm in arms.items():
        one = arm.job(tmp_path, stage="final", haze=0.62, seed=3)
        configs[name] = load(shipped(one.config), overrides=one.overrides).model_dump(mode="json")
    ours = {"objective", "perturbations"}
    base = {key: value for key, value in configs["grpo"].items() if key not in ours}
    assert base["data"]["haze"] == 0.62 and base["data"]["shortcut"] == 0.8
    for name, config in configs.items():
        assert {key: value for key, value in config.items() if key not in ours} == base, name
    assert configs["placebo"]["objective"] == configs["papo"]["objective"]
    assert configs["placebo"]["perturbations"]["removed"]["type"] == "rotation"
    assert configs["papo"]["perturbations"]["removed"]["type"] == "patch_mask"
    assert configs["papo"]["objective"]["kl_prcp_coef"] == 0.2
    assert configs["papo_published"]["objective"]["kl_prcp_coef"] == 0.02
    assert configs["cppo_published"]["objective"]["cpl_coef"] == 0.01
    assert configs["kl"]["objective"]["kl_coef"] == 0.2
