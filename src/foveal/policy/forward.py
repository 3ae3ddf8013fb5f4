"""The group-shared forward: rows of completions to a packed row and back to [B T]."""

from dataclasses import dataclass

import torch
from torch import Tensor

from foveal.policy.attention import AttentionPath, PackedLayout
from foveal.types import Inputs, ViewName


@dataclass(frozen=True, kw_only=True)
class PackedRow:
    """Completions as one ragged row with each prompt once.

    `predict` is, for each scored token, the place in the row whose hidden state predicts it; `place` its flat
    place in [B T]. The last token of a completion predicts nothing and is not fed.
    """

    prompts: tuple[int, ...]
    token_ids: Tensor
    position_ids: Tensor
    image_places: Tensor
    layout: PackedLayout
    predict: Tensor
    targets: Tensor
    place: Tensor


def pack(inputs: Inputs, rows: Tensor, *, path: AttentionPath) -> PackedRow:
    """Lay the chosen completions (Int [K], grouped by prompt) out as `[p1 .. pn][c1 .. cK]`."""
    chosen = rows.tolist()
    owners = inputs.prompt_index[rows].tolist()
    prompts = tuple(dict.fromkeys(owners))
    local = {prompt: index for index, prompt in enumerate(prompts)}
    lengths = inputs.lengths[rows].tolist()
    device = inputs.completion_ids.device
    token_parts = [inputs.prompts[p].token_ids for p in prompts]
    position_parts = [inputs.prompts[p].position_ids for p in prompts]
    image_parts = [inputs.prompts[p].image_mask for p in prompts]
    last, at = [], 0
    for prompt in prompts:
        at += len(inputs.prompts[prompt].token_ids)
        last.append(at - 1)
    predict, place = [], []
    width = inputs.completion_ids.shape[1]
    for row, owner, length in zip(chosen, owners, lengths, strict=True):
        if length == 0:
            continue
        fed = length - 1
        start = inputs.prompts[owner].next_position
        token_parts.append(inputs.completion_ids[row, :fed])
        position_parts.append(torch.arange(start, start + fed).expand(position_parts[0].shape[0], -1))
        predict.append(torch.tensor([last[local[owner]]]))
        predict.append(torch.arange(at, at + fed))
        place.append(torch.arange(row * width, row * width + length))
        at += fed
    image_mask = torch.cat(image_parts)
    flat = torch.cat(place) if place else torch.zeros(0, dtype=torch.long)
    return PackedRow(
        prompts=prompts,
        token_ids=torch.cat([part.to(device) for part in token_parts]),
        position_ids=torch.cat(position_parts, dim=1).to(device),
        image_places=image_mask.nonzero()[:, 0].to(device),
        layout=PackedLayout(
            prompt_lengths=tuple(len(inputs.prompts[p].token_ids) for p in prompts),
            completion_lengths=tuple(max(0, length - 1) for length in lengths),
            completion_prompts=tuple(local[owner] for owner in owners),
            device=device,
            path=path,
        ),
        predict=(torch.cat(predict) if predict else torch.zeros(0, dtype=torch.long)).to(device),
        targets=inputs.completion_ids.reshape(-1)[flat.to(device)],
        place=flat.to(device),
    )


def pictures(inputs: Inputs, view: ViewName, prompts: tuple[int, ...]) -> list[tuple[Tensor, Tensor]]:
    """Patches and grids of each prompt's pictures under a view."""
    pixels = inputs.vision[view].pixels
    return [(pixels[p], inputs.prompts[p].grids) for p in prompts]


def micro_batches(inputs: Inputs, *, tokens: int, rows: Tensor | None = None) -> list[Tensor]:
    """Split completions (Int [K] each) so that a packed row has at most `tokens`, its prompts included once.

    Groups stay together where they fit; a single completion longer than the limit is a part of its own.
    """
    every = rows if rows is not None else torch.arange(len(inputs.prompt_index))
    parts: list[list[int]] = []
    current: list[int] = []
    present: set[int] = set()
    size = 0
    for owner, members in _by_prompt(inputs, every.tolist()):
        prompt = len(inputs.prompts[owner].token_ids)
        lengths = {row: int(inputs.lengths[row]) for row in members}
        whole = prompt + sum(lengths.values())
        if current and size + whole > tokens:
            parts.append(current)
            current, present, size = [], set(), 0
        for row in members:
            extra = lengths[row] + (0 if owner in present else prompt)
            if current and size + extra > tokens:
                parts.append(current)
                current, present, size = [], set(), 0
                extra = lengths[row] + prompt
            current.append(row)
            present.add(owner)
            size += extra
    if current:
        parts.append(current)
    return [torch.tensor(part) for part in parts]


def _by_prompt(inputs: Inputs, rows: list[int]) -> list[tuple[int, list[int]]]:
    groups: dict[int, list[int]] = {}
    owners = inputs.prompt_index.tolist()
    for row in rows:
        groups.setdefault(owners[row], []).append(row)
    return list(groups.items())
