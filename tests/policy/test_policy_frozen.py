"""A frozen vision tower: the same numbers, no gradient in it, and one run a prompt and view."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from foveal.config import load
from foveal.objectives.papo import PAPO
from foveal.policy import Policy, load_policy
from foveal.policy import model as policy_module
from foveal.rollout.local import LocalEngine
from foveal.train import loop
from foveal.train.setup import policy_of
from foveal.train.step import score
from foveal.types import Sampling
from policy_cases import NONE, ONE, TALL, TWO
from run_cases import differences, world_table
from train_cases import inputs_of, record, settings


@pytest.fixture
def policy(tiny_folder: Path) -> Policy:
    torch.set_num_threads(1)
    return load_policy(str(tiny_folder))


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Prompts of each run of the tower."""
    found: list[int] = []
    run = Policy._run_tower

    def counted(self: Policy, pictures: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        found.append(sum(len(grids) > 0 for _, grids in pictures))
        return run(self, pictures)

    monkeypatch.setattr(Policy, "_run_tower", counted)
    return found


def freeze(policy: Policy) -> None:
    policy.family.vision(policy.model).requires_grad_(False)


def gradients(policy: Policy, inputs: object) -> dict[str, Tensor]:
    policy.zero_grad(set_to_none=True)
    stats = policy(inputs, "clean")
    (stats.logprobs.sum() + 0.3 * stats.entropy.sum()).backward()
    return {name: p.grad.clone() for name, p in policy.named_parameters() if p.grad is not None}


def test_the_text_model_has_the_same_gradient_and_the_tower_none(policy: Policy) -> None:
    inputs = inputs_of(policy, record(policy)[:2])
    whole = gradients(policy, inputs)
    tower = {f"model.{name}" for name, _ in policy.model.named_parameters() if "visual" in name}
    assert tower < whole.keys()
    freeze(policy)
    for policy.reuse_features in (True, True, False, False):
        found = gradients(policy, inputs)
        assert found.keys() == whole.keys() - tower
        for name, gradient in found.items():
            torch.testing.assert_close(gradient, whole[name], rtol=1e-5, atol=1e-7)


def test_sampling_scoring_and_update_share_one_run_a_prompt_and_view(policy: Policy, runs: list[int]) -> None:
    freeze(policy)
    sampling = Sampling(group_size=2, max_new_tokens=4)
    first = LocalEngine(policy).generate((ONE, TWO, NONE, TALL), sampling=sampling, key=(1,))
    assert runs == [3]
    assert LocalEngine(policy).generate((ONE, TWO, NONE, TALL), sampling=sampling, key=(1,)) == first
    assert runs == [3]
    groups = record(policy)[:2]
    runs.clear()
    inputs = inputs_of(policy, groups)
    score(inputs, policy, None, PAPO(), settings(tokens=60))
    scored = sum(runs)
    assert scored >= 2
    policy(inputs, "removed")
    policy(inputs, "clean")
    assert sum(runs) <= scored + 2
    policy(inputs, "clean")
    assert sum(runs) <= scored + 2


def test_a_tower_that_is_trained_or_not_to_be_reused_is_run_each_time(
    policy: Policy, runs: list[int]
) -> None:
    inputs = inputs_of(policy, record(policy)[:2])
    runs.clear()
    policy(inputs, "clean")
    policy(inputs, "clean")
    assert runs == [2, 2]
    freeze(policy)
    policy.reuse_features = False
    policy(inputs, "clean")
    policy(inputs, "clean")
    assert runs == [2, 2, 2, 2]


def test_features_are_given_up_beyond_their_budget(
    policy: Policy, runs: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    freeze(policy)
    monkeypatch.setattr(policy_module, "FEATURE_BYTES", 1)
    encoded = [policy.processor.encode(of) for of in (ONE, TALL)]
    pairs = [(item.pixels, item.prompt.grids) for item in encoded]
    wanted = policy.features(pairs)
    assert policy.features(pairs[:1]).equal(wanted[: len(policy.features(pairs[:1]))])
    other = policy.processor.encode(TWO)
    policy.features([(other.pixels, other.prompt.grids)])
    assert len(policy._seen) == 1
    torch.testing.assert_close(policy.features(pairs), wanted)


def test_a_run_with_a_frozen_tower_leaves_it_alone_and_resumes(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load(world_table(tiny_folder) | {"model": {"path": str(tiny_folder), "freeze_vision": True}})
    again = config.model.model_copy(update={"reuse_features": False})
    assert not policy_of(config.model_copy(update={"model": again})).reuse_features
    whole, run = tmp_path / "whole", tmp_path / "run"
    loop.start(config, whole)
    step = loop.Run._one_step

    def broken(self: loop.Run, folder: loop.RunFolder) -> None:
        if self.state.step == 5:
            raise ZeroDivisionError
        step(self, folder)

    with monkeypatch.context() as patch:
        patch.setattr(loop.Run, "_one_step", broken)
        with pytest.raises(ZeroDivisionError):
            loop.start(config, run)
    loop.resume(run, config=load(run / "config.toml"))
    assert differences(run, whole) == []
    start, trained = policy_of(config), load_policy(str(whole / "checkpoints" / "step-000006" / "model"))
    after = dict(trained.model.named_parameters())
    changed = {name for name, before in start.model.named_parameters() if not before.equal(after[name])}
    assert changed and not any("visual" in name for name in changed)
