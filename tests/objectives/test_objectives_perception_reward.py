import math
from dataclasses import replace

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from foveal.advantages import group_normalised
from foveal.objectives.cppo import CPPO
from foveal.objectives.grpo import GRPO
from foveal.objectives.papo import PAPO
from foveal.objectives.perception_reward import PerceptionReward
from foveal.spec import FovealError
from foveal.types import Objective
from objective_batches import Case, gradients, is_bit_for_bit, make_case, measure, prepared, total_loss

LENGTHS = (5, 2, 4, 1)
FACTS = (0.25, 1.0, 0.5, 0.5)


def case_of(facts: tuple[float, ...] = FACTS, **changes: object) -> Case:
    """Segments are the first two tokens; the last completion has none."""
    case = make_case(LENGTHS, **changes)
    segments = case.batch.inputs.segments["facts"].clone()
    segments[3] = False
    values = torch.tensor(facts, dtype=case.batch.advantages.dtype)
    inputs = replace(case.batch.inputs, breakdown={"facts": values}, segments={"facts": segments})
    return Case(replace(case.batch, inputs=inputs), case.logits)


def test_the_perception_advantage_goes_to_the_segment_and_the_answers_to_all_tokens() -> None:
    inputs = case_of().batch.inputs
    found = PerceptionReward(coef=0.5, advantage="group_mean").advantages(inputs)
    base = GRPO().advantages(inputs)
    added = (found - base)[inputs.completion_mask].tolist()
    wanted = [-0.1875, -0.1875, 0, 0, 0] + [0.1875, 0.1875] + [0] * 4 + [0]
    assert added == pytest.approx(wanted)
    assert found[~inputs.completion_mask].eq(0).all()


def test_a_completion_without_a_segment_pays_with_all_its_tokens() -> None:
    inputs = case_of((1.0, 1.0, 1.0, 0.0)).batch.inputs
    added = PerceptionReward(advantage="group_mean").advantages(inputs) - GRPO().advantages(inputs)
    assert added[3, 0].item() == pytest.approx(-0.25)
    assert added[2].tolist() == pytest.approx([0.25, 0.25, 0, 0, 0, 0])


def test_on_all_tokens_it_is_a_second_reward_on_the_whole_completion() -> None:
    inputs = case_of().batch.inputs
    found = PerceptionReward(on="all_tokens", coef=1.0).advantages(inputs)
    other = GRPO().advantages(replace(inputs, rewards=inputs.breakdown["facts"]))
    assert torch.allclose(found, GRPO().advantages(inputs) + other)


@settings(deadline=None, max_examples=20)
@given(size=st.integers(2, 64), value=st.sampled_from([0.0, 0.1, 0.9, 1.0]))
def test_a_group_of_equal_values_adds_exactly_zero(size: int, value: float) -> None:
    case = make_case([3] * size, groups=[0] * size, rewards=[float(n == 0) for n in range(size)])
    inputs = replace(case.batch.inputs, breakdown={"facts": torch.full((size,), value)})
    assert torch.equal(PerceptionReward().advantages(inputs), GRPO().advantages(inputs))


def test_a_completion_without_a_value_takes_no_part_in_the_comparison() -> None:
    """The advantages of the others are those that they have without it; it has none itself."""
    inputs = case_of((0.5, math.nan, 0.25, 1.0)).batch.inputs
    objective = PerceptionReward(on="all_tokens")
    added = objective.advantages(inputs) - GRPO().advantages(inputs)
    kept = torch.tensor([0, 2, 3])
    alone = group_normalised(inputs.breakdown["facts"][kept], inputs.prompt_index[kept])
    assert torch.allclose(added[kept, 0], 0.5 * alone)
    assert torch.equal(added[1], torch.zeros_like(added[1]))


@pytest.mark.parametrize("base", [GRPO(), PAPO(kl_prcp_coef=0.1), CPPO(cpl_coef=0.1)])
def test_with_coefficient_zero_it_is_its_base_bit_for_bit(base: Objective) -> None:
    objective, case = PerceptionReward(base=base, coef=0.0), case_of(dtype=torch.float32)
    assert objective.uses_rewards == ()
    assert is_bit_for_bit(objective, base, case)


def test_with_equal_answers_gradient_reaches_the_segments_alone() -> None:
    case = case_of((0.25, 1.0, 1.0, 1.0), rewards=(0.9,) * 4)
    found = gradients(PerceptionReward(), case)
    wanted = torch.zeros(4, 6, dtype=torch.bool)
    wanted[:2, :2] = True
    assert torch.equal(found["clean"].abs().sum(-1) > 0, wanted)
    assert found["removed"].eq(0).all()


def test_gradcheck() -> None:
    objective = PerceptionReward()
    case = prepared(objective, make_case((3, 1, 0, 2), width=3, spread=0.05))

    def loss(logits: Tensor) -> Tensor:
        return total_loss(objective, Case(case.batch, {"clean": logits})).reshape(())

    assert torch.autograd.gradcheck(loss, (case.logits["clean"].detach().requires_grad_(),))


def test_the_share_of_its_tokens_is_measured() -> None:
    case = prepared(PerceptionReward(), case_of())
    assert measure(PerceptionReward(), case, "perception/segment_fraction") == pytest.approx(7 / 12)
    every = PerceptionReward(on="all_tokens")
    assert measure(every, prepared(every, case_of()), "perception/segment_fraction") == 1.0


def test_scaled_lowers_its_weight_and_that_of_the_base() -> None:
    found = PerceptionReward(base=PAPO(kl_prcp_coef=0.2), coef=0.4).scaled(0.5)
    assert isinstance(found, PerceptionReward) and isinstance(found.base, PAPO)
    assert (found.coef, found.base.kl_prcp_coef) == (0.2, 0.1)


def test_a_reward_that_is_not_there_is_told_of() -> None:
    with pytest.raises(FovealError, match=r"reward 'colours', but the batch has facts; add \[\[rewards\]\]"):
        PerceptionReward(reward="colours").advantages(case_of().batch.inputs)
    assert PAPO(base=PerceptionReward(reward="colours")).uses_rewards == ("colours",)
