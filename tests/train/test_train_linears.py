"""Whose products a run takes: measured in bounded time, recorded, the same after a resume, and forced."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from foveal.config import load
from foveal.policy import Policy, load_policy
from foveal.policy import linears as products
from foveal.policy.linears import ONEDNN, PLAIN, Linears
from foveal.spec import FovealError
from foveal.train import linears, loop
from foveal.train.linears import choose_linears, measure_linears
from foveal.train.setup import resolve_model
from foveal.train.watcher import Silent
from run_cases import differences, world_config, world_table

MIXED = {"forward": "onednn", "input_grad": "onednn", "weight_grad": "torch", "decode": "onednn"}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def policy(tiny_folder: Path) -> Policy:
    return load_policy(str(tiny_folder))


def seconds(ratios: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """What would be measured, were oneDNN to take these shares of torch's time."""
    return {kind: {"torch": 0.02, "onednn": 0.02 * ratio} for kind, ratio in ratios.items()}


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine on which oneDNN is faster in all but the weight's gradient, for models of any size."""
    ratios = {"forward": 0.5, "input_grad": 0.949, "weight_grad": 0.951, "decode": 0.6}
    monkeypatch.setattr(linears, "SMALLEST", 0)
    monkeypatch.setattr(linears, "_seconds", lambda shapes: seconds(ratios))
    yield


def started(model: Path, run: Path, *, setting: str = "auto", **changes: Any) -> dict[str, Any]:
    loop.start(load(world_table(model, **changes), overrides=[f"model.linears={setting}"]), run)
    found: dict[str, Any] = json.loads((run / "measured.json").read_text())
    return found


@pytest.mark.usefixtures("measured")
def test_each_kind_leaves_torch_only_for_a_margin(policy: Policy) -> None:
    found = measure_linears("auto", policy)
    assert found["linears"] == MIXED
    assert found["linears_chosen_by"] == "measurement"
    assert found["linears_ms"]["forward"] == {"torch": 20.0, "onednn": 10.0}


def test_small_models_are_not_measured_nor_is_that_of_the_quickstart(
    policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linears, "_seconds", lambda shapes: 1 / 0)
    for small in (policy, load_policy(resolve_model("tiny"))):
        assert measure_linears("auto", small) == {"linears": PLAIN.names, "linears_chosen_by": "size"}


@pytest.mark.parametrize(("name", "wanted"), [("torch", PLAIN), ("onednn", ONEDNN)])
def test_a_given_choice_is_not_measured(
    policy: Policy, monkeypatch: pytest.MonkeyPatch, name: str, wanted: Linears
) -> None:
    monkeypatch.setattr(linears, "_seconds", lambda shapes: 1 / 0)
    assert measure_linears(name, policy) == {"linears": wanted.names, "linears_chosen_by": "config"}


@pytest.mark.usefixtures("measured")
def test_products_that_fail_are_left_and_the_reason_is_recorded(
    policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*given: object) -> None:
        raise RuntimeError("could not create a primitive")

    monkeypatch.setattr(products, "_onednn", missing)
    reason = "fallback: its product failed: could not create a primitive"
    assert measure_linears("auto", policy) == {"linears": PLAIN.names, "linears_chosen_by": reason}
    with pytest.raises(FovealError, match="'onednn' cannot run here: its product failed: could not create"):
        measure_linears("onednn", policy)


def test_weights_in_16_bits_are_left_to_torch(tiny_folder: Path) -> None:
    found = measure_linears("auto", load_policy(str(tiny_folder), dtype=torch.bfloat16))
    assert found["linears"] == PLAIN.names
    assert "the dtype is torch.bfloat16" in found["linears_chosen_by"]


def test_shapes_are_those_that_hold_most_numbers_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    layers = [nn.Linear(6, 20), nn.Linear(6, 20), nn.Linear(20, 6), nn.Linear(6, 30), nn.Conv2d(9, 99, 9)]
    model = nn.Sequential(*layers)
    assert linears._shapes(model) == {(20, 6): 2, (30, 6): 1}
    monkeypatch.setattr(linears, "SIDE", 10)
    assert linears._shapes(model) == {(10, 6): 2 * 2 + 3}
    assert linears._shapes(nn.Sequential(layers[-1])) == {}


