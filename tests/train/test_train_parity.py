"""A sampler that is not the trainer's model: seen before the update, told once, and not trusted again."""

import copy
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from foveal.cli import main
from foveal.config import ConfigError, load
from foveal.objectives.cppo import CPPO
from foveal.objectives.grpo import GRPO
from foveal.objectives.papo import PAPO
from foveal.policy import Policy, load_policy
from foveal.policy.checkpoint import load_checkpoint
from foveal.rollout.local import LocalEngine
from foveal.train import loop
from foveal.train.parity import parity_event, parity_in_words
from foveal.train.settings import StepSettings
from foveal.train.step import train_step
from foveal.train.watcher import Silent
from foveal.types import Completion, Inputs, Objective, Problem
from run_cases import differences, lines, world_config, world_table, write_toml
from train_cases import inputs_of, record, settings

OFF = 0.01
"""Nats by which the planted sampler is wrong."""

GATED = replace(settings(), score_old=False, parity_limit=1e-3)
CONTRAST = CPPO(base=GRPO(aggregation="token_mean"), cpl_coef=0.5, tau=1.0)


@pytest.fixture(scope="module")
def inputs(policy: Policy) -> Inputs:
    return inputs_of(policy, record(policy, entropies=True)[:3])


def stepped(
    policy: Policy, inputs: Inputs, objective: Objective, how: StepSettings
) -> tuple[Policy, dict[str, Any], bool]:
    moving = copy.deepcopy(policy)
    optimizer = torch.optim.SGD(moving.parameters(), lr=0.1)
    result = train_step(moving, None, optimizer, inputs, objective, how)
    return moving, dict(result.metrics), result.distrusted


def same_bits(a: Policy, b: Policy) -> bool:
    return all(x.equal(y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


def wrong_logprob(inputs: Inputs) -> Inputs:
    found = inputs.sampled_logprobs.clone()
    found[2, 0] += OFF
    return replace(inputs, sampled_logprobs=found)


def wrong_entropy(inputs: Inputs) -> Inputs:
    assert inputs.sampled_entropies is not None
    found = inputs.sampled_entropies.clone()
    found[2, 0] -= OFF
    return replace(inputs, sampled_entropies=found)


@pytest.mark.parametrize("mini_batches", [1, 2])
@pytest.mark.parametrize("objective", [CONTRAST, PAPO()], ids=["cppo", "papo"])
def test_no_update_is_made_with_what_a_wrong_sampler_recorded(
    objective: Objective, mini_batches: int, policy: Policy, inputs: Inputs
) -> None:
    how = replace(GATED, mini_batches=mini_batches)
    wrong = wrong_logprob(inputs)
    found, metrics, distrusted = stepped(policy, wrong, objective, how)
    wanted, scored, never = stepped(policy, wrong, objective, replace(how, score_old=True))
    assert distrusted and not never
    assert same_bits(found, wanted) and metrics == scored
    assert metrics["sampler/parity_max"] == pytest.approx(OFF, abs=1e-4)
    assert metrics["policy/ratio_max"] < 1 + OFF / 2 or mini_batches == 2
    trusting, _, seen = stepped(policy, wrong, objective, replace(how, parity_limit=math.inf))
    assert not seen and not same_bits(trusting, wanted)


def test_an_entropy_that_is_off_is_as_bad(policy: Policy, inputs: Inputs) -> None:
    found, metrics, distrusted = stepped(policy, wrong_entropy(inputs), CONTRAST, GATED)
    wanted, _, _ = stepped(policy, inputs, CONTRAST, replace(GATED, score_old=True))
    assert distrusted and same_bits(found, wanted)
    assert metrics["sampler/entropy_parity_max"] == pytest.approx(OFF, abs=1e-4)
    assert metrics["sampler/parity_max"] < 1e-4


def test_a_sampler_within_the_limit_is_trusted(policy: Policy, inputs: Inputs) -> None:
    found, metrics, distrusted = stepped(policy, inputs, CONTRAST, GATED)
    wanted, _, _ = stepped(policy, inputs, CONTRAST, replace(GATED, parity_limit=math.inf))
    assert not distrusted and same_bits(found, wanted)
    assert 0 < metrics["sampler/parity_max"] < 1e-4 and 0 < metrics["sampler/entropy_parity_max"] < 1e-4
    wrong = replace(GATED, parity_limit=2 * OFF)
    assert not stepped(policy, wrong_logprob(inputs), CONTRAST, wrong)[2]


def test_a_policy_that_is_not_finite_is_no_fault_of_the_sampler(policy: Policy, inputs: Inputs) -> None:
    broken = copy.deepcopy(policy)
    with torch.no_grad():
        next(iter(broken.parameters())).fill_(torch.nan)
    _, metrics, distrusted = stepped(broken, inputs, PAPO(), GATED)
    assert not distrusted and metrics["policy/skipped_count"] == 1
    assert math.isnan(metrics["sampler/parity_max"])


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({}, 1e-3),
        ({"dtype": "bfloat16"}, 0.5),
        ({"optimizer": {"parity_limit": 0.02}}, 0.02),
        ({"optimizer": {"parity_limit": math.inf}}, math.inf),
        ({"optimizer": {"old_logprobs": "sampled", "parity_limit": 0.02}}, math.inf),
    ],
)
def test_the_limit_follows_the_type_unless_it_is_given(
    changes: dict[str, Any], wanted: float, tiny_folder: Path
) -> None:
    table = world_table(tiny_folder, optimizer=changes.get("optimizer", {}))
    table["model"] |= {"dtype": changes.get("dtype", "float32")}
    assert StepSettings.of(load(table)).parity_limit == wanted


