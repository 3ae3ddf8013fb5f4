"""Plain losses by hand, and what they say of a wrong argument."""

import math
from typing import Any

import pytest
import torch

from foveal import losses
from foveal.spec import FovealError

NOW = torch.tensor([[-1.0, -2.0], [-1.5, -0.5]], dtype=torch.float64)
OLD = torch.tensor([[-1.1, -2.0], [-1.0, -0.7]], dtype=torch.float64)
MASK = torch.tensor([[True, True], [True, False]])
ADVANTAGES = torch.tensor([1.0, -2.0], dtype=torch.float64)


def test_grpo_by_hand() -> None:
    logprobs = NOW.clone().requires_grad_()
    loss, measures = losses.grpo(logprobs, OLD, ADVANTAGES, MASK, clip_low=0.2, clip_high=0.05)
    first = (min(math.exp(0.1), 1.05) + 1.0) / 2
    second = -2 * max(math.exp(-0.5), 0.8)
    assert loss.item() == pytest.approx(-(first + second) / 2, abs=1e-12)
    loss.backward()
    # Clipped, running free, clipped, and padding.
    wanted = torch.tensor([[0.0, -0.25], [0.0, 0.0]], dtype=torch.float64)
    assert logprobs.grad is not None and torch.allclose(logprobs.grad, wanted, atol=1e-12)
    assert measures["policy/clip_fraction"].item() == pytest.approx(2 / 3)
    assert measures["loss/surrogate"].item() == loss.item()
    assert "policy/entropy" not in measures


def test_papo_by_hand() -> None:
    removed = NOW - 1.0
    zero = torch.zeros(2, dtype=torch.float64)
    loss, measures = losses.papo(NOW, NOW, zero, MASK, removed_logprobs=removed, kl_prcp_coef=0.5)
    k3 = math.exp(-1) + 1 - 1
    assert loss.item() == pytest.approx(-0.5 * k3, abs=1e-12)
    assert measures["kl_prcp/mean"].item() == pytest.approx(k3, abs=1e-12)
    assert measures["perception/information_gain"].item() == pytest.approx(1.0, abs=1e-12)


def test_advantages_of_groups_by_hand() -> None:
    rewards = torch.tensor([1.0, 0.0, 0.5, 0.5])
    std = math.sqrt(0.5)
    found = losses.group_advantages(rewards, 2)
    assert found.tolist() == pytest.approx([0.5 / (std + 1e-6), -0.5 / (std + 1e-6), 0.0, 0.0])
    assert losses.group_advantages(rewards, 2, kind="leave_one_out").tolist() == [1.0, -1.0, 0.0, 0.0]
    tokens = losses.reinforce_pp_advantages(rewards, torch.ones(4, 1, dtype=torch.bool), 2, baseline="group")
    assert tokens[:2, 0].tolist() == pytest.approx([math.sqrt(2), -math.sqrt(2)], rel=1e-6)


@pytest.mark.parametrize("kind", ["group_std", "group_mean", "leave_one_out"])
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.bool])
def test_rewards_of_whole_numbers_have_advantages(kind: Any, dtype: torch.dtype) -> None:
    rewards, mask = torch.tensor([1, 0, 0, 1]), torch.ones(4, 2, dtype=torch.bool)
    found = losses.group_advantages(rewards.to(dtype), 4, kind=kind)
    wanted = {"group_std": 0.5 / (math.sqrt(1 / 3) + 1e-6), "group_mean": 0.5, "leave_one_out": 2 / 3}[kind]
    assert found.tolist() == pytest.approx([wanted, -wanted, -wanted, wanted])
    tokens = losses.reinforce_pp_advantages(rewards.to(dtype), mask, 4)
    assert torch.equal(tokens, losses.reinforce_pp_advantages(rewards.float(), mask, 4)) and tokens.all()
    assert losses.group_advantages(rewards.half(), 4).dtype == torch.float16


