"""Advantage estimators of PAPO's and verl's codes that the library lacks or computes otherwise on purpose.

Those of one number a completion take its score (the sum of its token rewards); the official codes put the
result on each token of the mask (`foveal.advantages.broadcast`). Those with returns give an `Estimate`.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from foveal.advantages import STD_EPSILON, broadcast, group_moments
from foveal.compat.averages import papo_whiten, verl_whiten
from foveal.spec import FovealError


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Advantages, and the returns that a value function would be fitted to."""

    advantages: Float[Tensor, "B T"]
    returns: Float[Tensor, "B T"]


def verl_group_normalised(
    scores: Float[Tensor, "B"],
    group_index: Int[Tensor, "B"],
    *,
    epsilon: float = STD_EPSILON,
    divide: bool = True,
) -> Float[Tensor, "B"]:
    """verl's GRPO, and Dr.GRPO without `divide`: (s_i - mean_g) / (std_g + epsilon).

    Differs from the library: a group of one has mean 0 and std 1, and equal groups have rounding left over.
    """
    group = group_moments(scores, group_index)
    alone = group.size == 1
    gap = scores - group.mean.masked_fill(alone, 0.0).to(scores.dtype)
    return gap / (group.std.masked_fill(alone, 1.0).to(scores.dtype) + epsilon) if divide else gap


def verl_group_vectorised(
    scores: Float[Tensor, "B"],
    group_index: Int[Tensor, "B"],
    *,
    epsilon: float = STD_EPSILON,
    divide: bool = True,
) -> Float[Tensor, "B"]:
    """verl's vectorised GRPO: statistics in float32 by one pass, sum(s^2) - sum(s)^2 / G, the VARIANCE
    floored at epsilon before epsilon is added to its root.

    Differs from `verl_group_normalised` by rounding, and by more where a group's spread is below 1e-3.
    """
    groups, index = torch.unique(group_index, return_inverse=True)
    values = scores.float()
    zero = values.new_zeros(len(groups))
    size = zero.index_add(0, index, torch.ones_like(values))
    total, squares = zero.index_add(0, index, values), zero.index_add(0, index, values * values)
    variance = (squares - total * total / size) / (size - 1).clamp(min=1)
    alone = size == 1
    gap = scores - (total / size).masked_fill(alone, 0.0)[index]
    std = variance.clamp(min=epsilon).sqrt().masked_fill(alone, 1.0)[index]
    return gap / (std + epsilon) if divide else gap


def verl_leave_one_out(scores: Float[Tensor, "B"], group_index: Int[Tensor, "B"]) -> Float[Tensor, "B"]:
    """RLOO; a group of one keeps its score, where the library gives 0."""
    group = group_moments(scores, group_index)
    scale = group.size / (group.size - 1).clamp(min=1)
    centred = scale * (scores.double() - group.mean)
    return torch.where(group.size == 1, scores.double(), centred).to(scores.dtype)


def verl_gpg_advantage(
    scores: Float[Tensor, "B"], group_index: Int[Tensor, "B"], *, scale: float = 1.0
) -> Float[Tensor, "B"]:
    """GPG: (s_i - mean_g) B / (scores that are not 0) / scale; the mean of a group of one is 0.

    Source: arXiv:2504.02546, verl's "gpg".
    """
    share = len(scores) / torch.count_nonzero(scores).clamp(min=1).to(scores.dtype)
    return share * verl_group_normalised(scores, group_index, divide=False) / scale


def remax(scores: Float[Tensor, "B"], baselines: Float[Tensor, "B"]) -> Float[Tensor, "B"]:
    """PAPO's ReMax: s_i minus the score of the greedy completion of the same prompt.

    Source: arXiv:2310.10505.
    """
    return scores - baselines


def verl_remax(
    token_rewards: Float[Tensor, "B T"], baselines: Float[Tensor, "B"], mask: Bool[Tensor, "B T"]
) -> Estimate:
    """verl's ReMax: what is still to be earned on the mask, minus the baseline.

    Differs from `remax`, which gives a token the whole score, where a reward lies before the last token.
    """
    inside = token_rewards * mask
    returns = inside.flip(-1).cumsum(-1).flip(-1)
    return Estimate(advantages=returns - baselines.unsqueeze(-1) * mask, returns=returns)


def opo(
    scores: Float[Tensor, "B"], group_index: Int[Tensor, "B"], mask: Bool[Tensor, "B T"]
) -> Float[Tensor, "B"]:
    """OPO: s_i minus the mean score of its group, weighted by lengths; a group of one keeps its score.

    Source: arXiv:2505.23585, verl's code.
    """
    groups, index = torch.unique(group_index, return_inverse=True)
    lengths = mask.sum(-1).to(scores.dtype)
    zero = scores.new_zeros(len(groups))
    baseline = zero.index_add(0, index, lengths * scores) / zero.index_add(0, index, lengths)
    alone = torch.bincount(index) == 1
    return scores - baseline.masked_fill(alone, 0.0)[index]


