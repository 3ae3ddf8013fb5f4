"""Prompts held from sampling: the update over them equals the update that runs them again."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from foveal.data.collate import collate
from foveal.objectives.cppo import CPPO
from foveal.objectives.grpo import GRPO
from foveal.objectives.papo import PAPO
from foveal.perturbations.distort import Colour
from foveal.perturbations.occlude import PatchMask
from foveal.policy import Policy, load_policy
from foveal.policy.forward import micro_batches
from foveal.rollout import local
from foveal.rollout.local import LocalEngine
from foveal.train.settings import StepSettings
from foveal.train.step import train_step
from foveal.types import CLEAN, Group, Inputs, Objective, Problem, Sampling
from policy_cases import CASES, MIXED, NONE, ONE, TALL, TWO, batch, close, hold, restored, shared, update

PATHS = ("split", "tiled", "dense")
PROBLEMS = tuple(of for of, _ in MIXED)


@pytest.fixture(autouse=True)
def restore(policy: Policy) -> Iterator[None]:
    with restored(policy):
        yield


@pytest.fixture
def positions(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Positions of every run of the text layers."""
    found: list[int] = []
    run = Policy._hidden

    def hidden(self: Policy, embeddings: Tensor, *rest: object) -> Tensor:
        found.append(len(embeddings))
        return run(self, embeddings, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Policy, "_hidden", hidden)
    return found


def fed(inputs: Inputs) -> int:
    """Completion tokens that a row reads."""
    return int((inputs.lengths - 1).clamp(min=0).sum())


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("case", CASES)
def test_held_prompts_give_the_log_probs_and_gradients_of_running_them_again(
    policy: Policy, positions: list[int], case: str, path: str
) -> None:
    policy.attention_path = path  # type: ignore[assignment]
    inputs = batch(policy, *CASES[case])
    wanted = shared(policy, inputs)
    hold(policy, [of for of, _ in CASES[case]])
    positions.clear()
    assert close(update(policy, inputs), wanted)
    assert sum(positions) == fed(inputs)


@pytest.mark.parametrize(
    "rows", [(PROBLEMS,), ((NONE, TALL), (TWO, ONE)), tuple((of,) for of in PROBLEMS)], ids=len
)
def test_rows_and_micro_batches_may_cut_the_prompts_in_any_way(
    policy: Policy, positions: list[int], rows: Sequence[Sequence[Problem]]
) -> None:
    inputs = batch(policy, *MIXED)
    wanted = shared(policy, inputs)
    for tokens in (60, 200):
        hold(policy, *rows)
        positions.clear()
        parts = micro_batches(inputs, tokens=tokens)
        assert len(parts) > 1
        assert close(update(policy, inputs, parts), wanted)
        assert sum(positions) == fed(inputs)
        assert policy.held.rows == []


def test_held_prompts_are_exact_under_gradient_checkpointing(tiny_folder: Path, positions: list[int]) -> None:
    policy = load_policy(str(tiny_folder))
    inputs = batch(policy, *MIXED)
    wanted = shared(policy, inputs)
    policy.model.gradient_checkpointing_enable()  # type: ignore[operator]
    runs: list[int] = []
    layer = policy.model.model.language_model.layers[0]  # type: ignore[union-attr, index]
    layer.mlp.register_forward_pre_hook(lambda _, given: runs.append(given[0].shape[-2]))  # type: ignore[union-attr]
    policy.eval()
    hold(policy, PROBLEMS)
    assert not policy.training
    policy.train()
    positions.clear()
    assert close(update(policy, inputs), wanted)
    assert sum(positions) == fed(inputs)
    prompts = sum(len(prompt.token_ids) for prompt in inputs.prompts)
    assert sorted(runs) == sorted([prompts, fed(inputs)] * 2)


def test_held_prompts_of_a_frozen_tower_are_exact(tiny_folder: Path) -> None:
    policy = load_policy(str(tiny_folder))
    policy.family.vision(policy.model).requires_grad_(False)
    inputs = batch(policy, *MIXED)
    wanted = shared(policy, inputs)
    hold(policy, PROBLEMS)
    assert close(update(policy, inputs), wanted)


def test_prompts_are_run_again_after_the_weights_have_changed(policy: Policy, positions: list[int]) -> None:
    inputs = batch(policy, *MIXED)
    hold(policy, PROBLEMS)
    with torch.no_grad():
        next(policy.parameters()).mul_(1.5)
    wanted = fed(inputs) + sum(len(prompt.token_ids) for prompt in inputs.prompts)
    positions.clear()
    policy(inputs, CLEAN)
    assert positions == [wanted]


def test_a_prompt_that_is_not_held_and_other_pictures_are_run_again(
    policy: Policy, positions: list[int]
) -> None:
    inputs = batch(policy, *MIXED)
    whole = fed(inputs) + sum(len(prompt.token_ids) for prompt in inputs.prompts)
    hold(policy, PROBLEMS[:-1])
    positions.clear()
    policy(inputs, CLEAN)
    assert positions == [whole]
    hold(policy, PROBLEMS)
    pixels = tuple(part.clone() for part in inputs.vision[CLEAN].pixels)
    others = replace(
        inputs, vision={CLEAN: replace(inputs.vision[CLEAN], pixels=pixels), "removed": inputs.vision[CLEAN]}
    )
    positions.clear()
    policy(others, CLEAN)
    policy(others, "removed")
    assert positions == [whole, whole]