def test_perception_rewards_of_whole_numbers_count() -> None:
    def loss(rewards: torch.Tensor) -> float:
        found = losses.perception_reward(
            NOW, OLD, ADVANTAGES, MASK, perception_rewards=rewards, group_size=2, on="all_tokens"
        )
        return found.loss.item()

    assert loss(torch.tensor([1, 0])) == pytest.approx(loss(torch.tensor([1.0, 0.0])), abs=1e-6)
    assert abs(loss(torch.tensor([1, 0])) - loss(torch.tensor([1, 1]))) > 1e-3


def test_log_probabilities_of_logits_are_those_of_the_sampled_tokens() -> None:
    logits = torch.tensor([[[0.0, math.log(3.0)], [5.0, 5.0]]], dtype=torch.float64)
    logprobs, entropy = losses.from_logits(logits, torch.tensor([[1, 0]]))
    assert logprobs[0].tolist() == pytest.approx([math.log(0.75), math.log(0.5)])
    assert entropy[0].tolist() == pytest.approx(
        [-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)), math.log(2.0)]
    )
    cooler = losses.from_logits(logits, torch.tensor([[1, 0]]), temperature=0.5)
    assert cooler.logprobs[0, 0].item() == pytest.approx(math.log(0.9))
    assert losses.from_logits(logits.bfloat16(), torch.tensor([[1, 0]])).logprobs.dtype == torch.float32


WHOLE = torch.randn(2, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).log_softmax(-1)
EXACT = {
    "removed_logprobs": NOW,
    "estimator": "exact",
    "removed_gradient": True,
    "log_probs": WHOLE,
    "removed_log_probs": WHOLE,
}

WRONG: list[tuple[str, dict[str, Any], str]] = [
    (
        "grpo",
        {"advantages": torch.ones(3)},
        r"advantages has the shape \(3,\); expected one per completion, \(2,\)",
    ),
    ("grpo", {"old_logprobs": OLD[:, :1]}, r"old_logprobs has the shape \(2, 1\); expected that of logprobs"),
    ("grpo", {"logprobs": NOW[0]}, r"logprobs has the shape \(2,\); expected one value per completion token"),
    ("grpo", {"kl_coef": 0.1}, "kl_coef is above 0, but ref_logprobs was not given"),
    ("grpo", {"entropy_bonus_coef": 0.1}, "use the entropy over the vocabulary, but entropy was not given"),
    ("grpo", {"clip_low": -1.0}, "losses.grpo: clip_low = -1.0: Input should be greater than or equal to 0"),
    ("grpo", {"counts": {}}, "counts has no surrogate"),
    ("papo", {}, "view 'removed', but removed_logprobs was not given"),
    ("papo", {"removed_logprobs": NOW, "sft_coef": 0.1}, "correct was not given"),
    (
        "papo",
        {"removed_logprobs": NOW, "estimator": "exact", "removed_gradient": True},
        "log_probs was not given",
    ),
    ("papo", {"removed_logprobs": NOW, "entropy_kind": "full", "entropy_coef": 1.0}, "entropy was not given"),
    ("papo", {"removed_logprobs": NOW, "base": "gropo"}, "did you mean 'grpo'"),
    (
        "cppo",
        {"removed_logprobs": NOW, "preserved_logprobs": NOW},
        "entropy or removed_entropy was not given",
    ),
    ("cppo", {"removed_logprobs": NOW, "perception_tokens": MASK}, "preserved_logprobs was not given"),
    ("grpo", {"counts": {"surrogate": 10}}, r"counts\['surrogate'\] is 10; expected a Count"),
    ("grpo", {"advantages": [1.0, -2.0]}, "advantages is a list; expected one per completion"),
    ("grpo", {"old_logprobs": OLD.numpy()}, "old_logprobs is a ndarray; expected a tensor"),
    ("grpo", {"completion_mask": None}, "completion_mask is None; expected a tensor"),
    ("papo", EXACT | {"removed_log_probs": WHOLE[..., :1]}, r"removed_log_probs has the shape \(2, 2, 1\)"),
    ("papo", EXACT | {"removed_log_probs": WHOLE[:, :1]}, r"expected \[B T V\], \(2, 2, 3\)"),
    ("papo", EXACT | {"log_probs": NOW}, r"losses.papo: log_probs has the shape \(2, 2\)"),
    ("dvrp", {"removed_logprobs": NOW}, "noised_logprobs was not given"),
    (
        "perception_reward",
        {"perception_rewards": torch.ones(2), "group_size": 3},
        "expected one reward per completion",
    ),
    (
        "perception_reward",
        {"perception_rewards": torch.ones(3), "group_size": 3},
        r"perception_rewards has the shape \(3,\); expected one per completion, \(2,\)",
    ),
    (
        "perception_reward",
        {"perception_rewards": torch.ones(2), "group_size": 2, "segment": MASK[:, :1]},
        "segment has the shape",
    ),
]


