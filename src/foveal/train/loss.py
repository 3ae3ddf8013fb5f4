"""Terms to a number: the loss of some rows, with the denominators of the whole mini-batch."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from foveal.objectives.terms import term_mean
from foveal.types import Count, Objective, Term


def sum_terms(terms: Iterable[Term], counts: Mapping[str, Count], objective: Objective) -> Tensor:
    """The loss: sum over terms of coef times the mean over the term's mask, with the given denominators."""
    total = torch.zeros(())
    for term in terms:
        total = total + term.coef * mean_of(term, counts, objective)
    return total


def mean_of(term: Term, counts: Mapping[str, Count], objective: Objective) -> Tensor:
    """The mean of one term, without its coefficient."""
    return term_mean(
        term, aggregation=objective.aggregation, count=counts[term.name], horizon=objective.horizon
    )
