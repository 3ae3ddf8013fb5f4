"""The loss of one micro-batch as the official codes of PAPO and CPPO put it together from a method's terms.

The library averages each term over the whole mini-batch (`train.loss`); these codes average over the
micro-batch at hand, with denominators of their own.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from foveal.compat.averages import PapoMode, VerlMode, cppo_average, papo_average, verl_average
from foveal.objectives.surrogate import SURROGATE
from foveal.types import Term


def papo_micro_loss(terms: Sequence[Term], *, mode: PapoMode) -> Float[Tensor, ""]:
    """Sum of coef times `papo_average` in the run's mode; terms of an average of their own (the entropies and
    the SFT term under `likelihood_aggregation = "token_mean"`) are token means whatever the mode.

    Source: MikeWangWZHL/PAPO, verl/workers/actor/dp_actor.py.
    """

    def average(term: Term) -> Tensor:
        own: PapoMode = mode if term.aggregation is None else "token"
        return papo_average(term.per_token, term.mask, mode=own)

    return _total(terms, average)


def cppo_micro_loss(terms: Sequence[Term], *, mode: VerlMode, accumulation: int = 1) -> Float[Tensor, ""]:
    """Sum of coef times `cppo_average`, over the number of micro-batches; the contrastive term is averaged
    over its own tokens. The token mean of the surrogate has no 1e-8 in its denominator, unlike that of the
    other terms: an empty mask gives NaN.

    Source: vbdi/cppo, verl/recipe/cppo/cppo_dp_actor.py.
    """

    def average(term: Term) -> Tensor:
        bare = term.name == SURROGATE and mode == "token-mean"
        return (verl_average if bare else cppo_average)(term.per_token, term.mask, mode=mode)

    return _total(terms, average) / accumulation


def _total(terms: Sequence[Term], average: Callable[[Term], Tensor]) -> Tensor:
    return torch.stack([term.coef * average(term) for term in terms]).sum()
