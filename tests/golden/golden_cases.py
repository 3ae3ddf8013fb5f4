"""The official codes' values (`data/README.md`): cases, tensors from them, and how they are compared.

`FOVEAL_GOLDEN` names another folder of the same format.
"""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from foveal.advantages import group_moments
from foveal.types import Batch, Scores, TokenStats, ViewScores
from objective_batches import make_case

OWN_FOLDER = Path(__file__).parent / "data"
FOLDER = Path(os.environ.get("FOVEAL_GOLDEN") or OWN_FOLDER)

EXACT = 1e-9
"""Relative tolerance of values in float64."""
ADVANTAGES = 1e-8
"""The same of advantages, which divide by a standard deviation + 1e-6."""
DENOMINATORS = 2e-8
"""The same where the official denominators hold an extra 1e-8 that the library's lack."""
ROUNDING = 1e-12
"""Absolute tolerance where the relative one is to hold: rounding of sums that nearly cancel."""
SINGLE = 1e-5
"""Relative tolerance of values that the official code gives in float32."""

Case = Mapping[str, Any]


@cache
def load_cases(file: str, *, folder: Path = FOLDER) -> tuple[Case, ...]:
    """All cases of a file; none when the folder lacks it."""
    path = folder / f"{file}.json"
    return tuple(json.loads(path.read_text())["cases"]) if path.is_file() else ()


def cases(file: str, wanted: Callable[[Case], bool] = lambda case: True) -> pytest.MarkDecorator:
    """A test for each wanted case of a file, as its argument `case`."""
    found = [pytest.param(case, id=case["id"]) for case in load_cases(file) if wanted(case)]
    return pytest.mark.parametrize("case", found)


def tensor(values: Any, *, grad: bool = False, dtype: torch.dtype = torch.float64) -> Tensor:
    """The numbers of a case as a leaf."""
    return torch.tensor(values, dtype=dtype, requires_grad=grad)


def mask_of(values: Any) -> Tensor:
    """A mask of a case."""
    return torch.tensor(values).bool()


def close(
    found: Tensor | float, expected: Any, *, tolerance: float = EXACT, floor: float | None = None
) -> None:
    """Equal shapes, and values within the tolerance, relative and (`floor`: by default the same) absolute."""
    actual = found.detach().numpy() if isinstance(found, Tensor) else np.asarray(found)
    wanted = np.asarray(expected)
    assert actual.shape == wanted.shape
    np.testing.assert_allclose(actual, wanted, rtol=tolerance, atol=tolerance if floor is None else floor)


def close_tightly(found: Tensor, expected: Any, *, tolerance: float = EXACT) -> None:
    """`close` with hardly any absolute tolerance, and exactly 0 where the official value is."""
    close(found, expected, tolerance=tolerance, floor=ROUNDING)
    assert not found.detach()[torch.as_tensor(np.asarray(expected) == 0)].any()


def whitening_tolerance(values: Tensor, mask: Tensor) -> float:
    """What the official mean over N + 1e-8, and not N, may move a whitened value by."""
    chosen = values.detach()[mask].double()
    return DENOMINATORS * (1 + float(chosen.mean().abs() / (chosen.std() + 1e-4)))


def close_advantages(
    found: Tensor,
    expected: Any,
    scores: Tensor,
    groups: Tensor,
    *,
    epsilon: float = 1e-6,
    tolerance: float = ADVANTAGES,
) -> None:
    """`close`, but for groups of equal scores: there the official gap is rounding, divided by epsilon."""
    equal, wanted = group_moments(scores, groups).equal, np.asarray(expected)
    close(found[~equal], wanted[~equal.numpy()], tolerance=tolerance)
    rounding = 8 * torch.finfo(scores.dtype).eps * float(1 + scores.abs().amax()) / epsilon
    close(found[equal], wanted[equal.numpy()], tolerance=max(tolerance, rounding))


def forward(logprobs: Tensor, entropy: Tensor | None = None) -> TokenStats:
    def refuse(mask: Tensor) -> Tensor:
        raise AssertionError("sampled estimates need no full distributions")

    known = torch.zeros_like(logprobs) if entropy is None else entropy
    return TokenStats(logprobs=logprobs, entropy=known, log_probs_at=refuse)


def batch_of(
    inputs: Mapping[str, Any], views: Mapping[str, ViewScores], *, dtype: torch.dtype = torch.float64
) -> Batch:
    """The batch of a case: masks, old and reference log-probabilities, advantages."""
    mask = mask_of(inputs["response_mask"])
    rows, width = mask.shape
    empty = make_case([0] * rows, width=width, groups=[0] * rows, rewards=[0.0] * rows).batch.inputs
    ref = tensor(inputs["ref_log_probs"], dtype=dtype) if "ref_log_probs" in inputs else None
    return Batch(
        inputs=replace(empty, completion_mask=mask, lengths=mask.sum(-1)),
        scores=Scores(
            old_logprobs=tensor(inputs["old_log_probs"], dtype=dtype), ref_logprobs=ref, views=views
        ),
        advantages=tensor(inputs["advantages"], dtype=dtype),
    )