def test_a_slow_machine_ends_the_measurement_after_a_few_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    now, calls = [0.0], [0]

    def slow(work: Any) -> float:
        work()
        now[0] += 1.0
        calls[0] += 1
        return 1.0

    monkeypatch.setattr(linears, "_timed", slow)
    monkeypatch.setattr(linears.time, "thread_time", lambda: now[0])
    found = linears._seconds({(8, 4): 3.0})
    # Three kinds and a decoding step, which is laid out and multiplied, each by two libraries.
    assert calls[0] == linears.LEAST_ROUNDS * 2 * 5
    assert found["forward"] == {"torch": 3.0, "onednn": 3.0}
    assert found["decode"]["torch"] == pytest.approx(3 * (1 / linears.CALLS + 1 / linears.TOKENS))


def test_every_kind_is_measured_by_both(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linears, "ROWS", 8)
    found = linears._seconds({(64, 32): 2.0, (32, 64): 1.0})
    assert found.keys() == PLAIN.names.keys()
    assert all(of.keys() == {"torch", "onednn"} and min(of.values()) > 0 for of in found.values())


@pytest.mark.usefixtures("measured")
def test_a_run_records_its_choice_and_takes_it(tiny_folder: Path, tmp_path: Path) -> None:
    config = world_config(tiny_folder, objective={"type": "papo", "preset": "g_3b"})
    run = loop.Run.prepare(config, watcher=Silent())
    assert run.measured["linears"] == MIXED
    assert run.reference is not None
    assert run.policy.linears == run.reference.linears == Linears.of(MIXED)
    assert started(tiny_folder, tmp_path / "run", steps=1)["linears"] == MIXED


def test_policy_and_reference_multiply_alike(tiny_folder: Path) -> None:
    """Their log-ratio is exactly 0 at the start."""
    first, second = (load_policy(str(tiny_folder)) for _ in range(2))
    record = {"linears": MIXED}
    assert choose_linears("auto", first, second, None, recorded=record, message=lambda text: None) == {}
    assert first.linears == second.linears == Linears.of(MIXED)


def test_a_resumed_run_takes_the_recorded_choice_and_repeats_itself(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, half = tmp_path / "whole", tmp_path / "half"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(linears, "SMALLEST", 0)
        patch.setattr(
            linears, "_seconds", lambda shapes: seconds(dict.fromkeys(PLAIN.names, 0.5) | {"decode": 2})
        )
        assert started(tiny_folder, whole)["linears"]["decode"] == "torch"
        save = loop.save_checkpoint

        def killed(folder: Path, name: str, **given: Any) -> Path:
            if name.endswith("4"):
                raise ZeroDivisionError
            return save(folder, name, **given)

        patch.setattr(loop, "save_checkpoint", killed)
        with pytest.raises(ZeroDivisionError):
            started(tiny_folder, half)
    # What is measured now would be another choice, were it measured.
    monkeypatch.setattr(linears, "measure_linears", lambda *given: 1 / 0)
    loop.resume(half, config=load(half / "config.toml"))
    assert differences(half, whole) == []
    recorded = json.loads((half / "measured.json").read_text())
    assert recorded["linears"] == {**ONEDNN.names, "decode": "torch"}


def test_products_round_differently(tiny_folder: Path, tmp_path: Path) -> None:
    """Else the recorded choice would be without effect, and its tests could not fail."""
    for name in ("torch", "onednn"):
        started(tiny_folder, tmp_path / name, setting=name, steps=1)
    assert differences(tmp_path / "torch", tmp_path / "onednn") != []


@pytest.mark.usefixtures("measured")
@pytest.mark.parametrize("record", [{}, {"linears": None}, {"linears": "onednn"}])
def test_a_record_without_a_choice_is_completed(policy: Policy, record: dict[str, Any]) -> None:
    found = choose_linears("auto", policy, recorded=record, message=lambda text: None)
    assert found["linears"] == MIXED
    assert policy.linears == Linears.of(MIXED)


def test_the_configured_choice_goes_before_the_recorded_one(policy: Policy) -> None:
    found = choose_linears("torch", policy, recorded={"linears": MIXED}, message=lambda text: None)
    assert found == {"linears": PLAIN.names, "linears_chosen_by": "config"}
    assert policy.linears == PLAIN


def test_a_run_that_moved_to_where_onednn_cannot_run_says_so_and_chooses_again(
    policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(linears, "onednn_fault", lambda device, dtype: "this torch has none")
    found = choose_linears("auto", policy, recorded={"linears": MIXED}, message=told.append)
    assert found == {"linears": PLAIN.names, "linears_chosen_by": "fallback: this torch has none"}
    assert policy.linears == PLAIN
    assert len(told) == 1 and "cannot run here: this torch has none; chosen again" in told[0]
    assert choose_linears("auto", policy, recorded=found, message=told.append) == {}
    assert len(told) == 1
