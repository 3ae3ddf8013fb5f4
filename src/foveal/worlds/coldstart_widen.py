"""A text model made wider without a change of what it computes.

Reasoning is learnt with heads 24 wide, where it is learnt reliably; inference engines want 32. So the trained
model is widened: what reads a new dimension is drawn at random, what writes it is zero. The function stays,
and every new weight has a gradient, at once or after the first step.
"""

import math

import torch
from torch import Tensor
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer

from foveal.spec import FovealError
from foveal.worlds.tiny import TinySettings, mrope_sections, tiny_model


def widened(settings: TinySettings, *, heads_of: int) -> TinySettings:
    """The sizes with heads `heads_of` wide.

    Rotary frequencies are powers of `theta^(-2 / width)`; a higher theta keeps those there were, and the new
    ones go to the section of the width.
    """
    width = settings.hidden // settings.heads
    time, height, side = settings.mrope_section or mrope_sections(width)
    return settings.model_copy(
        update={
            "hidden": settings.heads * heads_of,
            "rope_theta": round(settings.rope_theta ** (heads_of / width), 6),
            "mrope_section": (time, height, side + (heads_of - width) // 2),
        }
    )


def widen(
    model: Qwen2_5_VLForConditionalGeneration,
    tokenizer: Qwen2Tokenizer,
    *,
    narrow: TinySettings,
    wide: TinySettings,
    seed: int,
) -> Qwen2_5_VLForConditionalGeneration:
    """The model of `narrow` sizes as one of `wide` ones that computes the same.

    Raises: FovealError when the sizes differ in more than the width of the text model and its heads.
    """
    before, after = narrow.hidden // narrow.heads, wide.hidden // wide.heads
    if widened(narrow, heads_of=after) != wide:
        raise FovealError(
            f"a model of {narrow} cannot be widened to {wide}; expected {widened(narrow, heads_of=after)}"
        )
    grown = tiny_model(tokenizer, seed=seed, settings=wide)
    old = dict(model.named_parameters())
    # A root mean square over more dimensions of the same content is smaller.
    norm = math.sqrt(narrow.hidden / wide.hidden)
    # Scores are divided by the root of a head's width.
    score = math.sqrt(after / before)
    hidden = torch.arange(narrow.hidden)
    with torch.no_grad():
        for name, weight in grown.named_parameters():
            own = old[name]
            if own.shape == weight.shape:
                weight.copy_(own)
            elif "layernorm" in name or name.endswith("norm.weight"):
                weight.fill_(norm)
                weight[hidden] = own * norm
            elif "q_proj" in name or "k_proj" in name:
                rows = head_places(len(own) // before, before=before, after=after, rotary=True)
                _place(weight, own * (score if "q_proj" in name else 1.0), rows, silent="k_proj" in name)
            elif "v_proj" in name:
                _place(weight, own, head_places(len(own) // before, before=before, after=after, rotary=False))
            elif "o_proj" in name:
                columns = head_places(narrow.heads, before=before, after=after, rotary=False)
                weight[narrow.hidden :] = 0.0
                weight[: narrow.hidden, columns] = own
            elif own.dim() == 2 and own.shape[1] != weight.shape[1] and own.shape[0] == weight.shape[0]:
                # Reads the residual stream (the MLP), or is it (the embedding, where new dimensions are 0).
                if "embed_tokens" in name:
                    weight.zero_()
                weight[:, : narrow.hidden] = own
            else:  # writes into the residual stream
                weight.zero_()
                weight[: narrow.hidden] = own
    return grown


def head_places(heads: int, *, before: int, after: int, rotary: bool) -> Tensor:
    """Where the dimensions of narrow heads lie in wide ones; rotary pairs are (i, i + half the width)."""
    if rotary:
        first = torch.arange(before // 2)
        own = torch.cat([first, first + after // 2])
    else:
        own = torch.arange(before)
    return (torch.arange(heads)[:, None] * after + own).flatten()


def _place(weight: Tensor, own: Tensor, rows: Tensor, *, silent: bool = True) -> None:
    """Put a projection's rows; `silent`: new rows are zero, so that they add nothing to scores and values."""
    fresh = torch.ones(len(weight), dtype=torch.bool)
    fresh[rows] = False
    if silent or weight.dim() == 1:
        weight[fresh] = 0.0
    if weight.dim() == 1:
        weight[rows] = own
    else:
        weight[rows, : own.shape[1]] = own
