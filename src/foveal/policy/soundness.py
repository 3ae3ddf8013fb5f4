"""Whether a model folder is what it should be, before and after transformers reads it.

Anyone may have written the folder. Its small files are read here first: a list in place of a table, a pipe in
place of a file, or 10^9 layers would end somewhere inside transformers, without a word about the file.
"""

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from logging import ERROR
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from safetensors import safe_open
from torch import nn
from transformers import AutoConfig
from transformers.utils import logging

from foveal.boundary import door
from foveal.policy.families.base import require_family
from foveal.spec import FovealError
from foveal.text import shortened
from foveal.types import IMAGE_MARK, Problem

if TYPE_CHECKING:
    from foveal.policy.model import Policy

TABLES = (
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.json",
    "model.safetensors.index.json",
)
"""Files that hold a JSON table, where they are there."""

TABLE_BYTES = 32 << 20
"""The longest of them: an index of 10^5 tensors has 10 MB."""

SIZES = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "vocab_size",
    "depth",
    "num_heads",
    "out_hidden_size",
    "patch_size",
    "spatial_merge_size",
    "temporal_patch_size",
    "window_size",
)
"""Keys of config.json, its tables included, that count or measure something of the model."""

LAYERS = ("num_hidden_layers", "depth")

MOST_LAYERS, MOST_OF_ANYTHING = 10_000, 1 << 31
"""Beyond all models: transformers makes lists of so many entries before it reads a weight."""

AGAIN = "fetch or export the folder again"

LEAST_PIXELS = 1 << 24
"""A picture that is scaled up to more pixels than this is a mistake in the settings."""

ODD = (TypeError, AttributeError, ZeroDivisionError)
"""What an adapter raises over a config whose values are of other types than they should be."""

RUNNING = (RuntimeError, IndexError, ZeroDivisionError)
"""What torch raises in our own lines where the sizes of a model do not fit each other."""


def config_of(folder: Path, *, where: str) -> Any:  # noqa: ANN401
    """The config of a model folder; `where` is what the user called it.

    Raises: FovealError, when a file of the folder is not what it should be, or the model is of no family
    known here.
    """
    table = _tables(folder)["config.json"]
    require_family(table.get("model_type"), pictures=table.get("vision_config") is not None, where=where)
    for place, value in _sizes(table):
        most = MOST_LAYERS if place.rpartition(".")[2] in LAYERS else MOST_OF_ANYTHING
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= most:
            raise FovealError(
                f"{folder / 'config.json'}: {place} = {shortened(repr(value), 60)}; expected a whole number "
                f"from 1 to {most}; {AGAIN}"
            )
    with door(f"the model folder {where} cannot be read", AGAIN):
        return AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Without transformers' own report of a load, which names tensors as the folder does: what matters of it
    is an error of ours."""
    before = logging.get_verbosity()
    logging.set_verbosity(ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _tables(folder: Path) -> dict[str, Mapping[str, Any]]:
    with door(f"the model folder {folder} cannot be read", "check its permissions"):
        entries = [entry for entry in sorted(folder.iterdir()) if entry.exists()]
        odd = [entry for entry in entries if not (entry.is_file() or entry.is_dir())]
    for entry in odd:
        raise FovealError(f"{entry} is neither a file nor a folder; expected the files of a model; {AGAIN}")
    return {name: read_table(folder / name) for name in TABLES if (folder / name).exists()}


def read_table(file: Path) -> Mapping[str, Any]:
    """A JSON table. Raises: FovealError, when the file is none, or far too long to be one."""
    with door(f"{file} cannot be read", f"expected a JSON table; {AGAIN}"):
        if file.stat().st_size > TABLE_BYTES:
            raise FovealError(f"{file} has {file.stat().st_size >> 20} MB; expected a JSON table; {AGAIN}")
        found = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(found, dict):
        kind = type(found).__name__
        raise FovealError(f"{file} holds a JSON {kind}; expected a table; {AGAIN}")
    return found


def _sizes(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, object]]:
    for name, value in table.items():
        if name in SIZES and value is not None:
            yield prefix + name, value
        elif isinstance(value, dict) and not prefix:
            yield from _sizes(value, f"{name}.")


def require_weights(folder: Path, *, where: str) -> None:
    """Raises: FovealError, when there are no whole weights, or config.json counts more than they can hold."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        others = [path.name for path in sorted(folder.glob("*.bin"))]
        hint = f" ({others[0]} is a pickle, which can hold code and is not read)" if others else ""
        raise FovealError(
            f"the model folder {where} has no weights in .safetensors files{hint}; expected "
            f"model.safetensors; convert or {AGAIN}"
        )
    tensors, numbers = 0, 0
    for file in files:
        with door(f"the weights in {where} cannot be loaded: {file.name} is damaged", AGAIN):
            with safe_open(file, framework="pt") as stored:
                shapes = [stored.get_slice(name).get_shape() for name in stored.keys()]  # noqa: SIM118
        tensors += len(shapes)
        numbers += sum(math.prod(shape) for shape in shapes)
    for place, value in _sizes(read_table(folder / "config.json")):
        most = tensors if place.rpartition(".")[2] in LAYERS else max(numbers, 1 << 16)
        if isinstance(value, int) and value > most:
            raise FovealError(
                f"{folder / 'config.json'}: {place} = {value}, but the weights hold {tensors} tensors with "
                f"{numbers} numbers; {AGAIN}"
            )


