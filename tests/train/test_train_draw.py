"""Sampling under several views: exact counts, recorded views, and old log-probabilities that are old ones."""

import json
from dataclasses import replace
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given

from foveal.config import load
from foveal.data.collate import collate
from foveal.objectives.grpo import GRPO
from foveal.perturbations.replace import Blank
from foveal.policy import Policy
from foveal.rollout.local import LocalEngine
from foveal.spec import ConfigError
from foveal.train import loop
from foveal.train.draw import draw_groups, exact_counts
from foveal.train.settings import StepSettings
from foveal.train.step import score, train_step
from foveal.types import Group, PerturbationContext, Problem, Sampling, ViewName
from policy_cases import NONE, ONE, TWO
from run_cases import lines, world_config, world_table

HALF = {"clean": 0.5, "noised": 0.5}
SAMPLING = Sampling(group_size=5, max_new_tokens=6)
NOISY = {"type": "noisy_rollout", "base": {"type": "grpo"}}
NOISED = {"removed": {"type": "patch_mask"}, "noised": {"type": "noise", "std": 0.5}}


def blanked(problem: Problem, view: ViewName) -> Problem:
    blank, rng = Blank(fill="black"), np.random.default_rng(0)
    images = tuple(blank(image, rng=rng, context=PerturbationContext()) for image in problem.images)
    return replace(problem, images=images)


@given(
    shares=st.dictionaries(st.sampled_from("abcd"), st.floats(0.001, 1.0), min_size=1, max_size=4),
    total=st.integers(1, 64),
)
def test_counts_add_up_and_are_within_one_of_the_shares(shares: dict[str, float], total: int) -> None:
    counts, whole = exact_counts(shares, total), sum(shares.values())
    assert sum(counts.values()) == total and list(counts) == list(shares)
    assert all(abs(counts[view] - total * share / whole) < 1 + 1e-6 for view, share in shares.items())


def test_a_tie_goes_to_the_view_that_is_named_first() -> None:
    assert exact_counts(HALF, 5) == {"clean": 3, "noised": 2}
    assert exact_counts({"noised": 0.5, "clean": 0.5}, 5) == {"noised": 3, "clean": 2}
    assert exact_counts({"clean": 0.7, "noised": 0.3}, 5) == {"clean": 4, "noised": 1}
    assert exact_counts({"clean": 1.0}, 3) == {"clean": 3}


def test_each_completion_carries_its_view_and_the_clean_ones_are_those_of_a_clean_group(
    policy: Policy,
) -> None:
    engine, problems, key = LocalEngine(policy), (ONE, TWO), (3, "sample")
    found = draw_groups(engine, problems, sampling=SAMPLING, shares=HALF, shown=blanked, key=key)
    clean = engine.generate(problems, sampling=SAMPLING, key=key)
    for drawn, plain in zip(found, clean, strict=True):
        assert [c.view for c in drawn] == ["clean"] * 3 + ["noised"] * 2
        assert drawn[:3] == plain[:3]
        assert {c.token_ids for c in drawn[3:]}.isdisjoint({c.token_ids for c in plain})


def test_noised_completions_come_from_the_pictures_that_they_are_shown(policy: Policy) -> None:
    engine, key = LocalEngine(policy), (3, "sample")
    (drawn,) = draw_groups(engine, (ONE,), sampling=SAMPLING, shares=HALF, shown=blanked, key=key)
    (alone,) = engine.generate(
        (blanked(ONE, "noised"),), sampling=replace(SAMPLING, group_size=2), key=(*key, "noised")
    )
    assert [c.sampled_logprobs for c in drawn[3:]] == [c.sampled_logprobs for c in alone]


def test_with_one_share_it_is_the_engine_itself(policy: Policy) -> None:
    engine, key = LocalEngine(policy), (3, "sample")
    found = draw_groups(engine, (ONE, NONE), sampling=SAMPLING, shares={"clean": 1.0}, shown=blanked, key=key)
    assert found == engine.generate((ONE, NONE), sampling=SAMPLING, key=key)


