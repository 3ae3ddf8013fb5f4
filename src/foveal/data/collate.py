"""Finished groups to tensors: completions padded on the right, prompts once, the pictures of every view."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from foveal.data.segments import breakdown_values, segment_masks
from foveal.data.views import Made, view_pixels
from foveal.keys import Key
from foveal.policy.processing import Processor
from foveal.ranges import COLLATE, spanned
from foveal.spec import FovealError
from foveal.types import CLEAN, Completion, Group, Inputs, Perturbation, Problem, ViewName, VisionInputs


@spanned(COLLATE)
def collate(
    groups: Sequence[Group],
    *,
    processor: Processor,
    views: Sequence[ViewName],
    perturbations: Mapping[ViewName, Perturbation],
    key: Key,
    progress: float = 0.0,
    donors: Sequence[Problem] | None = None,
    made: Made = lambda problem, view: None,
) -> Inputs:
    """Tensors of finished groups under all `views`.

    A token whose recorded log-probability is not finite is left out of the completion mask and counted,
    never replaced. Completions sampled under another view than the clean one are marked
    (`Inputs.sampled_elsewhere`). The perturbed pictures are keyed by (*key, problem id, image index, view).
    `progress`: finished share of the training, 0 to 1, for perturbations that fade. `donors`: the problems
    from which `other_picture` draws; the groups' own by default, and then what it draws depends on the batch.
    `made`: perturbed pictures that are already there.
    Raises: FovealError, when a completion has not one recorded log-probability a token.
    """
    encoded = [processor.encode(group.problem) for group in groups]
    completions = [completion for group in groups for completion in group.completions]
    padded = _padded(completions, pad_id=processor.pad_id)
    vision = {CLEAN: VisionInputs(pixels=tuple(item.pixels for item in encoded))}
    problems = tuple(group.problem for group in groups)
    for view in (name for name in views if name != CLEAN):
        vision[view] = VisionInputs(
            pixels=view_pixels(
                problems,
                perturbations[view],
                processor=processor,
                view=view,
                key=key,
                progress=progress,
                donors=problems if donors is None else donors,
                made=made,
            )
        )
    return Inputs(
        prompts=tuple(item.prompt for item in encoded),
        prompt_index=torch.repeat_interleave(
            torch.arange(len(groups)), torch.tensor([len(g.completions) for g in groups], dtype=torch.long)
        ),
        completion_ids=padded.ids,
        completion_mask=padded.mask,
        sampled_logprobs=padded.logprobs,
        rewards=torch.tensor([r for group in groups for r in group.rewards], dtype=torch.float32),
        correct=torch.tensor([c for group in groups for c in group.correct], dtype=torch.bool),
        lengths=torch.tensor([len(c.token_ids) for c in completions], dtype=torch.long),
        truncated=torch.tensor([c.finish == "length" for c in completions], dtype=torch.bool),
        vision=vision,
        sampled_entropies=_entropies(completions, width=padded.ids.shape[1]),
        sampled_elsewhere=_elsewhere(completions),
        breakdown=breakdown_values(groups),
        segments=segment_masks(groups, width=padded.ids.shape[1], decode=processor.decode),
        nonfinite_count=padded.nonfinite,
    )


@dataclass(frozen=True, kw_only=True)
class _Padded:
    """Completions as rows of one length."""

    ids: Int[Tensor, "B T"]
    mask: Bool[Tensor, "B T"]
    logprobs: Float[Tensor, "B T"]
    nonfinite: int


def _padded(completions: Sequence[Completion], *, pad_id: int) -> _Padded:
    longest = max((len(c.token_ids) for c in completions), default=0)
    size = (len(completions), max(longest, 1))
    ids = torch.full(size, pad_id)
    mask = torch.zeros(size, dtype=torch.bool)
    logprobs = torch.zeros(size)
    nonfinite = 0
    for row, completion in enumerate(completions):
        length = len(completion.token_ids)
        values = torch.tensor(completion.sampled_logprobs, dtype=torch.float32)
        if len(values) != length:
            raise FovealError(
                f"completion {row} of the batch has {len(values)} log-probabilities for {length} tokens; "
                f"expected one a token; change the rollout engine"
            )
        finite = values.isfinite()
        ids[row, :length] = torch.tensor(completion.token_ids, dtype=torch.long)
        mask[row, :length] = finite
        logprobs[row, :length] = values.where(finite, 0.0)
        nonfinite += length - int(finite.sum())
    return _Padded(ids=ids, mask=mask, logprobs=logprobs, nonfinite=nonfinite)


def _entropies(completions: Sequence[Completion], *, width: int) -> Float[Tensor, "B T"] | None:
    """Recorded entropies, NaN in completions without and 0 behind the others; None when none has them."""
    if all(completion.sampled_entropies is None for completion in completions):
        return None
    found = torch.full((len(completions), width), torch.nan)
    for row, completion in enumerate(completions):
        if completion.sampled_entropies is not None:
            values = torch.tensor(completion.sampled_entropies)
            found[row, : len(values)], found[row, len(values) :] = values, 0.0
    return found


def _elsewhere(completions: Sequence[Completion]) -> Bool[Tensor, "B"] | None:
    """The completions that were sampled under another view than the clean one; None without any."""
    found = torch.tensor([completion.view != CLEAN for completion in completions], dtype=torch.bool)
    return found if bool(found.any()) else None