def test_what_is_held_goes_where_running_the_needed_prompts_again_is_cheaper(policy: Policy) -> None:
    encoded = [policy.processor.encode(of).prompt for of in (ONE, TWO, TALL)]
    one, two, tall = (len(prompt.token_ids) for prompt in encoded)
    assert 1.5 * (two + tall) > one + two + tall > 1.5 * tall
    for needed, stays in (((1, 2), True), ((2,), False), ((0, 1, 2), True), ((), False)):
        policy.held.clear()
        hold(policy, (ONE, TWO, TALL))
        policy.held.keep_if_worth([encoded[index] for index in needed])
        assert bool(policy.held.rows) is stays
    policy.held.clear()
    hold(policy, (ONE,), (TALL,))
    policy.held.keep_if_worth([encoded[0]])
    assert len(policy.held.rows) == 2


SAMPLING = Sampling(group_size=3, max_new_tokens=6, min_new_tokens=7, entropies=True)


def test_the_sampler_holds_clean_prompts_of_a_step_that_fits_and_lets_them_go_with_the_weights(
    policy: Policy,
) -> None:
    engine = LocalEngine(policy)
    prompts = sum(len(policy.processor.encode(of).prompt.token_ids) for of in PROBLEMS)
    whole = prompts + len(PROBLEMS) * 3 * 6
    for limit, view, held in (
        (whole, CLEAN, prompts),
        (whole - 1, CLEAN, 0),
        (whole, "removed", 0),
        (0, CLEAN, 0),
    ):
        engine.load_weights({}, version=1)
        engine.generate(PROBLEMS, sampling=replace(SAMPLING, hold_tokens=limit), key=(1,), view=view)
        assert policy.held.tokens == held
    engine.load_weights({}, version=1)
    both = replace(SAMPLING, hold_tokens=whole + prompts // 2)
    engine.generate(PROBLEMS, sampling=both, key=(1,))
    engine.generate(PROBLEMS, sampling=both, key=(2,))
    assert policy.held.tokens == prompts
    engine.load_weights({}, version=2)
    assert policy.held.tokens == 0


def test_holding_prompts_changes_no_draw(policy: Policy) -> None:
    engine = LocalEngine(policy)
    wanted = engine.generate(PROBLEMS, sampling=SAMPLING, key=(1,))
    assert engine.generate(PROBLEMS, sampling=replace(SAMPLING, hold_tokens=1 << 20), key=(1,)) == wanted


OBJECTIVES: dict[str, Objective] = {
    "grpo": GRPO(),
    "papo": PAPO(kl_prcp_coef=0.05, removed_gradient=True),
    "cppo": CPPO(cpl_coef=0.2),
}


@pytest.mark.parametrize("mini_batches", [1, 2])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_step_over_held_prompts_makes_the_same_update_with_fewer_positions(
    policy: Policy, positions: list[int], monkeypatch: pytest.MonkeyPatch, name: str, mini_batches: int
) -> None:
    monkeypatch.setattr(local, "HELD_ROW_TOKENS", 1)
    start = {key: value.clone() for key, value in policy.model.state_dict().items()}
    found, counted = [], []
    for limit in (0, 1 << 20):
        policy.model.load_state_dict(start)
        engine = LocalEngine(policy)
        drawn = engine.generate(PROBLEMS, sampling=replace(SAMPLING, hold_tokens=limit), key=(3,))
        groups = [
            Group(problem=of, completions=c, rewards=(1.0, 0.0, 0.5), correct=(True, False, False))
            for of, c in zip(PROBLEMS, drawn, strict=True)
        ]
        inputs = collate(
            groups,
            processor=policy.processor,
            views=OBJECTIVES[name].views,
            perturbations={"removed": PatchMask(ratio=0.5), "preserved": Colour()},
            key=(3, 1),
        )
        settings = StepSettings(temperature=1.0, micro_batch_tokens=1 << 20, mini_batches=mini_batches)
        positions.clear()
        optimizer = torch.optim.SGD(policy.parameters(), lr=0.1)
        metrics = train_step(policy, None, optimizer, inputs, OBJECTIVES[name], settings).metrics
        counted.append(sum(positions))
        assert policy.held.rows == []
        found.append((metrics, {key: value.clone() for key, value in policy.model.state_dict().items()}))
    (metrics, weights_), (held_metrics, held_weights) = found
    assert held_metrics == pytest.approx(metrics, rel=1e-4, abs=1e-6)
    for key, value in weights_.items():
        moved, rounding = (value - start[key]).double().norm(), torch.finfo(value.dtype).eps * value.norm()
        assert (held_weights[key] - value).double().norm() <= 1e-5 * moved + rounding
    first = inputs.prompts if mini_batches == 1 else inputs.prompts[:2]
    assert counted[0] - counted[1] == sum(len(prompt.token_ids) for prompt in first)
