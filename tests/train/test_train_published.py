"""The configs of published rows, each rehearsed: one whole step on a small random model and a few rows."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from data_files import parquet, viewed
from foveal import config as config_module
from foveal.config import RunConfig, load
from foveal.train.loop import start
from run_cases import lines

FOLDER = Path(config_module.__file__).parent / "configs"
PUBLISHED = sorted(file.stem for file in FOLDER.glob("*_vl_*.toml"))

BASELINES = {
    "grpo_qwen2_5_vl_7b": "grpo_qwen2_5_vl_3b",
    "papo_g_qwen2_5_vl_3b": "grpo_qwen2_5_vl_3b",
    "papo_g_qwen2_5_vl_7b": "grpo_qwen2_5_vl_7b",
    "papo_g_no_ref_qwen2_5_vl_3b": "grpo_qwen2_5_vl_3b",
    "papo_g_no_ref_qwen2_5_vl_7b": "grpo_qwen2_5_vl_7b",
    "dapo_qwen2_5_vl_3b": "grpo_qwen2_5_vl_3b",
    "dapo_qwen2_5_vl_7b": "dapo_qwen2_5_vl_3b",
    "papo_d_qwen2_5_vl_3b": "dapo_qwen2_5_vl_3b",
    "papo_d_qwen2_5_vl_7b": "dapo_qwen2_5_vl_7b",
    "papo_noisy_rollout_qwen2_5_vl_3b": "papo_g_qwen2_5_vl_3b",
    "cppo_qwen2_5_vl_7b": "cppo_qwen2_5_vl_3b",
    "cppo_areal_qwen2_5_vl_3b": "cppo_qwen2_5_vl_3b",
}
"""What each row is compared with."""

CHANGES: Mapping[str, set[str]] = {
    "papo": {"objective", "perturbations.removed", "perturbations.noised"},
    "dapo": {"objective", "sampling.when_none_kept", "sampling.when_short"},
    "size": {"model.path", "validation.every", "checkpoint.every"},
}


def published(name: str, *overrides: str) -> RunConfig:
    return load(FOLDER / f"{name}.toml", overrides=overrides)


def leaves(value: Any, place: str = "") -> dict[str, Any]:
    """Every field by its path; the objective and each perturbation as one."""
    if not isinstance(value, Mapping) or place == "objective" or place.startswith("perturbations."):
        return {place: value}
    found: dict[str, Any] = {}
    for key, inner in value.items():
        found |= leaves(inner, f"{place}.{key}".lstrip("."))
    return found


def differences(one: RunConfig, other: RunConfig) -> set[str]:
    first, second = leaves(one.model_dump()), leaves(other.model_dump())
    return {key for key in {**first, **second} if first.get(key) != second.get(key)}


@pytest.mark.parametrize("name", [n for n in PUBLISHED if n in BASELINES and "areal" not in n])
def test_a_row_differs_from_its_baseline_in_nothing_but_what_the_paper_changes(name: str) -> None:
    base = BASELINES[name]
    same_size = name[-2:] == base[-2:]
    allowed = CHANGES["size"] if not same_size else CHANGES[name.partition("_")[0]]
    assert differences(published(name), published(base)) <= allowed
    assert differences(published(name), published(base))


@pytest.mark.parametrize("name", [n for n in PUBLISHED if n.startswith(("papo_g_qwen", "papo_d"))])
def test_papo_holds_the_objective_of_its_baseline(name: str) -> None:
    held = published(name).objective.model_dump()["base"]
    assert held == published(BASELINES[name]).objective.model_dump()


@pytest.mark.parametrize("size", ["3b", "7b"])
def test_without_reference_kl_the_base_is_the_baseline_with_kl_coef_0(size: str) -> None:
    held = published(f"papo_g_no_ref_qwen2_5_vl_{size}").objective.model_dump()["base"]
    assert held == published(f"grpo_qwen2_5_vl_{size}", "objective.kl_coef=0.0").objective.model_dump()


def test_every_published_value_is_the_one_of_the_papers_tables() -> None:
    found = {}
    for name in PUBLISHED:
        config = published(name)
        table = config.objective.model_dump()
        paid = table["base"] if table["type"] == "noisy_rollout" else table
        base = paid.get("base", paid)
        found[name.replace("_qwen2_5_vl", "")] = (
            paid.get("kl_prcp_coef"),
            paid.get("entropy_coef"),
            base["kl_coef"],
            (base["clip_low"], base["clip_high"]),
            config.sampling.group_size,
            config.sampling.prompts_per_step // config.optimizer.mini_batches,
            config.optimizer.lr,
        )
    wide, narrow, upper, areal = (0.2, 0.3), (0.2, 0.2), (0.2, 0.28), (0.4, 0.4)
    assert found == {
        "grpo_3b": (None, None, 0.01, wide, 5, 128, 1e-6),
        "grpo_7b": (None, None, 0.01, wide, 5, 128, 1e-6),
        "dapo_3b": (None, None, 0.0, upper, 5, 128, 1e-6),
        "dapo_7b": (None, None, 0.0, upper, 5, 128, 1e-6),
        "papo_g_3b": (0.02, 0.0, 0.01, wide, 5, 128, 1e-6),
        "papo_g_7b": (0.02, 0.05, 0.01, wide, 5, 128, 1e-6),
        "papo_g_no_ref_3b": (0.01, 0.03, 0.0, wide, 5, 128, 1e-6),
        "papo_g_no_ref_7b": (0.01, 0.03, 0.0, wide, 5, 128, 1e-6),
        "papo_noisy_rollout_3b": (0.02, 0.0, 0.01, wide, 5, 128, 1e-6),
        "papo_d_3b": (0.01, 0.03, 0.0, upper, 5, 128, 1e-6),
        "papo_d_7b": (0.01, 0.03, 0.0, upper, 5, 128, 1e-6),
        "cppo_3b": (None, None, 0.01, narrow, 5, 64, 1e-6),
        "cppo_7b": (None, None, 0.01, narrow, 5, 64, 1e-6),
        "cppo_areal_3b": (None, None, 0.0, areal, 4, 32, 2e-6),
    }


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_config_trains_one_step(name: str, tiny_folder: Path, tmp_path: Path) -> None:
    data = parquet(tmp_path / "rows.parquet", viewed(4))
    small = (
        *("steps=1", "threads=1", "model.gradient_checkpointing=false"),
        *("sampling.group_size=2", "sampling.prompts_per_step=2", "sampling.max_new_tokens=3"),
        *("sampling.max_refills=1", "optimizer.mini_batches=2", "record.groups=0"),
        f"validation.data={{path='{data}'}}",
        *("validation.problems=1", "validation.samples=1"),
    )
    config = load(FOLDER / f"{name}.toml", overrides=small, model=str(tiny_folder), data=str(data))
    summary = start(config, tmp_path / "run")
    assert summary["steps"] == 1 and summary["skipped_count"] == 0
    step = next(line for line in lines(tmp_path / "run") if line["kind"] == "step")
    shown = {key.removeprefix("loss/") for key in step if key.startswith("loss/")} - {"total"}
    views = {*config.objective.views, *config.objective.sample_views(0, steps=1)}
    assert views - {"clean"} == set(config.perturbations)
    assert "surrogate" in shown
    assert ("reference_kl" in shown) == config.objective.uses_reference
    assert ("kl_prcp" in shown) == name.startswith("papo")
    assert ("contrastive_perception" in shown) == (config.objective.type == "cppo")