def graded(policy: Policy, shares: dict[str, float]) -> list[Group]:
    engine, problems = LocalEngine(policy), (ONE, TWO)
    drawn = draw_groups(engine, problems, sampling=SAMPLING, shares=shares, shown=blanked, key=(3,))
    return [
        Group(problem=of, completions=cs, rewards=(1.0, 0.0, 0.5, 0.9, 0.1), correct=(True,) + (False,) * 4)
        for of, cs in zip(problems, drawn, strict=True)
    ]


def test_log_probs_of_the_noised_view_are_no_old_ones(policy: Policy) -> None:
    groups = graded(policy, HALF)
    inputs = collate(groups, processor=policy.processor, views=("clean",), perturbations={}, key=(0,))
    assert inputs.sampled_elsewhere is not None
    assert inputs.sampled_elsewhere.tolist() == [False, False, False, True, True] * 2
    how = StepSettings(temperature=1.0, micro_batch_tokens=10_000)
    scores = score(inputs, policy, None, GRPO(), how)
    whole = score(inputs, policy, None, GRPO(), replace(how, score_old=True)).old_logprobs
    mask, elsewhere = inputs.completion_mask, inputs.sampled_elsewhere
    assert torch.equal(scores.old_logprobs[~elsewhere], inputs.sampled_logprobs[~elsewhere])
    assert torch.allclose(scores.old_logprobs[mask], whole[mask], atol=1e-5)
    gap = (scores.old_logprobs - inputs.sampled_logprobs)[elsewhere][mask[elsewhere]]
    assert float(gap.abs().max()) > 1e-3
    optimizer = torch.optim.SGD(policy.parameters(), lr=0.0)
    metrics = train_step(policy, None, optimizer, inputs, GRPO(), how).metrics
    assert metrics["policy/ratio_max"] == pytest.approx(1.0, abs=1e-4)
    assert metrics["sampler/parity_max"] < 1e-4
    clean = collate(
        graded(policy, {"clean": 1.0}),
        processor=policy.processor,
        views=("clean",),
        perturbations={},
        key=(0,),
    )
    assert clean.sampled_elsewhere is None


def test_a_run_records_the_views_and_repeats_itself(tiny_folder: Path, tmp_path: Path) -> None:
    config = world_config(tiny_folder, steps=2, objective=NOISY, perturbations=NOISED)
    for name in ("first", "second"):
        loop.start(config, tmp_path / name)
    written = [json.loads(line) for line in (tmp_path / "first" / "completions.jsonl").open()]
    assert [line["view"] for line in written] == ["clean", "clean", "noised"] * 4
    assert lines(tmp_path / "first") == lines(tmp_path / "second")
    steps = [line for line in lines(tmp_path / "first") if line["kind"] == "step"]
    assert {"reward/accuracy_clean", "reward/accuracy_noised"} <= set(steps[0])


def test_from_some_step_on_everything_is_sampled_clean(tiny_folder: Path, tmp_path: Path) -> None:
    config = world_config(
        tiny_folder, steps=2, objective={**NOISY, "clean_after": 0.5}, perturbations=NOISED, validation=None
    )
    loop.start(config, tmp_path / "run")
    written = [json.loads(line) for line in (tmp_path / "run" / "completions.jsonl").open()]
    assert {(line["step"], line["view"]) for line in written} == {(1, "clean"), (1, "noised"), (2, "clean")}


def test_with_fraction_zero_a_run_is_that_of_its_base(tiny_folder: Path, tmp_path: Path) -> None:
    for name, objective in (("base", {"type": "grpo"}), ("none", {**NOISY, "fraction": 0.0})):
        loop.start(world_config(tiny_folder, steps=2, objective=objective), tmp_path / name)
    assert lines(tmp_path / "base") == lines(tmp_path / "none")
    recorded = [lines(tmp_path / name, "completions.jsonl") for name in ("base", "none")]
    assert recorded[0] == recorded[1]


def test_a_sampled_view_without_a_perturbation_is_told_of(tiny_folder: Path) -> None:
    with pytest.raises(ConfigError, match=r'needs a "noised" view.*\[perturbations.noised\]'):
        load(world_table(tiny_folder, objective=NOISY))
    load(world_table(tiny_folder, objective={**NOISY, "fraction": 0.0}))
