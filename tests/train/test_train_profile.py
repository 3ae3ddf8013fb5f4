"""`foveal train --profile`: seconds by phase, operators from a trace, and a run that stays as it is."""

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from foveal import ranges
from foveal.cli import main
from foveal.config import load
from foveal.ranges import BACKWARD, HEAD, TEXT, UPDATE, VISION, listening, mark_backward, span, spanned
from foveal.report.profile import read_profile
from foveal.report.run_page import write_run_report
from foveal.spec import FovealError
from foveal.train import loop
from foveal.train.profile import PICTURE, PROFILE, Seconds, _in_words, by_phase
from run_cases import STEPS, differences, world_config, world_table, write_toml


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


class Told:
    """A watcher that keeps what it is told."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    def start(self, *given: Any) -> None: ...

    def message(self, text: str) -> None:
        self.messages.append(text)

    def step(self, metrics: Any) -> None: ...


@pytest.fixture(scope="module")
def plain(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plain") / "run"
    loop.start(world_config(tiny_folder), folder)
    return folder


@pytest.fixture(scope="module")
def profiled(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    folder, told = tmp_path_factory.mktemp("profiled") / "run", Told()
    loop.start(world_config(tiny_folder), folder, watcher=told, profile=2)
    return folder, told.messages


def found(run: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((run / PROFILE).read_text())
    return value


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """Seconds that pass when they are put here."""
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    yield now


def test_a_range_has_the_seconds_outside_the_ranges_within_it(clock: list[float]) -> None:
    seconds = Seconds(lambda: None)
    with listening(seconds):
        clock[0] += 1
        with span("outer"):
            clock[0] += 2
            with span("inner", "innermost"):
                clock[0] += 4
            with span("outer"):
                clock[0] += 8
        clock[0] += 16
    seconds.close()
    assert seconds.seconds == {
        (): 17,
        ("outer",): 10,
        ("outer", "inner"): 0,
        ("outer", "inner", "innermost"): 4,
    }
    assert seconds.calls[("outer",)] == 1


def test_a_turn_lasts_to_the_next_range_or_turn_or_the_end_around_it(clock: list[float]) -> None:
    seconds = Seconds(lambda: None)
    with listening(seconds):
        with span(UPDATE, BACKWARD):
            for _ in range(2):
                with span(HEAD):
                    clock[0] += 1
                clock[0] += 2
                seconds.turn(TEXT)
                clock[0] += 4
                seconds.turn(VISION)
                clock[0] += 8
        clock[0] += 16
    seconds.close()
    assert seconds.seconds == {
        (): 16,
        (UPDATE,): 0,
        (UPDATE, BACKWARD): 4,
        (UPDATE, BACKWARD, HEAD): 2,
        (UPDATE, BACKWARD, TEXT): 8,
        (UPDATE, BACKWARD, VISION): 16,
    }


def test_ranges_end_with_an_error(clock: list[float]) -> None:
    seconds = Seconds(lambda: None)
    with listening(seconds):
        with pytest.raises(ZeroDivisionError), span("outer", "inner"):
            raise ZeroDivisionError
        clock[0] += 1
    seconds.close()
    assert seconds.seconds == {(): 1, ("outer",): 0, ("outer", "inner"): 0}


def test_phases_are_means_over_steps_and_add_up(clock: list[float]) -> None:
    timed = []
    for long in (1.0, 3.0):
        seconds = Seconds(lambda: None)
        with listening(seconds), span("a"):
            clock[0] += 1
            with span("b", HEAD):
                clock[0] += long
        clock[0] += 5
        seconds.close()
        timed.append(seconds)
    table = by_phase(timed)
    assert table["step_seconds"] == [7, 9]
    assert table["seconds_per_step"] == 8
    assert [(row["phase"], row["seconds"], row["calls"], row["parts"]) for row in table["phases"]] == [
        ("a / b", 2, 1, {HEAD: 2}),
        ("a / other", 1, 1, {}),
        ("rest", 5, 1, {}),
    ]
    assert [row["share"] for row in table["phases"]] == [2 / 8, 1 / 8, 5 / 8]
    assert [row["by_step"] for row in table["phases"]] == [[1, 3], [1, 1], [5, 5]]
    assert {row["part"]: row["seconds"] for row in table["parts"]} == {VISION: 0, TEXT: 0, HEAD: 2}


def test_without_a_listener_nothing_is_made() -> None:
    weight = torch.ones(2, requires_grad=True)
    mark_backward(weight, VISION)
    assert span("a") is span("b", "c")
    assert spanned("a")(int)("3") == 3
    assert not weight._backward_hooks
    assert ranges._listener is None


def test_a_mark_leaves_the_gradient_as_it_is() -> None:
    weight = torch.tensor([1.0, 2.0], requires_grad=True)
    seconds = Seconds(lambda: None)
    with listening(seconds):
        inner = weight * 3
        mark_backward(inner, TEXT)
        with span(BACKWARD):
            inner.square().sum().backward()
    assert weight.grad is not None and weight.grad.tolist() == [18.0, 36.0]
    assert seconds.calls[(BACKWARD, TEXT)] == 1


def test_profiled_run_is_the_plain_run(profiled: tuple[Path, list[str]], plain: Path) -> None:
    told = differences(profiled[0], plain)
    assert sorted(told) == [f"only in one: {PROFILE}", f"only in one: {PICTURE}"]


def test_all_phases_of_a_step_are_there(profiled: tuple[Path, list[str]]) -> None:
    table = found(profiled[0])
    assert [row["phase"] for row in table["phases"]] == [
        "sampling / pictures",
        "sampling / prefill",
        "sampling / draw",
        "sampling / decode",
        "sampling / other",
        "grading",
        "collate / pictures",
        "collate / other",
        "scoring / removed",
        "scoring / other",
        "update / forward / clean",
        "update / backward",
        "update / other",
        "optimizer",
        "rest",
    ]
    assert (table["device"], table["threads"], table["steps"], table["first_step"]) == ("cpu", 1, 2, 2)
    assert sum(row["seconds"] for row in table["phases"]) == pytest.approx(table["seconds_per_step"])
    assert sum(row["share"] for row in table["phases"]) == pytest.approx(1)
    calls = {row["phase"]: row["calls"] for row in table["phases"]}
    assert calls["sampling / draw"] == 5 and calls["sampling / decode"] == 4
    assert calls["grading"] == calls["optimizer"] == 1
    # Of the loss, and of the prompts held from sampling.
    assert calls["update / backward"] == 2


def test_vision_text_and_head_are_told_in_every_pass(profiled: tuple[Path, list[str]]) -> None:
    parts = {row["phase"]: row["parts"] for row in found(profiled[0])["phases"]}
    for phase in ("scoring / removed", "update / backward"):
        assert set(parts[phase]) == {VISION, TEXT, HEAD}, phase
        assert all(value > 0 for value in parts[phase].values())
    # The prompts and their pictures are held from the prefill.
    assert set(parts["update / forward / clean"]) == {TEXT, HEAD}
    assert set(parts["sampling / prefill"]) == {VISION, TEXT}
    assert set(parts["sampling / draw"]) == {HEAD}


def test_operators_are_those_of_the_traced_step(profiled: tuple[Path, list[str]]) -> None:
    table = found(profiled[0])
    assert table["traced_step"]["step"] == 4
    rows = {row["operator"]: row for row in table["operators"]}
    assert rows["aten::addmm"]["calls"] > 0 and rows["aten::mm"]["self_seconds"] > 0
    phases = {row["phase"] for row in table["phases"]}
    assert not phases & rows.keys()
    heads = {name.removesuffix(" / other") for name in phases}
    assert {row["mostly_in"] for row in rows.values()} <= heads | phases
    spent = [row["self_seconds"] for row in table["operators"]]
    assert spent == sorted(spent, reverse=True)
    assert sum(spent) < table["traced_step"]["seconds"]


def test_one_line_names_the_slowest_phase_and_the_picture(profiled: tuple[Path, list[str]]) -> None:
    run, messages = profiled
    (line,) = [text for text in messages if text.startswith("profile:")]
    slowest = max(found(run)["phases"], key=lambda row: row["seconds"])
    assert f" of it in {slowest['phase']}" in line and line.endswith(f"; see {run / PICTURE}")
    assert (run / PICTURE).read_bytes().startswith(b"\x89PNG")


def test_line_says_when_steps_differ_too_much_for_a_mean() -> None:
    table = {"seconds_per_step": 2.0, "phases": [{"phase": "grading", "seconds": 1.0, "share": 0.5}]}
    assert _in_words({**table, "step_seconds": [1.6, 2.4]}) == "a step takes 2 s, 50 % of it in grading"
    assert _in_words({**table, "step_seconds": [1.5, 2.5]}).endswith(
        "(steps differ, 1.5 to 2.5 s: profile more)"
    )


def test_report_of_the_run_shows_the_profile(
    profiled: tuple[Path, list[str]], plain: Path, tmp_path: Path
) -> None:
    page = write_run_report(profiled[0], out=tmp_path / "page.html").read_text(encoding="utf-8")
    assert "Where the time goes" in page and 'id="profile-' in page
    assert read_profile(plain) is None


@pytest.mark.parametrize(
    "value",
    [[], {}, {"seconds_per_step": 0}, {"seconds_per_step": 1, "phases": [{"phase": "a"}]}],
)
def test_a_profile_that_cannot_be_drawn_is_left_out(value: object, tmp_path: Path) -> None:
    (tmp_path / PROFILE).write_text(json.dumps(value))
    assert read_profile(tmp_path) is None


def test_without_matplotlib_the_numbers_are_written_and_the_line_says_so(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.delitem(sys.modules, "foveal.report.profile")
    told = Told()
    loop.start(world_config(tiny_folder, steps=3), tmp_path / "run", watcher=told, profile=1)
    assert found(tmp_path / "run")["steps"] == 1
    assert not (tmp_path / "run" / PICTURE).exists()
    assert any(str(tmp_path / "run" / PROFILE) in m and "foveal[report]" in m for m in told.messages)


def test_killed_run_goes_on_with_a_profile_and_gives_the_plain_run(
    tiny_folder: Path, plain: Path, tmp_path: Path
) -> None:
    """The first process dies in the middle of its profile; the second makes one of the steps left."""
    run = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "train_step", _dies_in(3, loop.train_step))
        with pytest.raises(ZeroDivisionError):
            loop.start(world_config(tiny_folder), run, profile=3)
    assert ranges._listener is None
    assert not (run / PROFILE).exists()
    loop.resume(run, config=load(run / "config.toml"), profile=2)
    assert found(run)["first_step"] == 4
    assert {text for text in differences(run, plain)} == {
        f"only in one: {PROFILE}",
        f"only in one: {PICTURE}",
    }


def _dies_in(step: int, function: Any) -> Any:
    calls = [0]

    def call(*given: Any) -> Any:
        calls[0] += 1
        if calls[0] == step:
            raise ZeroDivisionError
        return function(*given)

    return call


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        (0, "--profile is 0; expected at least 1 step"),
        (-2, "--profile is -2"),
        (
            STEPS - 1,
            f"--profile 5 takes 7 steps (1 to warm up, 5 timed, 1 traced), but the run has {STEPS} left",
        ),
    ],
)
def test_a_wrong_number_of_steps_is_told_before_anything_is_written(
    wanted: int, told: str, tiny_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(FovealError) as error:
        loop.start(world_config(tiny_folder), tmp_path / "run", profile=wanted)
    assert told in str(error.value)
    assert not (tmp_path / "run").exists()


def test_command_profiles_two_steps_unless_told_and_refuses_what_is_no_number(
    tiny_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    table = world_table(tiny_folder, steps=4)
    del table["validation"]
    config = write_toml(tmp_path / "world.toml", table)
    assert main(["train", str(config), "--out", str(tmp_path / "run"), "--profile"]) == 0
    assert found(tmp_path / "run")["steps"] == 2
    told = capfd.readouterr().err
    assert "profile: a step takes" in told and "profiler_start" not in told
    with pytest.raises(SystemExit) as end:
        main(["train", "--profile", str(config)])
    assert end.value.code == 2
    assert "no number of steps" in capfd.readouterr().err
