"""Other ways to run a group, to be compared with the shared forward: plain, and with a cached prefix."""

from typing import Any

import torch
from torch import Tensor

from foveal.policy.head import token_stats
from foveal.policy.model import Policy
from foveal.types import CLEAN, Inputs


def plain(policy: Policy, inputs: Inputs, rows: list[int]) -> Tensor:
    """Log-probs [rows, T] of completions of one prompt and one length, the prompt and its picture run once a
    completion: what a trainer without sharing does."""
    model: Any = policy.model
    prompt = inputs.prompts[int(inputs.prompt_index[rows[0]])]
    count, length, device = len(rows), int(inputs.lengths[rows[0]]), policy.device
    completions = inputs.completion_ids[rows, :length]
    ids = torch.cat([prompt.token_ids.to(device).expand(count, -1), completions], dim=1)
    pixels = inputs.vision[CLEAN].pixels[int(inputs.prompt_index[rows[0]])].to(device)
    states = model.model(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        mm_token_type_ids=(ids == policy.family.image_token_id).int(),
        pixel_values=pixels.repeat(count, 1),
        image_grid_thw=prompt.grids.to(device).repeat(count, 1),
        use_cache=False,
    ).last_hidden_state
    return _scored(policy, states[:, len(prompt.token_ids) - 1 : -1], completions)


def cached(policy: Policy, inputs: Inputs, rows: list[int]) -> Tensor:
    """The same with the prompt run once and its keys copied for each completion, with gradient."""
    model: Any = policy.model
    prompt = inputs.prompts[int(inputs.prompt_index[rows[0]])]
    count, length, device = len(rows), int(inputs.lengths[rows[0]]), policy.device
    completions = inputs.completion_ids[rows, :length]
    ids = prompt.token_ids.to(device)[None]
    before = model.model(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        mm_token_type_ids=(ids == policy.family.image_token_id).int(),
        pixel_values=inputs.vision[CLEAN].pixels[int(inputs.prompt_index[rows[0]])].to(device),
        image_grid_thw=prompt.grids.to(device),
        use_cache=True,
    )
    cache = before.past_key_values
    cache.batch_repeat_interleave(count)
    positions = torch.arange(length - 1, device=device) + prompt.next_position
    after = model.model.language_model(
        inputs_embeds=policy.family.embed(model, completions[:, :-1]),
        position_ids=positions.expand(3, count, -1),
        attention_mask=torch.ones(count, ids.shape[1] + length - 1, device=device, dtype=torch.long),
        past_key_values=cache,
        use_cache=True,
    ).last_hidden_state
    last = before.last_hidden_state[:, -1:].expand(count, -1, -1)
    return _scored(policy, torch.cat([last, after], dim=1), completions)


def _scored(policy: Policy, states: Tensor, completions: Tensor) -> Tensor:
    weight, bias = policy.family.head(policy.model)
    flat = states.reshape(-1, states.shape[-1])
    targets = completions.reshape(-1)
    logprobs, _ = token_stats(flat, weight, bias, targets, temperature=1.0, path=policy.head.path)
    return logprobs.view(completions.shape)
