"""What stands around a loss in a loop of one's own: advantages, and log-probabilities from logits."""

from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from foveal.losses.carriers import inputs_of
from foveal.objectives.reinforce_pp import ReinforcePP
from foveal.objectives.surrogate import RELATIVE, Advantage
from foveal.objectives.terms import entropy as entropy_of
from foveal.spec import FovealError


class TokenValues(NamedTuple):
    """Log-probability of each completion token, and the entropy of its distribution, in nats."""

    logprobs: Float[Tensor, "B T"]
    entropy: Float[Tensor, "B T"]


def from_logits(
    logits: Float[Tensor, "B T V"], completion_ids: Int[Tensor, "B T"], *, temperature: float = 1.0
) -> TokenValues:
    """Log-probabilities and entropies of the completion tokens, in float32 or wider.

    `logits[:, t]` is what the model says BEFORE completion token t, that is, at the position of the token in
    front of it: for a prompt of P tokens `model(...).logits[:, P - 1 : -1]`. Gradient flows into the logits.
    `temperature` is that of sampling: the policy that drew the tokens is softmax(logits / temperature).

    >>> found = from_logits(torch.zeros(1, 2, 4), torch.tensor([[0, 3]]))
    >>> [[round(x, 4) for x in row] for row in found.logprobs.tolist()]
    [[-1.3863, -1.3863]]
    """
    if tuple(logits.shape[:2]) != tuple(completion_ids.shape):
        raise FovealError(
            f"losses.from_logits: logits has the shape {tuple(logits.shape)} and completion_ids "
            f"{tuple(completion_ids.shape)}; expected [B T V] and [B T]: logits at the position before each "
            f"completion token"
        )
    wide = torch.promote_types(logits.dtype, torch.float32)
    log_probs = (logits.to(wide) / temperature).log_softmax(-1)
    return TokenValues(
        logprobs=log_probs.gather(-1, completion_ids.unsqueeze(-1)).squeeze(-1), entropy=entropy_of(log_probs)
    )


def group_advantages(
    rewards: Float[Tensor, "B"], group_size: int, *, kind: Advantage = "group_std"
) -> Float[Tensor, "B"]:
    """One advantage per completion, from the rewards of its group; exactly 0 in a group of equal rewards.

    The completions of a problem stand next to each other, `group_size` rows each.
    "group_std": (r - mean) / (std + 1e-6) (GRPO, DAPO, GSPO, CISPO); "group_mean": r - mean (Dr.GRPO);
    "leave_one_out": r - mean of the others (RLOO). For REINFORCE++ see `reinforce_pp_advantages`.

    >>> group_advantages(torch.tensor([1.0, 0.0, 0.5, 0.5]), 2, kind="group_mean").tolist()
    [0.5, -0.5, 0.0, 0.0]

    Raises: FovealError, when the rewards are not whole groups.
    """
    if kind not in RELATIVE:
        raise FovealError(
            f"losses.group_advantages: kind is {kind!r}; expected one of {', '.join(map(repr, RELATIVE))}"
        )
    return RELATIVE[kind](rewards, group_index(rewards, group_size, where="group_advantages"))


def reinforce_pp_advantages(
    rewards: Float[Tensor, "B"],
    completion_mask: Bool[Tensor, "B T"],
    group_size: int,
    *,
    baseline: Literal["batch", "group"] = "batch",
    discount: float = 1.0,
    keep_equal_groups: bool = False,
) -> Float[Tensor, "B T"]:
    """REINFORCE++: one advantage per token, scaled over all tokens of the batch; 0 outside the mask.

    Arguments as the fields of `foveal.objectives.reinforce_pp.ReinforcePP`. The batch has to be whole: a
    micro-batch has another mean and another scale.
    """
    group_index(rewards, group_size, where="reinforce_pp_advantages")
    objective = ReinforcePP(baseline=baseline, discount=discount, keep_equal_groups=keep_equal_groups)
    mask = completion_mask.bool()
    inputs = inputs_of(mask, rewards.new_zeros(mask.shape), rewards=rewards.detach(), group_size=group_size)
    return objective.advantages(inputs)


def group_index(rewards: Float[Tensor, "B"], group_size: int, *, where: str) -> Int[Tensor, "B"]:
    """The group of each row.

    Raises: FovealError, when the rewards are not whole groups.
    """
    if rewards.dim() != 1 or group_size < 1 or len(rewards) % group_size:
        raise FovealError(
            f"losses.{where}: rewards has the shape {tuple(rewards.shape)} and group_size is {group_size}; "
            f"expected one reward per completion, [B], with B a multiple of group_size: the completions of a "
            f"problem next to each other"
        )
    return torch.arange(len(rewards), device=rewards.device) // group_size
