"""Text layers that look back at a window, each kind of layer with a mask of its own."""

from pathlib import Path
from typing import Any

import pytest
import torch

from foveal.data.collate import collate
from foveal.policy import Policy, load_policy
from foveal.policy.families.qwen2_5_vl_decode import MergedDecoder
from foveal.rollout.local import LocalEngine
from foveal.types import CLEAN, Completion, Group, Sampling
from policy_cases import (
    MIXED,
    NONE,
    ONE,
    TALL,
    TWO,
    batch,
    close,
    greedy,
    hold,
    plain,
    shared,
    update,
    windowed,
)

ALL = (ONE, TWO, NONE, TALL)

WINDOWS = (1, 4, 30, 48)
"""Within a completion, across its start, and within most prompts: these have 30 to 55 tokens."""


@pytest.fixture(scope="module", params=WINDOWS)
def policy(
    request: pytest.FixtureRequest, tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Policy:
    torch.set_num_threads(1)
    folder = windowed(tiny_folder, tmp_path_factory.mktemp("windowed") / "model", request.param)
    return load_policy(str(folder))


@pytest.mark.parametrize("path", ["split", "tiled", "dense"])
def test_shared_forward_equals_plain_forward(policy: Policy, path: str) -> None:
    inputs = batch(policy, *MIXED)
    policy.attention_path = path  # type: ignore[assignment]
    assert close(shared(policy, inputs), plain(policy, inputs))


def test_the_window_is_seen(policy: Policy, tiny_folder: Path) -> None:
    whole = load_policy(str(tiny_folder))
    inputs = batch(policy, *MIXED)
    assert (shared(policy, inputs).logprobs - shared(whole, inputs).logprobs).abs().max() > 1e-3


def test_gradient_checkpointing_changes_nothing(policy: Policy) -> None:
    inputs = batch(policy, *MIXED)
    wanted = plain(policy, inputs)
    policy.model.gradient_checkpointing_enable()  # type: ignore[operator]
    found = shared(policy, inputs)
    policy.model.gradient_checkpointing_disable()  # type: ignore[operator]
    assert close(found, wanted)


@pytest.mark.parametrize("path", ["split", "dense"])
def test_held_prompts_give_the_same(policy: Policy, path: str) -> None:
    policy.attention_path = path  # type: ignore[assignment]
    inputs = batch(policy, *MIXED)
    wanted = shared(policy, inputs)
    hold(policy, [of for of, _ in MIXED])
    assert close(update(policy, inputs), wanted)


def draw(policy: Policy, **settings: Any) -> list[tuple[Completion, ...]]:
    sampling = Sampling(**{"group_size": 3, "max_new_tokens": 24} | settings)
    return LocalEngine(policy).generate(ALL, sampling=sampling, key=(3,))


def test_recorded_log_probs_equal_those_of_the_forward(policy: Policy) -> None:
    groups = [
        Group(problem=of, completions=found, rewards=(0.0,) * 3, correct=(False,) * 3)
        for of, found in zip(ALL, draw(policy), strict=True)
    ]
    inputs = collate(groups, processor=policy.processor, views=(CLEAN,), perturbations={}, key=(0,))
    gap = (policy(inputs, CLEAN).logprobs - inputs.sampled_logprobs) * inputs.completion_mask
    assert gap.abs().max() <= 5e-6


def test_the_models_own_layers_draw_the_same(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = ids(draw(policy))
    monkeypatch.setattr(MergedDecoder, "fits", lambda text: False)
    assert ids(draw(policy)) == wanted


def ids(found: list[tuple[Completion, ...]]) -> list[tuple[int, ...]]:
    return [c.token_ids for group in found for c in group]


def test_greedy_equals_generate_of_transformers(policy: Policy) -> None:
    found = draw(policy, group_size=1, temperature=0.0)
    assert ids(found) == greedy(policy, ALL, length=24)