@pytest.mark.parametrize("gap", [None, 1e-6, 0.02])
def test_products_are_named_where_they_were_what_is_wrong(gap: float | None, tiny_folder: Path) -> None:
    how = StepSettings.of(load(world_table(tiny_folder)))
    metrics = {"sampler/parity_max": 1e-6} | ({} if gap is None else {"sampler/product_gap_max": gap})
    event = parity_event(metrics, step=3, limits=how)
    assert event["product_limit"] == 1e-3 and event.get("product_gap_max") == gap
    said = parity_in_words(event)
    assert ("off by 0.02 of its norm; expected at most 0.001. The sampler" in said) == (gap == 0.02)
    assert ('optimizer.hold_products = "never"' in said) == (gap == 0.02)
    assert "parity_limit" not in said and "parity_limit" in parity_in_words(event | {"parity_max": 0.1})


@pytest.mark.parametrize("old_logprobs", ["auto", "sampled"])
def test_products_have_a_limit_whatever_log_probs_are_trusted(old_logprobs: str, tiny_folder: Path) -> None:
    optimizer = {"old_logprobs": old_logprobs, "hold_products": "always"}
    how = StepSettings.of(load(world_table(tiny_folder, optimizer=optimizer)))
    assert how.product_gap_limit == 1e-3 and how.hold_products == "always"


def test_a_negative_limit_is_refused(tiny_folder: Path) -> None:
    with pytest.raises(ConfigError, match="parity_limit"):
        load(world_table(tiny_folder, optimizer={"parity_limit": -1}))


class Ear(Silent):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def message(self, text: str) -> None:
        self.heard.append(text)

    def count(self, word: str) -> int:
        return sum(word in text for text in self.heard)


@pytest.fixture
def off_from_the_second_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the second step on, each completion's first log-probability is recorded wrong."""
    draw = LocalEngine.generate

    def generate(self: LocalEngine, problems: Sequence[Problem], **options: Any) -> Any:
        def spoilt(completion: Completion) -> Completion:
            first, *rest = completion.sampled_logprobs
            return replace(completion, sampled_logprobs=(first + OFF, *rest))

        finished = options.pop("finished", None)
        found = draw(self, problems, **options)
        found = found if self.version == 0 else [tuple(map(spoilt, group)) for group in found]
        if finished is not None:
            for place, group in enumerate(found):
                finished(place, group)
        return found

    monkeypatch.setattr(LocalEngine, "generate", generate)


@pytest.mark.usefixtures("off_from_the_second_step")
def test_a_run_says_so_once_scores_from_then_on_and_remembers_it_when_resumed(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = world_config(tiny_folder, validation=None, steps=4)
    whole, run = tmp_path / "whole", tmp_path / "run"
    ear = Ear()
    loop.start(config, whole, watcher=ear)
    (event,) = [line for line in lines(whole, "events.jsonl") if line["kind"] == "sampler_distrusted"]
    assert event["step"] == 2 and event["limit"] == 1e-3
    assert event["parity_max"] == pytest.approx(OFF, abs=1e-4)
    assert ear.count("expected at most 0.001 (optimizer.parity_limit)") == 1
    found = lines(whole)
    assert [line["sampler/parity_max"] > OFF / 2 for line in found] == [False, True, True, True]
    assert all(line["policy/ratio_max"] < 1 + 1e-4 for line in found), "old log-probabilities were scored"

    step = loop.Run._one_step

    def broken(self: loop.Run, folder: loop.RunFolder) -> None:
        if self.state.step == 3:
            raise ZeroDivisionError
        step(self, folder)

    with monkeypatch.context() as patch:
        patch.setattr(loop.Run, "_one_step", broken)
        with pytest.raises(ZeroDivisionError):
            loop.start(config, run)
    ear = Ear()
    loop.resume(run, config=load(run / "config.toml"), watcher=ear)
    assert differences(run, whole) == []
    assert ear.count("optimizer.parity_limit") == 0, "it was told before the checkpoint"
    saved = load_checkpoint(
        run / "checkpoints" / "step-000004", policy=load_policy(str(tiny_folder)), optimizer=None
    )
    assert saved["distrusted"] is True


@pytest.mark.usefixtures("off_from_the_second_step")
def test_a_user_may_trust_the_sampler_all_the_same(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = world_table(tiny_folder, validation=None, steps=2, optimizer={"old_logprobs": "sampled"})
    file = write_toml(tmp_path / "run.toml", {k: v for k, v in table.items() if v is not None})
    assert main(["train", str(file), "--out", str(tmp_path / "run")]) == 0
    assert "parity_limit" not in "".join(capsys.readouterr())
    assert [line["policy/ratio_max"] > 1 + OFF / 2 for line in lines(tmp_path / "run")] == [False, True]
