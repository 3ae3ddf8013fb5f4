"""Finished groups to tensors: completions padded on the right, prompts once, the pictures of every view."""

from collections.abc import Mapping, Sequence

import torch
from PIL.Image import Image
from torch import Tensor

from foveal.keys import Key, generator
from foveal.policy.processing import Processor
from foveal.spec import FovealError
from foveal.types import (
    CLEAN,
    Group,
    Inputs,
    Perturbation,
    PerturbationContext,
    Problem,
    ViewName,
    VisionInputs,
)


def collate(
    groups: Sequence[Group],
    *,
    processor: Processor,
    views: Sequence[ViewName],
    perturbations: Mapping[ViewName, Perturbation],
    key: Key,
) -> Inputs:
    """Tensors of finished groups under all `views`.

    A token whose recorded log-probability is not finite is left out of the completion mask and counted,
    never replaced. The perturbed pictures are keyed by (*key, problem id, image index, view).
    Raises: FovealError, when a completion has not one recorded log-probability a token.
    """
    encoded = [processor.encode(group.problem) for group in groups]
    completions = [completion for group in groups for completion in group.completions]
    longest = max((len(c.token_ids) for c in completions), default=0)
    size = (len(completions), max(longest, 1))
    ids = torch.full(size, processor.pad_id)
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
    vision = {CLEAN: VisionInputs(pixels=tuple(item.pixels for item in encoded))}
    donors = tuple(group.problem for group in groups)
    for view in views:
        if view == CLEAN:
            continue
        pixels = tuple(
            _perturbed(group.problem, donors, processor, perturbations[view], view=view, key=key)
            for group in groups
        )
        vision[view] = VisionInputs(pixels=pixels)
    return Inputs(
        prompts=tuple(item.prompt for item in encoded),
        prompt_index=torch.repeat_interleave(
            torch.arange(len(groups)), torch.tensor([len(g.completions) for g in groups], dtype=torch.long)
        ),
        completion_ids=ids,
        completion_mask=mask,
        sampled_logprobs=logprobs,
        rewards=torch.tensor([r for group in groups for r in group.rewards], dtype=torch.float32),
        correct=torch.tensor([c for group in groups for c in group.correct], dtype=torch.bool),
        lengths=torch.tensor([len(c.token_ids) for c in completions], dtype=torch.long),
        truncated=torch.tensor([c.finish == "length" for c in completions], dtype=torch.bool),
        vision=vision,
        nonfinite_count=nonfinite,
    )


def perturb(
    problem: Problem,
    perturbation: Perturbation,
    *,
    view: ViewName,
    key: Key,
    context: PerturbationContext,
) -> tuple[Image, ...]:
    """The pictures of a problem under a view; the same for the same key, however work is batched.

    Raises: FovealError, when the perturbation changes a picture's size.
    """
    found = []
    for index, image in enumerate(problem.images):
        changed = perturbation(image, rng=generator(*key, problem.id, index, view), context=context)
        if changed.size != image.size:
            raise FovealError(
                f"perturbation {perturbation.type!r} of view {view!r} turned a picture of {image.size} "
                f"into one of {changed.size} (problem {problem.id!r}); expected the same size; change "
                f"[perturbations.{view}]"
            )
        found.append(changed)
    return tuple(found)


def _perturbed(
    problem: Problem,
    batch: tuple[Problem, ...],
    processor: Processor,
    perturbation: Perturbation,
    *,
    view: ViewName,
    key: Key,
) -> Tensor:
    context = PerturbationContext(
        patch=processor.family.patch,
        merge=processor.family.merge,
        donors=tuple(image for other in batch if other.id != problem.id for image in other.images),
    )
    pixels, _ = processor.pixels(perturb(problem, perturbation, view=view, key=key, context=context))
    return pixels