def require_finite_weights(model: nn.Module, *, where: str) -> None:
    """Raises: FovealError for a weight that is NaN or infinite: whatever is computed with it is, too."""
    bad = []
    for name, weight in model.named_parameters():
        if weight.numel() and not all(bool(end.isfinite()) for end in torch.aminmax(weight.detach())):
            bad.append(name)
    if bad:
        raise FovealError(
            f"the model in {where} is broken: {len(bad)} of its weights are not finite, such as {bad[0]!r}; "
            f"take an earlier checkpoint, or {AGAIN}"
        )


def require_vocabulary(policy: "Policy", *, where: str) -> None:
    """Raises: FovealError, when a token that the folder names has no row in the model's embedding."""
    rows = min(
        len(policy.family.head(policy.model)[0]),
        policy.model.get_input_embeddings().weight.shape[0],  # type: ignore[operator]
    )
    processor = policy.processor
    named = {
        "eos_token_id of generation_config.json or the tokenizer": processor.end_ids,
        "pad token of the tokenizer": (processor.pad_id,),
        "picture tokens of config.json": (policy.family.image_token_id, *policy.family.banned_token_ids()),
        "largest token of the tokenizer": (len(processor.tokenizer) - 1,),
    }
    for name, ids in named.items():
        for token in ids:
            if isinstance(token, bool) or not isinstance(token, int) or not 0 <= token < rows:
                raise FovealError(
                    f"the model in {where}: the {name} is {shortened(repr(token), 60)}, and its embedding "
                    f"has {rows} rows; expected a whole number from 0 to {rows - 1}; {AGAIN}"
                )


def require_picture_settings(images: Any, *, patch: int, merge: int, temporal: int, folder: Path) -> None:  # noqa: ANN401
    """Raises: FovealError, when pictures would be cut otherwise than the vision tower takes them."""
    where = f"the picture settings of {folder} (preprocessor_config.json or processor_config.json)"
    for name, wanted in (("patch_size", patch), ("merge_size", merge), ("temporal_patch_size", temporal)):
        found = getattr(images, name, None)
        if found != wanted or isinstance(found, bool):
            raise FovealError(
                f"{where} have {name} = {shortened(repr(found), 60)}, the vision_config of its config.json "
                f"has {wanted}; expected the same; {AGAIN}"
            )
    size: Any = images.size
    try:
        least, most = size["shortest_edge"], size["longest_edge"]
        right = type(least) is int and type(most) is int and 0 < least <= min(most, LEAST_PIXELS)
    except (TypeError, KeyError):
        right = False
    if not right:
        raise FovealError(
            f"{where} have size = {shortened(repr(size), 100)}; expected the least and the largest number of "
            f"pixels, such as shortest_edge = 3136, longest_edge = 1003520; {AGAIN}"
        )


def try_out(policy: "Policy", *, where: str) -> None:
    """Run one short prompt with a picture: what does not fit raises here, before a run has a folder.

    Raises: FovealError, when it does not run, or gives no numbers.
    """
    picture = Image.new("RGB", (56, 56), "grey")
    problem = Problem(id="trial", question=f"{IMAGE_MARK} What is this?", images=(picture,), answer="grey")
    with door(
        f"the model in {where} does not run", f"its files do not fit each other; {AGAIN}", also=RUNNING
    ):
        encoded = policy.processor.encode(problem)
        if not bool(encoded.pixels.isfinite().all()):
            raise ValueError("the picture settings make numbers of a picture that are not finite")
        states, _ = policy.prefill([encoded])
        weight, bias = policy.family.head(policy.model)
        logits = torch.nn.functional.linear(states.to(weight.dtype), weight, bias)
    if not bool(logits.detach().isfinite().all()):
        raise FovealError(
            f"the model in {where} gives logits that are not finite for a short prompt; take model.dtype = "
            f"'float32', an earlier checkpoint, or {AGAIN}"
        )
