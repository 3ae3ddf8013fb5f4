"""Advantages of groups of completions: pure functions on rewards and group indices.

Group statistics are computed in float64, and a group whose rewards are all equal (a group of one included)
gets EXACTLY 0: with float32 statistics and the tiny 1e-6 in the denominator, one unit in the last place of
the mean becomes an advantage of 0.06 (rewards 0.9, eight completions, as PAPO's and verl's codes do it).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

STD_EPSILON = 1e-6
"""Added to the group's standard deviation, as in the official codes of GRPO, PAPO and verl."""


@dataclass(frozen=True, kw_only=True)
class GroupMoments:
    """Statistics of each completion's own group, in float64."""

    size: Float[Tensor, "B"]
    mean: Float[Tensor, "B"]
    std: Float[Tensor, "B"]
    """With Bessel's correction (n - 1); 0 in a group of one."""
    equal: Bool[Tensor, "B"]
    """All rewards of the group are the same number."""


def group_moments(rewards: Float[Tensor, "B"], group_index: Int[Tensor, "B"]) -> GroupMoments:
    """Size, mean, standard deviation and equality of the rewards of each completion's group, in any order of
    rows."""
    groups, index = torch.unique(group_index, return_inverse=True)
    values = rewards.double()
    zero = values.new_zeros(len(groups))
    size = zero.index_add(0, index, torch.ones_like(values))
    mean = zero.index_add(0, index, values) / size
    squares = zero.index_add(0, index, (values - mean[index]).square())
    std = (squares / (size - 1).clamp(min=1)).sqrt()
    highest = zero.scatter_reduce(0, index, values, "amax", include_self=False)
    lowest = zero.scatter_reduce(0, index, values, "amin", include_self=False)
    return GroupMoments(size=size[index], mean=mean[index], std=std[index], equal=(highest == lowest)[index])


def group_normalised(
    rewards: Float[Tensor, "B"], group_index: Int[Tensor, "B"], *, epsilon: float = STD_EPSILON
) -> Float[Tensor, "B"]:
    """GRPO: (r_i - mean_g) / (std_g + epsilon) within each group; exactly 0 where all rewards of the group
    are equal.

    >>> group_normalised(torch.tensor([0.9, 0.9, 0.9]), torch.tensor([4, 4, 4])).tolist()
    [0.0, 0.0, 0.0]

    Source: DeepSeekMath arXiv:2402.03300 section 4.1.2. Differs from verl, where a group of one gets its own
    reward: such a completion has nothing to be compared with.
    """
    group = group_moments(rewards, group_index)
    scaled = (rewards.double() - group.mean) / (group.std + epsilon)
    return scaled.masked_fill(group.equal, 0.0).to(rewards.dtype)


def group_centred(rewards: Float[Tensor, "B"], group_index: Int[Tensor, "B"]) -> Float[Tensor, "B"]:
    """Dr.GRPO: r_i - mean_g within each group; exactly 0 where all rewards of the group are equal.

    >>> group_centred(torch.tensor([1.0, 0.0]), torch.tensor([0, 0])).tolist()
    [0.5, -0.5]

    Source: Dr.GRPO arXiv:2503.20783 section 3.2.
    """
    group = group_moments(rewards, group_index)
    return (rewards.double() - group.mean).masked_fill(group.equal, 0.0).to(rewards.dtype)


def broadcast(values: Float[Tensor, "B"], mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    """One advantage a completion, on each of its tokens; 0 outside the mask."""
    return torch.where(mask, values.unsqueeze(-1), torch.zeros((), dtype=values.dtype, device=values.device))
