"""How a run attends: as configured, else as recorded, else as measured."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from foveal.config import load
from foveal.policy import Policy, load_policy, paths
from foveal.policy.probe import RowShape
from foveal.train import loop, measure
from foveal.train.measure import choose_attention, choose_threads
from run_cases import world_table

SECONDS = {"split": 0.002, "tiled": 0.0031, "dense": 0.0011}


@pytest.fixture
def policy(tiny_folder: Path) -> Policy:
    torch.set_num_threads(1)
    return load_policy(str(tiny_folder))


@pytest.fixture
def probed(monkeypatch: pytest.MonkeyPatch) -> list[RowShape]:
    """Let dense be measured as the fastest; the shapes that were asked for."""
    shapes: list[RowShape] = []

    def fastest(usual: str, shape: RowShape, **where: Any) -> tuple[str, dict[str, float]]:
        assert usual == "split" and where == {"device": torch.device("cpu"), "dtype": torch.float32}
        shapes.append(shape)
        return "dense", SECONDS

    monkeypatch.setattr(measure, "fastest_path", fastest)
    return shapes


def table(model: Path, attention: str) -> dict[str, Any]:
    return world_table(model) | {"model": {"path": str(model), "attention": attention}}


def choose(
    policy: Policy, model: Path, attention: str, recorded: dict[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    told: list[str] = []
    config = load(table(model, attention))
    return choose_attention(config, policy, longest=45, recorded=recorded, message=told.append), told


def test_the_configured_way_is_taken_and_nothing_is_measured(
    policy: Policy, tiny_folder: Path, probed: list[RowShape]
) -> None:
    policy.attention_path = "tiled"
    found, _ = choose(policy, tiny_folder, "tiled", {"attention": "dense"})
    assert found == {"attention": "tiled", "attention_chosen_by": "config"}
    assert policy.attention_path == "tiled" and probed == []


def test_auto_measures_rows_of_the_runs_shape_and_takes_the_fastest(
    policy: Policy, tiny_folder: Path, probed: list[RowShape]
) -> None:
    found, _ = choose(policy, tiny_folder, "auto", {})
    assert found == {"attention": "dense", "attention_chosen_by": "probe", "attention_s": SECONDS}
    assert policy.attention_path == "dense"
    text = policy.model.config.text_config  # type: ignore[union-attr]
    heads, width = text.num_attention_heads, text.hidden_size // text.num_attention_heads
    assert probed == [
        RowShape(
            prompt=45,
            completion=5,
            group=3,
            prompts=2,
            heads=heads,
            kv_heads=text.num_key_value_heads,
            width=width,
        )
    ]


def test_auto_takes_what_was_recorded_without_measuring(
    policy: Policy, tiny_folder: Path, probed: list[RowShape]
) -> None:
    assert choose(policy, tiny_folder, "auto", {"attention": "tiled"}) == ({}, [])
    assert policy.attention_path == "tiled" and probed == []


def test_what_was_recorded_and_cannot_run_is_told_and_chosen_again(
    policy: Policy, tiny_folder: Path, probed: list[RowShape]
) -> None:
    found, told = choose(policy, tiny_folder, "auto", {"attention": "flash"})
    assert found["attention"] == "dense" and len(probed) == 1
    fault = "its kernels are CUDA's, and the device is cpu"
    assert told == [f"attention was 'flash', which cannot run here: {fault}; chosen again"]


def test_a_run_records_its_choice_and_a_resumed_one_keeps_it(
    tiny_folder: Path, tmp_path: Path, probed: list[RowShape], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load(table(tiny_folder, "auto"), overrides=["steps=2"])
    loop.start(config, tmp_path / "run")
    record = tmp_path / "run" / "measured.json"
    assert json.loads(record.read_text())["attention"] == "dense" and len(probed) == 1
    seen: list[str] = []
    forward = Policy.forward

    def spied(self: Policy, *given: Any, **options: Any) -> Any:
        seen.append(self.attention_path)
        return forward(self, *given, **options)

    monkeypatch.setattr(Policy, "forward", spied)
    loop.resume(tmp_path / "run", config=load(table(tiny_folder, "auto"), overrides=["steps=3"]))
    assert set(seen) == {"dense"} and len(probed) == 1
    written = json.loads(record.read_text()) | {"attention": "flash"}
    record.write_text(json.dumps(written))
    loop.resume(tmp_path / "run", config=load(table(tiny_folder, "auto"), overrides=["steps=4"]))
    assert json.loads(record.read_text())["attention"] == "dense" and len(probed) == 2


def test_faults_of_a_way_to_attend_are_named() -> None:
    given = {"dtype": torch.float32, "head_width": 16}
    cuda, cpu = torch.device("cuda"), torch.device("cpu")
    assert paths.path_fault("split", device=cpu, **given) is None  # type: ignore[arg-type]
    assert paths.path_fault("dense", device=cuda, **given) is None  # type: ignore[arg-type]
    assert "those of a CPU" in str(paths.path_fault("split", device=cuda, **given))  # type: ignore[arg-type]
    assert "16-bit" in str(paths.path_fault("flash", device=cuda, **given))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("configured", "recorded", "threads"),
    [
        (3, {"threads": 2, "threads_chosen_by": "probe"}, 3),
        (1, {"threads": 2, "threads_chosen_by": "config"}, 1),
        (0, {"threads": 2, "threads_chosen_by": "probe"}, 2),
        (0, {"threads": 2, "threads_chosen_by": "config"}, 7),
        (0, {}, 7),
    ],
)
def test_threads_are_the_configured_ones_else_those_measured_before_else_measured(
    monkeypatch: pytest.MonkeyPatch, configured: int, recorded: dict[str, Any], threads: int
) -> None:
    monkeypatch.setattr(measure, "measure", lambda *, threads: {"threads": threads or 7})
    monkeypatch.setattr(measure.os, "cpu_count", lambda: 2)
    told: list[str] = []
    assert choose_threads(configured, recorded, message=told.append)["threads"] == threads
    assert told == []


@pytest.mark.parametrize("known", [-3, 0, 3, 100_000])
def test_threads_that_this_machine_does_not_have_are_told_and_measured_again(
    monkeypatch: pytest.MonkeyPatch, known: int
) -> None:
    monkeypatch.setattr(measure.os, "cpu_count", lambda: 2)
    told: list[str] = []
    recorded = {"threads": known, "threads_chosen_by": "probe"}
    assert 1 <= choose_threads(0, recorded, message=told.append)["threads"] <= 2
    assert told == [f"threads were {known}, and this machine has 2 cores; measured again"]
