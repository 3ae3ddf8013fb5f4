"""A random DINOv2 folder as a user would have it, and the attention its patches receive, by loops."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import Dinov2Config, Dinov2Model
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)
"""Of the folder's own picture settings; unlike those of DINOv2, so that using the wrong ones shows."""

LAYERS, HEADS, PATCH = 4, 2, 14


def build_dinov2(folder: Path) -> Path:
    """Random weights in a trained model's layout; matrices are enlarged, so that attention is uneven."""
    config = Dinov2Config(
        hidden_size=32, num_hidden_layers=LAYERS, num_attention_heads=HEADS, image_size=70, patch_size=PATCH
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Dinov2Model(config)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.mul_(6)
    model.save_pretrained(folder)
    BitImageProcessorPil(image_mean=list(MEAN), image_std=list(STD)).save_pretrained(folder)
    return folder


def received(folder: Path, image: Image.Image, layers: Sequence[int]) -> list[list[float]]:
    """The attention that each patch receives, by loops over layers, heads and patches; whole patches only."""
    model = Dinov2Model.from_pretrained(folder, attn_implementation="eager").eval()
    columns, rows = image.width // PATCH, image.height // PATCH
    samples = (np.asarray(image) / 255 - MEAN) / STD
    pixels = torch.from_numpy(samples.transpose(2, 0, 1)[None]).float()
    with torch.no_grad():
        attentions = model(pixels, output_attentions=True).attentions
    assert len(attentions) == LAYERS and attentions[0].shape[-1] == rows * columns + 1
    totals = [0.0] * (rows * columns)
    for number in layers:
        for head in range(HEADS):
            table = attentions[number - 1][0, head].tolist()
            for looking in range(1, len(table)):
                for seen in range(1, len(table)):
                    totals[seen - 1] += table[looking][seen]
    count = len(layers) * HEADS * rows * columns
    return [[totals[r * columns + c] / count for c in range(columns)] for r in range(rows)]


def masked(folder: Path, image: Image.Image, layers: Sequence[int], *, ratio: float) -> np.ndarray:
    """The picture of whole patches with the floor of `ratio` of them in black, the most attended first."""
    table = received(folder, image, layers)
    places = [(r, c) for r in range(len(table)) for c in range(len(table[0]))]
    places.sort(key=lambda place: -table[place[0]][place[1]])
    pixels = np.asarray(image).copy()
    for r, c in places[: int(ratio * len(places) + 1e-9)]:
        pixels[r * PATCH : (r + 1) * PATCH, c * PATCH : (c + 1) * PATCH] = 0
    return pixels
