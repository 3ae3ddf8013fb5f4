"""The group-shared forward: rows of completions to a packed row and back to [B T]."""

from dataclasses import dataclass

import torch
from torch import Tensor

from foveal.policy.attention import AttentionPath, PackedLayout
from foveal.policy.held import HeldPart
from foveal.policy.products import ProductPart
from foveal.types import Inputs, Prompt, ViewName


@dataclass(frozen=True, kw_only=True)
class PackedRow:
    """Completions as one ragged row with each prompt once, or without the prompts where these are held.

    `predict` is, for each scored token, the place of the hidden state that predicts it among those that are
    read: the last one of each prompt, then the completions'. `place` is its flat place in [B T]. The last
    token of a completion predicts nothing and is not fed.
    """

    prompts: tuple[int, ...]
    token_ids: Tensor
    position_ids: Tensor
    image_places: Tensor
    layout: PackedLayout
    predict: Tensor
    targets: Tensor
    place: Tensor
    held: HeldPart | None
    products: ProductPart | None


def prompts_of(inputs: Inputs, rows: Tensor) -> tuple[int, ...]:
    """The prompts of completions (Int [K], grouped by prompt), in their order."""
    return tuple(dict.fromkeys(inputs.prompt_index[rows].tolist()))


def pack(
    inputs: Inputs,
    rows: Tensor,
    *,
    path: AttentionPath,
    windows: tuple[int | None, ...] = (),
    held: HeldPart | None = None,
    products: ProductPart | None = None,
) -> PackedRow:
    """Lay the chosen completions (Int [K], grouped by prompt) out as `[p1 .. pn][c1 .. cK]`, or, with all
    their prompts `held`, as `[c1 .. cK]`. `windows` as `Family.windows`; `products` of these completions."""
    prompts = prompts_of(inputs, rows)
    device, width = inputs.completion_ids.device, inputs.completion_ids.shape[1]
    parts = _Parts(axes=inputs.prompts[0].position_ids.shape[0], device=device)
    if held is None:
        for prompt in prompts:
            parts.add(inputs.prompts[prompt])
    local = {prompt: index for index, prompt in enumerate(prompts)}
    read = len(prompts)
    owners, lengths = inputs.prompt_index[rows].tolist(), inputs.lengths[rows].tolist()
    predict, place = [torch.zeros(0, dtype=torch.long)], [torch.zeros(0, dtype=torch.long)]
    for row, owner, length in zip(rows.tolist(), owners, lengths, strict=True):
        if length == 0:
            continue
        predict.append(torch.tensor([local[owner]]))
        predict.append(torch.arange(read, read + length - 1))
        read += length - 1
        place.append(torch.arange(row * width, row * width + length))
        parts.feed(inputs.completion_ids[row, : length - 1], start=inputs.prompts[owner].next_position)
    flat = torch.cat(place).to(device)
    return PackedRow(
        prompts=prompts,
        token_ids=torch.cat(parts.token_ids),
        position_ids=torch.cat(parts.position_ids, dim=1).to(device),
        image_places=torch.cat(parts.image_mask).nonzero()[:, 0].to(device),
        layout=PackedLayout(
            prompt_lengths=tuple(len(inputs.prompts[p].token_ids) for p in prompts),
            completion_lengths=tuple(max(0, length - 1) for length in lengths),
            completion_prompts=tuple(local[owner] for owner in owners),
            device=device,
            path=path,
            windows=windows,
            prompts=None if held is None else held.keys_values,
        ),
        predict=torch.cat(predict).to(device),
        targets=inputs.completion_ids.reshape(-1)[flat],
        place=flat,
        held=held,
        products=products,
    )


class _Parts:
    """What a row is put together from."""

    def __init__(self, *, axes: int, device: torch.device) -> None:
        self.axes, self.device = axes, device
        self.token_ids = [torch.zeros(0, dtype=torch.long, device=device)]
        self.position_ids = [torch.zeros(axes, 0, dtype=torch.long)]
        self.image_mask = [torch.zeros(0, dtype=torch.bool)]

    def add(self, prompt: Prompt) -> None:
        self.token_ids.append(prompt.token_ids.to(self.device))
        self.position_ids.append(prompt.position_ids)
        self.image_mask.append(prompt.image_mask)

    def feed(self, token_ids: Tensor, *, start: int) -> None:
        """Tokens of a completion, at positions from `start` on."""
        self.token_ids.append(token_ids)
        self.position_ids.append(torch.arange(start, start + len(token_ids)).expand(self.axes, -1))


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