@pytest.mark.parametrize(
    ("name", "changes", "hint"), WRONG, ids=[f"{n}-{i}" for i, (n, _, _) in enumerate(WRONG)]
)
def test_wrong_argument_is_refused_by_name(name: str, changes: dict[str, Any], hint: str) -> None:
    given: dict[str, Any] = {
        "logprobs": NOW,
        "old_logprobs": OLD,
        "advantages": ADVANTAGES,
        "completion_mask": MASK,
    }
    with pytest.raises(FovealError, match=hint):
        getattr(losses, name)(**(given | changes))


def test_rewards_that_are_no_whole_groups_are_refused() -> None:
    with pytest.raises(FovealError, match="B a multiple of group_size"):
        losses.group_advantages(torch.ones(5), 2)
    with pytest.raises(FovealError, match="kind is 'mean'"):
        losses.group_advantages(torch.ones(4), 2, kind="mean")  # type: ignore[arg-type]
    with pytest.raises(FovealError, match="from_logits"):
        losses.from_logits(torch.zeros(1, 3, 4), torch.zeros(1, 2, dtype=torch.long))


def test_helpers_refuse_what_has_no_value() -> None:
    logits, ids = torch.zeros(1, 2, 4), torch.zeros(1, 2, dtype=torch.long)
    for temperature in (0.0, -1.0, math.nan):
        with pytest.raises(FovealError, match="temperature is"):
            losses.from_logits(logits, ids, temperature=temperature)
    for wrong in (-100, 4):
        with pytest.raises(FovealError, match=f"completion_ids holds {wrong}; expected .* 0 to 3"):
            losses.from_logits(logits, torch.tensor([[0, wrong]]))
    for buffer in (0, -1, 101):
        with pytest.raises(FovealError, match=f"buffer is {buffer} and max_length 100"):
            losses.overlong_penalty(torch.tensor([100]), max_length=100, buffer=buffer, factor=1.0)
    with pytest.raises(FovealError, match="rewards is a list; expected a tensor"):
        losses.group_advantages([1.0, 0.0], 2)  # type: ignore[arg-type]
    with pytest.raises(FovealError, match=r"completion_mask has the shape \(3, 2\)"):
        losses.reinforce_pp_advantages(torch.ones(4), torch.ones(3, 2, dtype=torch.bool), 4)


@pytest.mark.parametrize("dtype", [torch.int64, torch.float32])
def test_perception_tokens_take_a_mask_of_numbers(dtype: torch.dtype) -> None:
    removed = torch.tensor([[1.0, 3.0], [2.0, 5.0]])
    given: Any = {"fraction": 0.5, "score": "absolute"}
    found = losses.perception_tokens(torch.zeros(2, 2), removed, MASK.to(dtype), **given)
    assert found.tolist() == [[False, True], [True, False]]
    with pytest.raises(FovealError, match=r"expected one shape, \[B T\]"):
        losses.perception_tokens(torch.zeros(2, 2), removed, MASK[:, :1], **given)


@pytest.mark.parametrize("name", ["dr_grpo", "rloo"])
def test_sums_over_tokens_are_divided_by_the_horizon(name: str) -> None:
    """As the docstring says: by 1 where it is left out."""
    function = getattr(losses, name)
    alone = function(NOW, OLD, ADVANTAGES, MASK).loss
    assert alone.item() == pytest.approx(10 * function(NOW, OLD, ADVANTAGES, MASK, horizon=10).loss.item())
    assert "Left out it divides by 1" in " ".join(function.__doc__.split())
