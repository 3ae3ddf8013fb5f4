"""How much completions depend on the picture, as factors: pure functions."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from foveal.objectives.terms import masked_sum

LEAST_SPREAD = 1e-6
"""Dependencies (nats) that lie closer together than this count as equal, as in VPPO's code."""

COUNT_SLACK = 1e-9
"""Taken off a share of tokens before it is rounded up, which hides the rounding of 0.1 * 30."""


def most_dependent(
    dependency: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"], *, fraction: float
) -> Bool[Tensor, "B T"]:
    """Exactly ceil(fraction n) tokens of each row, those of largest dependency. No gradient.

    Among equal ones the earlier tokens come first: many scaffold words have a dependency of exactly 0, and
    taking all that tie would take nearly everything. A row in which all are equal, such as that of a
    completion without pictures, has nothing to choose by and keeps all its tokens.

    >>> dependency = torch.tensor([[0.0, 3.0, 0.0, 0.0, 9.0], [0.0, 0.0, 0.0, 0.0, 9.0]])
    >>> mask = torch.tensor([[True, True, True, True, False]] * 2)
    >>> most_dependent(dependency, mask, fraction=0.5).int().tolist()
    [[1, 1, 0, 0, 0], [1, 1, 1, 1, 0]]
    """
    if dependency.shape[-1] == 0:
        return mask
    ranked = dependency.detach().masked_fill(~mask, -math.inf)
    rank = ranked.sort(dim=-1, descending=True, stable=True).indices.argsort(-1)
    wanted = (mask.sum(-1, keepdim=True).double() * fraction - COUNT_SLACK).ceil()
    highest = ranked.amax(-1, keepdim=True)
    equal = (ranked.eq(highest) | ~mask).all(-1, keepdim=True)
    return mask & ((rank < wanted) | equal)


def dependency_scale(
    dependency: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"], *, least: float, most: float | None
) -> Float[Tensor, "B"]:
    """A factor for each completion that rises linearly with its mean dependency d_i, from `least` to `most`.

    least + (most - least) share_i, share_i = (d_i - min d) / (max d - min d) over the completions with
    tokens. Without `most` it is the value that makes the mean factor 1: least + (1 - least) / mean share.
    1 where all d are equal, and in empty completions. With least > 0 no factor turns a sign.

    >>> dependency = torch.tensor([[0.0, 0.2], [0.5, 9.0]])
    >>> mask = torch.tensor([[True, True], [True, False]])
    >>> dependency_scale(dependency, mask, least=0.9, most=None).tolist()
    [0.8999999761581421, 1.100000023841858]

    Source: VPPO arXiv:2510.09285, trajectory-level advantage shaping; `most = None` is its code's way.
    """
    rows = mask.any(-1)
    mean = masked_sum(dependency, mask, dim=-1) / mask.sum(-1).clamp(min=1)
    if not bool(rows.any()):
        return torch.ones_like(mean)
    low, high = mean[rows].amin(), mean[rows].amax()
    if high - low <= LEAST_SPREAD:
        return torch.ones_like(mean)
    share = (mean - low) / (high - low)
    top = least + (1 - least) / share[rows].mean() if most is None else most
    return torch.where(rows, least + share * (top - least), 1.0)
