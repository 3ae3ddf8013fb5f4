"""The length penalty as verl computes it."""

from jaxtyping import Float, Int
from torch import Tensor


def verl_overlong_penalty(
    lengths: Int[Tensor, "B"], *, max_length: int, buffer: int, factor: float
) -> Float[Tensor, "B"]:
    """min(0, -factor (length - (max_length - buffer)) / buffer), in units of reward. No gradient.

    Differs from `foveal.objectives.dapo.overlong_penalty`, which stops at -factor as DAPO's paper does
    (arXiv:2503.14476 Eq. 13): here it goes on falling beyond max_length. Up to max_length both are equal.
    Source: volcengine/verl, verl/workers/reward_manager/dapo.py.

    >>> verl_overlong_penalty(torch.tensor([4, 10, 15]), max_length=10, buffer=5, factor=1.0).tolist()
    [0.0, -1.0, -2.0]
    """
    excess = (lengths - (max_length - buffer)).float()
    return (-excess / buffer * factor).clamp(max=0.0)
