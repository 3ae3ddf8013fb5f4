"""The tiny real model: a standard Qwen2.5-VL folder, small enough to train from random weights on a CPU.

Architecture, chat template, special tokens and picture processing are those of Qwen2.5-VL; only the sizes and
the vocabulary are small. The tokenizer is a byte-level BPE of Qwen's kind: each word of the worlds is one
token, digits stand alone, and any other text can still be written in pieces.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import (
    GenerationConfig,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Tokenizer,
)

from foveal.keys import generator
from foveal.spec import Config, FovealError

PATCH = 14
MERGE = 2
TOKEN_SIDE = PATCH * MERGE
"""Side in pixels of the square that becomes one visual token."""

MIN_PIXELS = TOKEN_SIDE**2
MAX_PIXELS = TOKEN_SIDE**2 * 1024
"""Pictures with a number of pixels between these, and sides that are multiples of 28, are not rescaled."""

PAD, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
VISION_START, VISION_END, IMAGE_PAD, VIDEO_PAD = (
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
SPECIALS = (
    *(
        PAD,
        START,
        END,
        "<|object_ref_start|>",
        "<|object_ref_end|>",
        "<|box_start|>",
        "<|box_end|>",
        "<|quad_start|>",
    ),
    *("<|quad_end|>", VISION_START, VISION_END, "<|vision_pad|>", IMAGE_PAD, VIDEO_PAD),
)
"""Qwen2.5-VL's special tokens, in its order."""

SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Qwen's rule for where words end: a word carries the space before it, a digit stands alone."""

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif part['type'] == 'video' %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% elif 'text' in part %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Qwen2.5-VL's template without the default system message, whose constant tokens would only cost time."""

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
"""Normalisation of Qwen2.5-VL's pictures."""


class TinySettings(Config):
    """Sizes of the tiny model; the default has about 1 million parameters."""

    hidden: int = 128
    """Width of the text model."""
    intermediate: int = 256
    layers: int = 4
    heads: int = 4
    """Of width 32, the smallest that inference engines accept."""
    kv_heads: int = 2
    vision_hidden: int = 64
    """Width of the vision tower."""
    vision_intermediate: int = 192
    vision_layers: int = 2
    vision_heads: int = 4
    rope_theta: float = 10_000.0
    """Sequences are short: the usual 1e6 would leave most frequencies unused."""
    mrope_section: tuple[int, int, int] | None = (4, 4, 8)
    """Rotary frequencies of time, height and width; None takes Qwen's shares (`mrope_sections`)."""
    initializer_range: float = 0.05
    """Standard deviation of the first weights; with the usual 0.02 this width stays blind to shape."""
    patch_initializer_range: float = 0.02


