"""What an objective gave is what it may give: checked, since anyone can write one."""

from collections.abc import Mapping

import torch
from torch import Tensor

from foveal.spec import FovealError
from foveal.types import Batch, Count, Inputs, Objective, Term


def require_advantages(found: object, inputs: Inputs, objective: Objective) -> None:
    """Raises: FovealError, unless there is one advantage a token."""
    wanted = inputs.completion_mask.shape
    if not isinstance(found, Tensor) or found.shape != wanted:
        raise FovealError(
            f"objective {objective.type!r}: advantages gives {_shape(found)}; expected one a token, a tensor "
            f"of shape {tuple(wanted)} here; change its advantages (foveal.advantages.broadcast makes one of "
            f"one a completion)"
        )


def require_terms(found: object, counts: Mapping[str, Count], batch: Batch, objective: Objective) -> None:
    """Raises: FovealError, unless the terms are named in the objective's `masks`, a value a token.

    A value of another shape would be broadcast, and a term over other tokens than its mask counts be divided
    by the wrong number: the loss would be another one without a word.
    """
    where = f"objective {objective.type!r}"
    if not isinstance(found, list | tuple) or not all(isinstance(term, Term) for term in found):
        raise FovealError(f"{where}: terms gives {_shape(found)}; expected a list of foveal.types.Term")
    names = [term.name for term in found]
    if not set(names) <= set(counts):
        raise FovealError(
            f"{where}: terms gives {', '.join(names)}, but its masks have {', '.join(counts) or 'none'}; "
            f"expected no other names; change its terms or its masks"
        )
    wanted = batch.inputs.completion_mask.shape
    for term in found:
        for part in ("per_token", "mask"):
            if getattr(term, part).shape != wanted:
                raise FovealError(
                    f"{where}: {part} of its term {term.name!r} is {_shape(getattr(term, part))}; expected "
                    f"one value a token, a tensor of shape {tuple(wanted)} here; change its terms"
                )
    masks = objective.masks(batch)
    for term in found:
        mask = masks.get(term.name)
        if mask is not None and not torch.equal(term.mask, mask):
            raise FovealError(
                f"{where}: the mask of its term {term.name!r} has {int(term.mask.sum())} tokens, that of its "
                f"masks() {int(mask.sum())}, and they are not the same tokens; expected one mask, since the "
                f"term is divided by what masks() counts; change its terms or its masks"
            )


def _shape(found: object) -> str:
    return f"a tensor of shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
