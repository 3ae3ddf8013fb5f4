"""What stands around a loss in a loop of one's own: advantages, and log-probabilities from logits."""

import math
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
    Ids of padding are looked up too: they have to be in the vocabulary, such as 0, not -100.

    >>> found = from_logits(torch.zeros(1, 2, 4), torch.tensor([[0, 3]]))
    >>> [[round(x, 4) for x in row] for row in found.logprobs.tolist()]
    [[-1.3863, -1.3863]]
    """
    if logits.dim() != 3 or tuple(logits.shape[:2]) != tuple(completion_ids.shape):
        raise FovealError(
            f"losses.from_logits: logits has the shape {tuple(logits.shape)} and completion_ids "
            f"{tuple(completion_ids.shape)}; expected [B T V] and [B T]: logits at the position before each "
            f"completion token"
        )
    if not 0 < temperature < math.inf:
        raise FovealError(
            f"losses.from_logits: temperature is {temperature}; expected a number above 0, that of sampling; "
            f"greedy tokens have the log-probabilities of temperature 1"
        )
    vocabulary = logits.shape[2]
    outside = (completion_ids < 0) | (completion_ids >= vocabulary)
    if bool(outside.any()):
        raise FovealError(
            f"losses.from_logits: completion_ids holds {int(completion_ids[outside][0])}; expected ids of "
            f"the vocabulary, 0 to {vocabulary - 1}; on padding pass any of them, such as "
            f"completion_ids.clamp(min=0): the mask leaves it out"
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
    groups = group_index(rewards, group_size, where="group_advantages")
    return RELATIVE[kind](floating(rewards), groups)


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
    if completion_mask.dim() != 2 or len(completion_mask) != len(rewards):
        raise FovealError(
            f"losses.reinforce_pp_advantages: completion_mask has the shape {tuple(completion_mask.shape)}; "
            f"expected [B T] with a row per reward, of which there are {len(rewards)}"
        )
    mask, values = completion_mask.bool(), floating(rewards.detach())
    inputs = inputs_of(mask, values.new_zeros(mask.shape), rewards=values, group_size=group_size)
    return objective.advantages(inputs)


def group_index(rewards: Float[Tensor, "B"], group_size: int, *, where: str) -> Int[Tensor, "B"]:
    """The group of each row.

    Raises: FovealError, when the rewards are not a tensor of whole groups.
    """
    if not isinstance(rewards, Tensor):
        raise FovealError(
            f"losses.{where}: rewards is a {type(rewards).__name__}; expected a tensor, [B]: "
            f"torch.tensor(rewards)"
        )
    if rewards.dim() != 1 or group_size < 1 or len(rewards) % group_size:
        raise FovealError(
            f"losses.{where}: rewards has the shape {tuple(rewards.shape)} and group_size is {group_size}; "
            f"expected one reward per completion, [B], with B a multiple of group_size: the completions of a "
            f"problem next to each other"
        )
    return torch.arange(len(rewards), device=rewards.device) // group_size


def floating(rewards: Tensor) -> Tensor:
    """Rewards as they are, and those of whole numbers or truth values as float32: an advantage of 0.87 has no
    place in an integer."""
    return rewards if rewards.is_floating_point() else rewards.float()