def train_tokenizer(corpus: Iterable[str]) -> Qwen2Tokenizer:
    """A byte-level BPE tokenizer in which every word of `corpus` is one token.

    A word is what Qwen's rule splits off, with its leading space. Merges are learnt until no pair is left, so
    the vocabulary is the 256 bytes, the words, and the pieces on the way to them.
    """
    trained = Tokenizer(models.BPE())
    trained.normalizer = normalizers.NFC()
    trained.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trained.decoder = decoders.ByteLevel()
    words: dict[str, None] = {}
    for text in corpus:
        for word, _ in trained.pre_tokenizer.pre_tokenize_str(text):
            words.setdefault(word)
    trainer = trainers.BpeTrainer(
        vocab_size=1 << 16,
        min_frequency=1,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    raw = trained.decoder
    trained.train_from_iterator((raw.decode([word]) for word in sorted(words)), trainer)
    state = json.loads(trained.to_str())["model"]
    tokenizer = Qwen2Tokenizer(
        vocab=state["vocab"],
        merges=cast(Any, [tuple(pair) for pair in state["merges"]]),
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=list(SPECIALS[1:]),
        model_max_length=32768,
        padding_side="left",
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def token_id(tokenizer: Qwen2Tokenizer, token: str) -> int:
    """The id of one token."""
    return cast(int, tokenizer.convert_tokens_to_ids(token))


def mrope_sections(width: int) -> tuple[int, int, int]:
    """How many rotary frequencies of a head turn with time, height and width of a picture.

    Qwen2.5-VL gives time about a quarter and splits the rest evenly.

    >>> mrope_sections(128), mrope_sections(32)
    ((16, 24, 24), (4, 6, 6))
    """
    half = width // 2
    time = half // 4
    time += (half - time) % 2
    side = (half - time) // 2
    return time, side, side


def tiny_config(tokenizer: Qwen2Tokenizer, *, settings: TinySettings | None = None) -> Qwen2_5_VLConfig:
    """The Qwen2.5-VL configuration for this tokenizer and these sizes.

    Raises: FovealError when the head width does not split into three rotary sections.
    """
    size = settings or TinySettings()
    width, rest = divmod(size.hidden, size.heads)
    sections = size.mrope_section or mrope_sections(width)
    if rest or width % 2 or min(sections) < 1 or sum(sections) != width // 2:
        raise FovealError(
            f"hidden = {size.hidden} with heads = {size.heads} gives heads of {size.hidden / size.heads:g} "
            f"and mrope_section = {sections}; expected an even width of at least 6 whose half is the sum of "
            "the three rotary sections; change hidden, heads or mrope_section"
        )
    ids = {name: token_id(tokenizer, name) for name in SPECIALS}
    ends = {"bos_token_id": ids[PAD], "eos_token_id": ids[END], "pad_token_id": ids[PAD]}
    return Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": size.hidden,
            "intermediate_size": size.intermediate,
            "num_hidden_layers": size.layers,
            "num_attention_heads": size.heads,
            "num_key_value_heads": size.kv_heads,
            "max_position_embeddings": 4096,
            "rms_norm_eps": 1e-6,
            "tie_word_embeddings": True,
            "initializer_range": size.initializer_range,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": size.rope_theta,
                "mrope_section": list(sections),
            },
            **ends,
        },
        vision_config={
            "depth": size.vision_layers,
            "hidden_size": size.vision_hidden,
            "intermediate_size": size.vision_intermediate,
            "num_heads": size.vision_heads,
            "out_hidden_size": size.hidden,
            "patch_size": PATCH,
            "spatial_merge_size": MERGE,
            "temporal_patch_size": 2,
            "window_size": 112,
            "fullatt_block_indexes": list(range(size.vision_layers)),
            "initializer_range": size.initializer_range,
        },
        image_token_id=ids[IMAGE_PAD],
        video_token_id=ids[VIDEO_PAD],
        vision_start_token_id=ids[VISION_START],
        vision_end_token_id=ids[VISION_END],
        tie_word_embeddings=True,
    )


def tiny_model(
    tokenizer: Qwen2Tokenizer, *, seed: int, settings: TinySettings | None = None
) -> Qwen2_5_VLForConditionalGeneration:
    """A model with first weights that depend on the seed and the parameter's name alone.

    Matrices are normal with `initializer_range`, biases 0, norms 1.
    """
    size = settings or TinySettings()
    model = Qwen2_5_VLForConditionalGeneration(tiny_config(tokenizer, settings=size))
    model.to(torch.float32)  # type: ignore[arg-type]
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() == 1:
                weight.fill_(0.0 if name.endswith("bias") else 1.0)
                continue
            spread = size.patch_initializer_range if "patch_embed" in name else size.initializer_range
            draw = generator(seed, "tiny_model", name).standard_normal(tuple(weight.shape), dtype=np.float32)
            weight.copy_(torch.from_numpy(draw) * spread)
    pad = token_id(tokenizer, PAD)
    model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
        bos_token_id=pad, pad_token_id=pad, eos_token_id=token_id(tokenizer, END), do_sample=True
    )
    model.eval()  # type: ignore[no-untyped-call]
    return model


def save_folder(model: Qwen2_5_VLForConditionalGeneration, tokenizer: Qwen2Tokenizer, folder: Path) -> None:
    """Write a Hugging Face folder that `AutoModelForImageTextToText` and `AutoProcessor` open.

    The processor's files are written as they stand in Qwen's own folders, by the standard class names:
    building the processor here would need torchvision, which whoever opens the folder may have.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    pictures: dict[str, Any] = {
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": list(MEAN),
        "image_std": list(STD),
        "merge_size": MERGE,
        "patch_size": PATCH,
        "processor_class": "Qwen2_5_VLProcessor",
        "resample": 3,
        "rescale_factor": 1 / 255,
        "size": {"shortest_edge": MIN_PIXELS, "longest_edge": MAX_PIXELS},
        "temporal_patch_size": 2,
    }
    _write(folder / "preprocessor_config.json", {**pictures, "image_processor_type": "Qwen2VLImageProcessor"})
    _write(
        folder / "video_preprocessor_config.json",
        {**pictures, "video_processor_type": "Qwen2VLVideoProcessor"},
    )
    settings = folder / "tokenizer_config.json"
    _write(settings, {**json.loads(settings.read_text()), "processor_class": "Qwen2_5_VLProcessor"})


def _write(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n")
