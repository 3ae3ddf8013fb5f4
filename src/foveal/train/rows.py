"""Parts of a batch: which completions a mini-batch has, and the batch of some completions."""

from dataclasses import replace

import torch
from torch import Tensor

from foveal.types import Batch, Inputs, Scores


def mini_batch_rows(inputs: Inputs, parts: int) -> list[Tensor]:
    """Completions (Int [K], on the CPU) of each mini-batch: whole groups, dealt out in order and as evenly as
    possible."""
    owners = inputs.prompt_index.cpu()
    shares = torch.arange(len(inputs.prompts)).tensor_split(parts)
    return [torch.isin(owners, share).nonzero()[:, 0] for share in shares if len(share)]


def select(batch: Batch, rows: Tensor) -> Batch:
    """The batch of some completions (Int [K]); prompts and pictures stay, since rows point at them."""
    scores = batch.scores
    return replace(
        batch,
        inputs=select_inputs(batch.inputs, rows),
        scores=Scores(
            old_logprobs=scores.old_logprobs[rows],
            ref_logprobs=None if scores.ref_logprobs is None else scores.ref_logprobs[rows],
            views={view: found.take(rows) for view, found in scores.views.items()},
        ),
        advantages=batch.advantages[rows],
        selections={name: mask[rows] for name, mask in batch.selections.items()},
        weights={name: weight[rows] for name, weight in batch.weights.items()},
    )


def select_inputs(inputs: Inputs, rows: Tensor) -> Inputs:
    """The inputs of some completions (Int [K])."""
    return replace(
        inputs,
        prompt_index=inputs.prompt_index[rows],
        completion_ids=inputs.completion_ids[rows],
        completion_mask=inputs.completion_mask[rows],
        sampled_logprobs=inputs.sampled_logprobs[rows],
        rewards=inputs.rewards[rows],
        correct=inputs.correct[rows],
        lengths=inputs.lengths[rows],
        truncated=inputs.truncated[rows],
        sampled_elsewhere=None if inputs.sampled_elsewhere is None else inputs.sampled_elsewhere[rows],
        sampled_entropies=None if inputs.sampled_entropies is None else inputs.sampled_entropies[rows],
        breakdown={name: values[rows] for name, values in inputs.breakdown.items()},
        segments={name: mask[rows] for name, mask in inputs.segments.items()},
    )
