"""Models for `gpu.py`: random weights in published shapes, and batches for them."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForImageTextToText, Qwen2_5_VLConfig

from foveal.policy.attention import AttentionPath
from foveal.policy.families import family_of
from foveal.policy.model import Policy
from foveal.policy.paths import attention_path
from foveal.policy.processing import Processor
from foveal.types import Completion, Group, Problem
from foveal.worlds.tiny import SPECIALS, save_folder, tiny_model, token_id, train_tokenizer

VISION = {
    "depth": 32,
    "hidden_size": 1280,
    "intermediate_size": 3420,
    "num_heads": 16,
    "patch_size": 14,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "window_size": 112,
    "fullatt_block_indexes": [7, 15, 23, 31],
}

SHAPES: dict[str, dict[str, Any]] = {
    "3b": {
        "tied": True,
        "text": {
            "vocab_size": 151936,
            "hidden_size": 2048,
            "intermediate_size": 11008,
            "num_hidden_layers": 36,
            "num_attention_heads": 16,
            "num_key_value_heads": 2,
            "max_position_embeddings": 128000,
            "mrope_section": [16, 24, 24],
        },
        "vision": {**VISION, "out_hidden_size": 2048},
    },
    "7b": {
        "tied": False,
        "text": {
            "vocab_size": 152064,
            "hidden_size": 3584,
            "intermediate_size": 18944,
            "num_hidden_layers": 28,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
            "max_position_embeddings": 128000,
            "mrope_section": [16, 24, 24],
        },
        "vision": {**VISION, "out_hidden_size": 3584},
    },
    "33m": {
        "tied": False,
        "text": {
            "vocab_size": 4096,
            "hidden_size": 512,
            "intermediate_size": 1408,
            "num_hidden_layers": 8,
            "num_attention_heads": 8,
            "num_key_value_heads": 2,
            "max_position_embeddings": 32768,
            "mrope_section": [8, 12, 12],
        },
        "vision": {
            **VISION,
            "depth": 6,
            "hidden_size": 256,
            "intermediate_size": 684,
            "num_heads": 8,
            "fullatt_block_indexes": [5],
            "out_hidden_size": 512,
        },
    },
    "1m": {
        "tied": False,
        "text": {
            "vocab_size": 1024,
            "hidden_size": 128,
            "intermediate_size": 344,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 32768,
            "mrope_section": [4, 6, 6],
        },
        "vision": {
            **VISION,
            "depth": 2,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_heads": 4,
            "fullatt_block_indexes": [1],
            "out_hidden_size": 128,
        },
    },
    "tiny": {
        "tied": True,
        "text": {
            "vocab_size": 700,
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 4096,
            "mrope_section": [2, 3, 3],
        },
        "vision": {
            **VISION,
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_heads": 2,
            "fullatt_block_indexes": [1],
            "out_hidden_size": 64,
        },
    },
}
"""Qwen2.5-VL-3B and -7B as published; two that a CPU trains, on which steps are held against others'; "tiny"
for tests. Only the tokenizer is another one: it is small, so the special tokens have other ids, and the rest
of the vocabulary has no text."""

CORPUS = (
    "How many red circles are in the picture? Answer with one number.",
    "system user assistant 0 1 2 3 4 5 6 7 8 9",
)


@dataclass(frozen=True, kw_only=True)
class Maker:
    """Makes policies of one shape; `folder` holds the tokenizer and the picture settings."""

    shape: str
    folder: Path
    ids: dict[str, int]
    device: torch.device

    def config(self, *, text_layers: int | None = None, vision_layers: int | None = None) -> Qwen2_5_VLConfig:
        """The configuration, with all layers or the first ones."""
        given = SHAPES[self.shape]
        text, vision = dict(given["text"]), dict(given["vision"])
        text["num_hidden_layers"] = min(text_layers or 1 << 30, text["num_hidden_layers"])
        vision["depth"] = min(vision_layers or 1 << 30, vision["depth"])
        full = [n for n in vision["fullatt_block_indexes"] if n < vision["depth"]]
        rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": text.pop("mrope_section")}
        ends = {"bos": "<|endoftext|>", "eos": "<|im_end|>", "pad": "<|endoftext|>"}
        return Qwen2_5_VLConfig(
            text_config={
                **text,
                "rms_norm_eps": 1e-6,
                "tie_word_embeddings": given["tied"],
                "rope_parameters": rope,
                **{f"{name}_token_id": self.ids[token] for name, token in ends.items()},
            },
            vision_config={**vision, "fullatt_block_indexes": full},
            image_token_id=self.ids["<|image_pad|>"],
            video_token_id=self.ids["<|video_pad|>"],
            vision_start_token_id=self.ids["<|vision_start|>"],
            vision_end_token_id=self.ids["<|vision_end|>"],
            tie_word_embeddings=given["tied"],
        )

    def model(self, dtype: torch.dtype, config: Qwen2_5_VLConfig) -> Any:
        """transformers' own model with random weights, made on the device."""
        torch.manual_seed(0)
        with torch.device(self.device):
            return AutoModelForImageTextToText.from_config(config, dtype=dtype).train()

    def policy(
        self, dtype: torch.dtype, *, config: Qwen2_5_VLConfig | None = None, adapted: bool = True
    ) -> Policy:
        """A policy with random weights; one that is not adapted runs as transformers made it."""
        config = config or self.config()
        model = self.model(dtype, config)
        family = family_of(config, where=self.shape)
        if adapted:
            family.adapt(model)
        return Policy(model, family, Processor(self.folder, family), path=self.path(dtype, config))

    def path(self, dtype: torch.dtype, config: Qwen2_5_VLConfig) -> AttentionPath:
        """The way to attend that the library takes."""
        text = config.get_text_config()
        width = text.hidden_size // text.num_attention_heads
        return attention_path("auto", device=self.device, dtype=dtype, head_width=width)


@contextmanager
def maker(shape: str, device: torch.device) -> Iterator[Maker]:
    """With a temporary folder that is gone afterwards."""
    tokenizer = train_tokenizer(CORPUS)
    ids = {token: token_id(tokenizer, token) for token in SPECIALS}
    with tempfile.TemporaryDirectory() as folder:
        save_folder(tiny_model(tokenizer, seed=0), tokenizer, Path(folder))
        yield Maker(shape=shape, folder=Path(folder), ids=ids, device=device)


def random_group(policy: Policy, of: Problem, lengths: Sequence[int]) -> Group:
    """Completions of random words."""
    words = min(policy.family.banned_token_ids())
    draw = np.random.default_rng(len(lengths))
    completions = tuple(
        Completion(
            token_ids=tuple(draw.integers(0, words, n).tolist()),
            sampled_logprobs=(-1.0,) * n,
            text="",
            finish="length",
        )
        for n in lengths
    )
    nothing = (0.0,) * len(lengths)
    return Group(problem=of, completions=completions, rewards=nothing, correct=(False,) * len(lengths))
