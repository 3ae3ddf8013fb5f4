"""Advantages of groups of completions: pure functions on rewards and group indices.

Statistics are computed in float64, and a group whose rewards are all equal (a group of one included)
gets EXACTLY 0: with float32 statistics and the tiny 1e-6 in the denominator, one unit in the last place of
the mean becomes an advantage of 0.06 (rewards 0.9, eight completions, as PAPO's and verl's codes do it).
Estimators of one number a completion are spread over its tokens by `broadcast`; those of REINFORCE++ give a
number a token, since they are scaled over all tokens of the batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

STD_EPSILON = 1e-6
"""Added to the group's standard deviation, as in the official codes of GRPO, PAPO and verl."""

VARIANCE_EPSILON = 1e-8
"""Added to a batch's variance before it divides, as in the official codes of PAPO and verl."""


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


def leave_one_out(rewards: Float[Tensor, "B"], group_index: Int[Tensor, "B"]) -> Float[Tensor, "B"]:
    """RLOO: r_i minus the mean reward of the OTHER completions of its group, = G / (G - 1) (r_i - mean_g);
    exactly 0 where all rewards of the group are equal.

    >>> leave_one_out(torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0, 0, 0])).tolist()
    [1.0, -0.5, -0.5]

    Source: RLOO arXiv:2402.14740. Differs from verl, where a group of one gets its own reward.
    """
    group = group_moments(rewards, group_index)
    scale = group.size / (group.size - 1).clamp(min=1)
    return (scale * (rewards.double() - group.mean)).masked_fill(group.equal, 0.0).to(rewards.dtype)


def zero_equal_groups(
    advantages: Float[Tensor, "B T"], rewards: Float[Tensor, "B"], group_index: Int[Tensor, "B"]
) -> Float[Tensor, "B T"]:
    """The advantages, with exactly 0 in each group whose rewards are all equal.

    For estimators with a baseline of the whole batch, under which such a group has a signal of its own (an
    easy problem stands above the batch): this takes it away.
    """
    return advantages.masked_fill(group_moments(rewards, group_index).equal.unsqueeze(-1), 0.0)


def on_last_token(rewards: Float[Tensor, "B"], mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    """A reward a token: the whole of it on the completion's last token of the mask, 0 elsewhere.

    >>> on_last_token(torch.tensor([2.0]), torch.tensor([[True, True, False]])).tolist()
    [[0.0, 2.0, 0.0]]
    """
    left = mask.flip(-1).cumsum(-1).flip(-1)
    return torch.where(mask & (left == 1), rewards.unsqueeze(-1), rewards.new_zeros(()))


def discounted_returns(
    token_rewards: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"], *, gamma: float
) -> Float[Tensor, "B T"]:
    """R_t = r_t + gamma R_t', t' the next token of the mask; 0 outside the mask.

    >>> mask = torch.tensor([[True, False, True, False]])
    >>> discounted_returns(torch.tensor([[1.0, 9.0, 4.0, 9.0]]), mask, gamma=0.5).tolist()
    [[3.0, 0.0, 4.0, 0.0]]

    Source: REINFORCE++ arXiv:2501.03262. Differs from PAPO's and verl's code at holes of the mask,
    which here are stepped over and there cut the completion off from what it earned later.
    """
    later = token_rewards.new_zeros(len(token_rewards))
    found = torch.zeros_like(token_rewards)
    for t in range(token_rewards.shape[1] - 1, -1, -1):
        later = torch.where(mask[:, t], token_rewards[:, t] + gamma * later, later)
        found[:, t] = later
    return torch.where(mask, found, found.new_zeros(()))


def whiten(values: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    """(x - mean) / sqrt(var + 1e-8) over all tokens of the mask, n - 1 in the variance; 0 outside the mask,
    and exactly 0 everywhere when all values are equal.

    A NaN among the values makes all of them NaN.

    >>> whiten(torch.tensor([[7.0, 7.0, 1.0]]), torch.tensor([[True, True, False]])).tolist()
    [[0.0, 0.0, 0.0]]

    Differs from PAPO's and verl's code, which need at least two tokens and divide by a count of n + 1e-8.
    """
    chosen = values[mask].double()
    if chosen.numel() == 0:
        return torch.zeros_like(values)
    centred = chosen - chosen.mean()
    variance = centred.square().sum() / max(chosen.numel() - 1, 1)
    scaled = centred / (variance + VARIANCE_EPSILON).sqrt()
    scaled = scaled.masked_fill(chosen.amax() == chosen.amin(), 0.0)
    return torch.zeros_like(values).masked_scatter(mask, scaled.to(values.dtype))


def reinforce_plus_plus(
    rewards: Float[Tensor, "B"], mask: Bool[Tensor, "B T"], *, gamma: float = 1.0
) -> Float[Tensor, "B T"]:
    """REINFORCE++: discounted returns, whitened over all tokens of the batch; no groups are needed.

    The baseline is the batch's mean, so a group of equal rewards keeps a signal unless it fills the batch
    (`zero_equal_groups` takes that away).

    Source: arXiv:2501.03262; the reward sits on the last token, and the KL to the reference policy
    is a term of the loss, not part of the reward.
    """
    returns = discounted_returns(on_last_token(rewards.double(), mask), mask, gamma=gamma)
    return whiten(returns, mask).to(rewards.dtype)


def reinforce_plus_plus_baseline(
    rewards: Float[Tensor, "B"], group_index: Int[Tensor, "B"], mask: Bool[Tensor, "B T"]
) -> Float[Tensor, "B T"]:
    """REINFORCE++ with the group's mean as baseline, scaled over all tokens of the batch.

    A_it = c_i / sqrt(mean over the batch's tokens of c^2 + 1e-8), c_i = r_i - mean_g.

    >>> rewards, mask = torch.tensor([1.0, 0.0, 0.9, 0.9]), torch.ones(4, 1).bool()
    >>> found = reinforce_plus_plus_baseline(rewards, torch.tensor([0, 0, 1, 1]), mask)
    >>> [round(a, 4) for a in found.flatten().tolist()]
    [1.4142, -1.4142, 0.0, 0.0]

    Source: arXiv:2501.03262, its variant with a group baseline. Differs from the paper and verl, which also
    subtract the mean of c over the batch's tokens: that mean is 0 but for the lengths of completions, it
    would give a group of equal rewards an advantage, and it can turn the sign of a small one. As nothing is
    subtracted, the scale is the root of the mean square, so that one group's equal gaps cannot divide by 0.
    """
    centred = broadcast(group_centred(rewards.double(), group_index), mask)
    size = mask.sum().clamp(min=1)
    return (centred / (centred.square().sum() / size + VARIANCE_EPSILON).sqrt()).to(rewards.dtype)


def keeps_group(values: Sequence[float], *, low: float, high: float) -> bool:
    """Dynamic sampling: whether low < mean of a group's values < high, so that the group carries a signal.

    >>> keeps_group([1.0, 0.0, 1.0], low=0.01, high=0.99), keeps_group([1.0, 1.0], low=0.01, high=0.99)
    (True, False)

    Source: DAPO arXiv:2503.14476 Eq. 11; strict bounds on a mean as in PAPO's code.
    """
    return bool(low < np.mean(values) < high)


def broadcast(values: Float[Tensor, "B"], mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    """One advantage a completion, on each of its tokens; 0 outside the mask."""
    return torch.where(mask, values.unsqueeze(-1), torch.zeros((), dtype=values.dtype, device=values.device))