def pass_at_k(
    scores: Float[Tensor, "B"],
    group_index: Int[Tensor, "B"],
    *,
    epsilon: float = STD_EPSILON,
    divide: bool = True,
) -> Float[Tensor, "B"]:
    """Pass@k: the best completion of a group gets (best - second) / (std_g + epsilon), the others 0.

    Among equals the second is the best, so nothing is gained.
    Source: arXiv:2503.19595, verl's code.
    Raises: FovealError for a group of one, as verl does.
    """
    found = torch.zeros_like(scores)
    for label in torch.unique(group_index):
        rows = (group_index == label).nonzero().squeeze(-1)
        if len(rows) < 2:
            raise FovealError(
                f"pass@k compares a group's two best completions, but group {int(label)} has {len(rows)}; "
                "sample at least 2 a problem"
            )
        best = scores[rows].topk(2)
        gap = best.values[0] - best.values[1]
        found[rows[best.indices[0]]] = gap / (scores[rows].std() + epsilon) if divide else gap
    return found


def _returns_cut_at_holes(
    token_rewards: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"], *, gamma: float
) -> Float[Tensor, "B T"]:
    """R_t = r_t + gamma m_{t+1} R_{t+1}: what is carried back is dropped at each token off the mask."""
    carried = token_rewards.new_zeros(len(token_rewards))
    found = torch.zeros_like(token_rewards)
    for t in range(token_rewards.shape[1] - 1, -1, -1):
        found[:, t] = token_rewards[:, t] + gamma * carried
        carried = found[:, t] * mask[:, t]
    return found


def papo_reinforce_plus_plus(
    token_rewards: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"], *, gamma: float
) -> Estimate:
    """PAPO's REINFORCE++: the whitened advantages are not multiplied by the mask again, so padding has some.

    Differs from the library there and at holes of the mask, which drop what was earned after them.
    """
    returns = _returns_cut_at_holes(token_rewards, mask, gamma=gamma)
    return Estimate(advantages=papo_whiten(returns, mask), returns=returns)


def verl_reinforce_plus_plus(
    token_rewards: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"], *, gamma: float
) -> Estimate:
    """verl's REINFORCE++: PAPO's, times the mask."""
    returns = _returns_cut_at_holes(token_rewards, mask, gamma=gamma)
    return Estimate(advantages=verl_whiten(returns, mask) * mask, returns=returns)


def verl_reinforce_plus_plus_baseline(
    scores: Float[Tensor, "B"], group_index: Int[Tensor, "B"], mask: Bool[Tensor, "B T"]
) -> Float[Tensor, "B T"]:
    """verl's REINFORCE++-baseline: s_i - mean_g on each token, whitened over the batch, times the mask.

    Differs from the library, which does not subtract the batch's mean again, so that a group of equal
    scores stays at exactly 0. A group of one has mean 0.
    """
    centred = broadcast(verl_group_normalised(scores, group_index, divide=False), mask)
    return verl_whiten(centred, mask) * mask


def papo_gae(
    token_rewards: Float[Tensor, "B T"],
    values: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    *,
    gamma: float,
    lam: float,
) -> Estimate:
    """PAPO's GAE, whose recursion does not look at the mask; advantages whitened, on all tokens.

    d_t = r_t + gamma V_{t+1} - V_t; A_t = d_t + gamma lam A_{t+1}; returns A + V, before whitening.
    Source: arXiv:1506.02438.
    """
    everywhere = torch.ones_like(mask)
    advantages = _generalised(token_rewards, values, everywhere, gamma=gamma, lam=lam)
    return Estimate(advantages=papo_whiten(advantages, mask), returns=advantages + values)


def verl_gae(
    token_rewards: Float[Tensor, "B T"],
    values: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    *,
    gamma: float,
    lam: float,
) -> Estimate:
    """verl's GAE: tokens off the mask (a tool's output) pass V and A on unchanged; whitened, on all tokens.

    Source: arXiv:1506.02438.
    """
    advantages = _generalised(token_rewards, values, mask, gamma=gamma, lam=lam)
    return Estimate(advantages=verl_whiten(advantages, mask), returns=advantages + values)


def _generalised(
    token_rewards: Float[Tensor, "B T"],
    values: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    *,
    gamma: float,
    lam: float,
) -> Float[Tensor, "B T"]:
    later_value = later = token_rewards.new_zeros(len(token_rewards))
    found = torch.zeros_like(token_rewards)
    for t in range(token_rewards.shape[1] - 1, -1, -1):
        inside = mask[:, t]
        delta = token_rewards[:, t] + gamma * later_value - values[:, t]
        later = torch.where(inside, delta + gamma * lam * later, later)
        later_value = torch.where(inside, values[:, t], later_value)
        found[:, t] = later
    return found
