"""The collapse guard on validation: a slow loss, or one before there is a past, is told; noise is not."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from foveal.collapse import SUSPECT, GuardConfig, Memory, Verdict, observe_validation
from foveal.config import load
from foveal.keys import generator
from foveal.policy.checkpoint import latest_checkpoint, step_of
from foveal.signs import in_words
from foveal.train import loop
from foveal.train.guard import Collapsed
from foveal.train.state import State
from run_cases import differences, lines, world_config

EVERY = 4


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def validate(
    accuracies: Sequence[float], *, answers: int = 1000, memory: Memory | None = None, **settings: Any
) -> list[Verdict]:
    memory, config = memory or Memory(), GuardConfig(**settings)
    return [
        observe_validation(memory, EVERY * place, accuracy, answers=answers, config=config)
        for place, accuracy in enumerate(accuracies)
    ]


def alarms(verdicts: list[Verdict]) -> list[int]:
    return [place for place, verdict in enumerate(verdicts) if verdict.alarm]


def test_a_loss_of_four_points_in_the_mean_of_three_is_told_with_its_numbers() -> None:
    verdicts = validate([0.70, 0.80, 0.80, 0.80, 0.77, 0.75, 0.75])
    assert alarms(verdicts) == [6]
    # Means of three: best .80, last (.77 + .75 + .75) / 3; standard error sqrt(p (1 - p) / 3000).
    last = (0.77 + 0.75 + 0.75) / 3
    verdict = verdicts[6]
    assert verdict.signs == ("validation",) and verdict.level == 2
    assert verdict.now == {"validation": pytest.approx(last)}
    assert verdict.usual == {"validation": pytest.approx(0.8)}
    assert verdict.z["validation"] == pytest.approx((0.8 - last) / math.sqrt(last * (1 - last) / 3000))
    # (.80 + .77 + .75) / 3 has lost .027, two thirds of .04: so the last fine one is that before.
    assert verdict.onset == EVERY * 4
    assert not alarms(validate([0.70, 0.80, 0.80, 0.80, 0.77, 0.765, 0.765]))
    assert alarms(validate([0.70, 0.80, 0.80, 0.80, 0.77, 0.765, 0.765], validation_drop=0.03)) == [6]


def test_fewer_than_three_validations_and_a_single_bad_one_are_no_alarm() -> None:
    assert not alarms(validate([0.8, 0.2]))
    assert not alarms(validate([0.8, 0.8, 0.8, 0.69, 0.8, 0.8]))


def test_a_run_that_has_come_back_is_not_told_of() -> None:
    # The mean of (.7, .7, .8) has lost .067, the last alone nothing.
    accuracies = [0.8, 0.8, 0.8, 0.8, 0.7, 0.7, 0.8]
    verdicts = validate(accuracies)
    assert alarms(verdicts) == [5]
    assert verdicts[6].level == 0 and verdicts[6].z["validation"] == pytest.approx(0.0, abs=1e-9)


def test_few_problems_need_two_standard_errors() -> None:
    accuracies = [0.8, 0.8, 0.8, 0.72, 0.72, 0.72]
    # 2 sqrt(.72 .28 / (3 n)): .082 at 40 answers, .075 at 48.
    assert not alarms(validate(accuracies, answers=40))
    assert alarms(validate(accuracies, answers=48)) == [5]


def test_one_that_warns_tells_a_loss_once_until_it_has_come_back() -> None:
    lost = [0.8] * 3 + [0.7] * 9
    assert alarms(validate(lost)) == [4]
    again = [*lost, *[0.8] * 4, *[0.7] * 4]
    assert alarms(validate(again)) == [4, 17]


def test_one_that_acts_speaks_again_after_its_cooldown_until_its_acts_are_spent() -> None:
    memory, found = Memory(), []
    config = GuardConfig(action="lower", cooldown=9, max_acts=2)
    for place, accuracy in enumerate([0.8] * 3 + [0.7] * 12):
        verdict = observe_validation(memory, EVERY * place, accuracy, answers=1000, config=config)
        if verdict.alarm:
            found.append(place)
            memory.acts += 1
    assert found == [4, 7] and memory.alarms == 2


def test_an_alarm_of_the_signs_quiets_validation_for_the_cooldown() -> None:
    assert alarms(validate([0.8] * 3 + [0.7] * 9, memory=Memory(quiet_until=EVERY * 6))) == [7]


def test_a_healthy_plateau_is_silent_and_a_loss_of_six_points_is_told() -> None:
    """Greedy answers on the same 192 problems, of which a twentieth are answered by luck each time."""
    told = 0
    for seed in range(50):
        rng = generator("validation", seed)
        known = rng.random(192) < 0.85

        def measured(rng: np.random.Generator = rng, known: np.ndarray = known) -> float:
            lucky = rng.random(192) < 0.05
            return float(np.where(lucky, rng.random(192) < 0.5, known).mean())

        healthy = [measured() for _ in range(36)]
        told += len(alarms(validate(healthy, answers=192)))
        fallen = alarms(validate([*healthy, *(measured() - 0.06 for _ in range(8))], answers=192))
        assert fallen and fallen[-1] >= 36
    assert told == 0


def test_the_healthy_step_never_goes_back_and_every_onset_is_later() -> None:
    rng, memory, config = generator("healthy step"), Memory(), GuardConfig(cooldown=5)
    before, told = -math.inf, 0
    for step in range(0, 400, EVERY):
        accuracy = float(np.clip(0.8 - 0.1 * (step > 200) + 0.03 * rng.normal(), 0, 1))
        verdict = observe_validation(memory, step, accuracy, answers=400, config=config)
        for later in range(step, step + EVERY):
            assert memory.healthy_step(later) >= before
            before = memory.healthy_step(later)
        if verdict.alarm:
            told += 1
            assert verdict.onset == memory.fine is not None
    assert told >= 1


def test_validations_of_steps_that_were_given_up_are_forgotten() -> None:
    memory = Memory()
    validate([0.8] * 4 + [0.5], memory=memory)
    memory.give_up(EVERY * 2, EVERY * 4)
    assert memory.validated == [(EVERY * 2, 0.8)] and memory.fine == EVERY * 2
    config = GuardConfig()
    for step, accuracy in ((20, 0.5), (24, 0.8), (28, 0.8)):
        assert not observe_validation(memory, step, accuracy, answers=1000, config=config).alarm
    assert memory.best == pytest.approx(0.8)


def test_memory_that_went_through_json_goes_on_alike() -> None:
    accuracies = [0.8, 0.82, 0.81, 0.8, 0.7, 0.7, 0.7, 0.82, 0.82, 0.6, 0.6]
    whole, memory, config = Memory(), Memory(), GuardConfig(cooldown=4)
    for place, accuracy in enumerate(accuracies):
        wanted = observe_validation(whole, place, accuracy, answers=500, config=config)
        state = json.loads(json.dumps(asdict(State(step=place, guard=memory))))
        memory = State.of(state, checkpoint=Path(f"step-{place}")).guard
        assert observe_validation(memory, place, accuracy, answers=500, config=config) == wanted
    assert memory == whole and whole.alarms > 0


def test_words_give_per_cent_and_the_best() -> None:
    line = {
        "step": 60,
        "onset": 56,
        "now": {"validation": 0.7567},
        "usual": {"validation": 0.8},
        "act": "warn",
    }
    assert in_words(line) == (
        "step 60: the validation accuracy, mean of three, is 75.67 % (at best 80.00 %); healthy up to step 56"
    )


def ruin(action: str) -> Any:
    """A run from the shipped checkpoint whose learning rate breaks the policy in a few steps."""
    return world_config(
        Path("tiny"),
        steps=14,
        sampling={"group_size": 3, "prompts_per_step": 2, "max_new_tokens": 48},
        optimizer={"lr": 3e-3, "warmup_steps": 9},
        rewards=[{"type": "boxed", "weight": 1.0}],
        validation={
            "every": 1,
            "problems": 8,
            "data": {"type": "world", "families": ["relations"], "split": "heldout"},
        },
        guard={"action": action, "threshold": 1e9, "alone": 1e9, "cooldown": 3, "max_acts": 1},
    )


@pytest.fixture(scope="module")
def rescued(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rescued") / "run"
    loop.start(ruin("rollback"), folder)
    return folder


def acted(run: Path) -> Mapping[str, Any]:
    [line] = [line for line in lines(run) if line["kind"] == "guard" and line["act"] != "warn"]
    return line


def test_a_run_goes_back_to_weights_from_before_the_loss(rescued: Path) -> None:
    line = acted(rescued)
    accuracies = {x["step"]: x["validation/accuracy"] for x in lines(rescued) if x["kind"] == "validation"}
    assert line["signs"] == ["validation"] and line["act"] == "rollback"
    assert line["restored"] <= line["onset"] < line["step"] and line["restored"] % 2 == 0
    assert line["usual"]["validation"] - line["now"]["validation"] > 0.04
    best = line["usual"]["validation"]
    last = [accuracies[line["onset"] - back] for back in range(3) if line["onset"] >= back]
    assert best - sum(last) / len(last) < SUSPECT * max(0.04, 2 * math.sqrt(0.25 / 24))
    assert lines(rescued)[-1]["step"] == 14


def test_a_run_killed_at_that_alarm_does_the_same_again(rescued: Path, tmp_path: Path) -> None:
    run, write = tmp_path / "run", loop.RunFolder.metrics

    def metrics(self: loop.RunFolder, line: Mapping[str, Any]) -> None:
        if line["kind"] == "guard":
            raise ZeroDivisionError
        write(self, line)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.RunFolder, "metrics", metrics)
        with pytest.raises(ZeroDivisionError):
            loop.start(ruin("rollback"), run)
    loop.resume(run, config=load(run / "config.toml"))
    assert differences(run, rescued) == []


def test_stop_saves_the_weights_from_before_the_loss(rescued: Path, tmp_path: Path) -> None:
    with pytest.raises(Collapsed, match=r"the validation accuracy, mean of three, is .* % \(at best"):
        loop.start(ruin("stop"), tmp_path / "run")
    line = acted(tmp_path / "run")
    assert {**line, "act": "rollback"} == acted(rescued)
    newest = latest_checkpoint(tmp_path / "run" / "checkpoints")
    assert newest is not None and step_of(newest) == line["step"]
