"""Problems as tensors and a plain, fast forward of the tiny model, for training it from random weights.

The vision tower runs on stacks of pictures of one size, with the model's weights but without transformers'
loops over pictures; the text model is transformers' own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache, Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer

from foveal.types import IMAGE_MARK, Problem
from foveal.worlds.tiny import END, IMAGE_PAD, MEAN, MERGE, PATCH, STD, TOKEN_SIDE, token_id


@dataclass(frozen=True, kw_only=True)
class Example:
    """A prompt with its pictures and, in training, the completion to imitate.

    `token_ids` is the prompt (one placeholder a visual token) followed by the completion; `weights[t]` is the
    weight of predicting token t, zero on the prompt.
    """

    token_ids: Int[np.ndarray, "S"]
    positions: Int[np.ndarray, "3 S"]
    prompt_length: int
    weights: Float[np.ndarray, "S"]
    pictures: tuple[np.ndarray, ...]


def encode(
    problem: Problem, tokenizer: Qwen2Tokenizer, *, completion: Sequence[tuple[str, float]] = ()
) -> Example:
    """The example of a problem; `completion` is what to imitate, as pieces of text with their weights.

    Prompts are those of `foveal.policy`, token by token. The end token closes a completion, with its last
    weight.
    """
    parts: list[dict[str, Any]] = []
    for index, text in enumerate(problem.question.split(IMAGE_MARK)):
        if index:
            parts.append({"type": "image"})
        if text.strip():
            parts.append({"type": "text", "text": text.strip()})
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": cast(Any, parts)}], add_generation_prompt=True, tokenize=False
    )
    pictures = tuple(np.asarray(picture.convert("RGB")) for picture in problem.images)
    pad = token_id(tokenizer, IMAGE_PAD)
    ids: list[int] = []
    rows: list[tuple[int, int, int]] = []
    following = 0
    waiting = iter(pictures)
    for token in tokenizer(str(prompt), add_special_tokens=False)["input_ids"]:
        if token != pad:
            ids.append(token)
            rows.append((following,) * 3)
            following += 1
            continue
        height, width = (side // TOKEN_SIDE for side in next(waiting).shape[:2])
        ids.extend([pad] * (height * width))
        rows.extend((following, following + y, following + x) for y in range(height) for x in range(width))
        following += max(height, width)
    length = len(ids)
    weights = [0.0] * length
    for text, weight in completion:
        tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
        ids.extend(tokens)
        weights.extend([weight] * len(tokens))
    if completion:
        ids.append(token_id(tokenizer, END))
        weights.append(weights[-1])
    rows.extend((following + t,) * 3 for t in range(len(ids) - length))
    return Example(
        token_ids=np.asarray(ids),
        positions=np.asarray(rows).T,
        prompt_length=length,
        weights=np.asarray(weights, dtype=np.float32),
        pictures=pictures,
    )


def patches(pictures: Sequence[np.ndarray]) -> Float[Tensor, "n patches features"]:
    """Normalised patches of pictures of one size; the four patches of a visual token are adjacent."""
    stack = torch.from_numpy(np.stack(pictures)).float().div_(255)
    stack = stack.sub_(torch.tensor(MEAN)).div_(torch.tensor(STD))
    n, height, width, _ = stack.shape
    h, w = height // TOKEN_SIDE, width // TOKEN_SIDE
    cells = stack.reshape(n, h, MERGE, PATCH, w, MERGE, PATCH, 3).permute(0, 1, 4, 2, 5, 7, 3, 6)
    return cells.reshape(n, h * w * MERGE**2, 3 * PATCH**2)


def see(
    model: Qwen2_5_VLForConditionalGeneration, pictures: Sequence[np.ndarray]
) -> list[Float[Tensor, "tokens hidden"]]:
    """The visual tokens of each picture, as `model.get_image_features` gives them."""
    found: dict[int, Tensor] = {}
    for size in sorted({picture.shape for picture in pictures}):
        chosen = [i for i, picture in enumerate(pictures) if picture.shape == size]
        features = _tower(model, patches([pictures[i] for i in chosen]), size[0] // PATCH, size[1] // PATCH)
        found.update(zip(chosen, features, strict=True))
    return [found[i] for i in range(len(pictures))]


def _tower(
    model: Qwen2_5_VLForConditionalGeneration, x: Float[Tensor, "n patches features"], height: int, width: int
) -> Float[Tensor, "n tokens hidden"]:
    tower = model.model.visual
    n, length, _ = x.shape
    # A still picture is two equal frames: their kernels add up.
    kernel = tower.patch_embed.proj.weight.sum(2).flatten(1)
    hidden = F.linear(x, kernel)
    rows, columns = np.divmod(np.arange(height * width), width)
    order = (
        np.arange(height * width)
        .reshape(height // MERGE, MERGE, width // MERGE, MERGE)
        .swapaxes(1, 2)
        .reshape(-1)
    )
    where = torch.from_numpy(np.stack([rows[order], columns[order]]))
    cos, sin = (part[None, :, None] for part in tower.rotary_pos_emb(hidden, where.mT.contiguous()))
    for block in tower.blocks:
        attention = block.attn
        qkv = attention.qkv(block.norm1(hidden)).view(n, length, 3, attention.num_heads, -1)
        q, k, v = qkv.unbind(2)
        q, k = q * cos + _half_turn(q) * sin, k * cos + _half_turn(k) * sin
        mixed = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
        hidden = hidden + attention.proj(mixed.transpose(1, 2).reshape(n, length, -1))
        hidden = hidden + block.mlp(block.norm2(hidden))
    merged: Tensor = tower.merger(hidden)
    return merged.view(n, length // MERGE**2, -1)


def _half_turn(x: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat((-second, first), dim=-1)


@dataclass(frozen=True, kw_only=True)
class Padded:
    """Examples side by side, padded on the right."""

    token_ids: Int[Tensor, "B S"]
    positions: Int[Tensor, "3 B S"]
    weights: Float[Tensor, "B S"]
    pictures: tuple[np.ndarray, ...]


def pad(examples: Sequence[Example], *, pad_id: int) -> Padded:
    """Stack examples; padding weighs nothing and, being on the right of causal rows, changes nothing."""
    length = max(len(example.token_ids) for example in examples)
    ids = torch.full((len(examples), length), pad_id)
    positions = torch.zeros((3, len(examples), length), dtype=torch.long)
    weights = torch.zeros((len(examples), length))
    for row, example in enumerate(examples):
        size = len(example.token_ids)
        ids[row, :size] = torch.from_numpy(example.token_ids)
        positions[:, row, :size] = torch.from_numpy(example.positions)
        weights[row, :size] = torch.from_numpy(example.weights)
    pictures = tuple(picture for example in examples for picture in example.pictures)
    return Padded(token_ids=ids, positions=positions, weights=weights, pictures=pictures)


def read(
    model: Qwen2_5_VLForConditionalGeneration,
    batch: Padded,
    *,
    vision: Sequence[Float[Tensor, "tokens hidden"]],
    cache: DynamicCache | None = None,
) -> Float[Tensor, "B S hidden"]:
    """Last hidden states of the text model, given the visual tokens of the pictures."""
    embedded = model.model.language_model.embed_tokens(batch.token_ids)
    slots = batch.token_ids == model.config.image_token_id
    if len(vision):
        embedded = embedded.masked_scatter(slots[..., None], torch.cat(list(vision)))
    out = model.model.language_model(
        inputs_embeds=embedded,
        position_ids=batch.positions,
        past_key_values=cache,
        use_cache=cache is not None,
    )
    return cast(Tensor, out.last_hidden_state)


def imitation_loss(model: Qwen2_5_VLForConditionalGeneration, batch: Padded) -> Float[Tensor, ""]:
    """Weighted mean of -log p(token) over the completions; the head runs on tokens with a weight only."""
    hidden = read(model, batch, vision=see(model, batch.pictures))
    chosen = batch.weights[:, 1:] > 0
    losses = F.cross_entropy(
        model.lm_head(hidden[:, :-1][chosen]), batch.token_ids[:, 1:][chosen], reduction="none"
    )
    weights = batch.weights[:, 1:][chosen]
    return (losses * weights).sum() / weights.sum()


@torch.no_grad()
def continue_prompts(
    model: Qwen2_5_VLForConditionalGeneration,
    examples: Sequence[Example],
    *,
    end_id: int,
    max_new_tokens: int,
    temperature: float = 0.0,
    rng: np.random.Generator | None = None,
    batch_size: int = 128,
) -> list[list[int]]:
    """Completions, greedy or sampled, without the end token. Prompts of one length share a batch."""
    done: dict[int, list[int]] = {}
    by_length: dict[int, list[int]] = {}
    for index, example in enumerate(examples):
        by_length.setdefault(example.prompt_length, []).append(index)
    for indices in by_length.values():
        for start in range(0, len(indices), batch_size):
            chosen = indices[start : start + batch_size]
            rows = _decode(
                model,
                [examples[i] for i in chosen],
                end_id=end_id,
                max_new_tokens=max_new_tokens,
                temperature=temperature,
                rng=rng,
            )
            done.update(zip(chosen, rows, strict=True))
    return [done[index] for index in range(len(examples))]


def _decode(
    model: Qwen2_5_VLForConditionalGeneration,
    examples: Sequence[Example],
    *,
    end_id: int,
    max_new_tokens: int,
    temperature: float,
    rng: np.random.Generator | None,
) -> list[list[int]]:
    length = examples[0].prompt_length
    batch = Padded(
        token_ids=torch.from_numpy(np.stack([e.token_ids[:length] for e in examples])),
        positions=torch.from_numpy(np.stack([e.positions[:, :length] for e in examples], axis=1)),
        weights=torch.zeros(len(examples), length),
        pictures=tuple(picture for e in examples for picture in e.pictures),
    )
    cache = DynamicCache(config=cast(Any, model.config.text_config))
    hidden = read(model, batch, vision=see(model, batch.pictures), cache=cache)
    position = batch.positions.amax((0, 2)) + 1
    rows: list[list[int]] = [[] for _ in examples]
    alive = set(range(len(examples)))
    for step in range(max_new_tokens):
        logits = model.lm_head(hidden[:, -1]).float()
        logits[:, model.config.image_token_id] = -torch.inf
        if temperature > 0 and rng is not None:
            noise = rng.gumbel(size=tuple(logits.shape)).astype(np.float32)
            logits = logits / temperature + torch.from_numpy(noise)
        tokens = logits.argmax(-1)
        for row in list(alive):
            token = int(tokens[row])
            alive.discard(row) if token == end_id else rows[row].append(token)
        if not alive:
            break
        following = Padded(
            token_ids=tokens[:, None],
            positions=(position + step)[None, :, None].expand(3, -1, 1),
            weights=torch.zeros(len(examples), 1),
            pictures=(),
        )
        hidden = read(model, following, vision=(), cache=cache)
    return rows
