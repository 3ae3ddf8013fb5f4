"""From a problem to what the model reads: chat template, picture patches, expanded placeholders.

The processor classes of transformers need a torchvision that matches torch; this one needs only the tokenizer
and the PIL image processor of the folder, so a folder reads the same on every machine.
"""

import weakref
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image as Images
from PIL.Image import Image
from torch import Tensor
from transformers import AutoTokenizer
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil, smart_resize

from foveal.boundary import door
from foveal.perturbations.pictures import to_rgb
from foveal.policy.families import Family
from foveal.policy.soundness import read_table, require_picture_settings
from foveal.policy.template import require_bounded
from foveal.ranges import PICTURES, spanned
from foveal.spec import FovealError
from foveal.types import IMAGE_MARK, Problem, Prompt

CACHED_PROBLEMS = 256
"""Encoded problems kept: sampling and scoring of a step read the same pictures."""

CACHED_BYTES = 1 << 28
"""Bytes of their patches: a large picture has 80 MB of them."""

PROCESSOR_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
)
"""Files beside the weights that an exported folder takes over unchanged."""


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """A prompt and the patches of its clean pictures."""

    prompt: Prompt
    pixels: Tensor


class Processor:
    """Tokenizer, chat template and picture preprocessing of a model folder."""

    def __init__(self, folder: Path, family: Family) -> None:
        self.folder = folder
        self.family = family
        local: Any = {"trust_remote_code": False, "local_files_only": True}
        with door(
            f"the tokenizer or the picture settings of {folder} cannot be read",
            "expected tokenizer.json and preprocessor_config.json (or processor_config.json) beside the "
            "weights",
        ):
            self.tokenizer: Any = AutoTokenizer.from_pretrained(folder, **local)
            self._images: Any = Qwen2VLImageProcessorPil.from_pretrained(folder, local_files_only=True)
        require_picture_settings(
            self._images, patch=family.patch, merge=family.merge, temporal=family.temporal, folder=folder
        )
        self._check_template()
        self.end_ids = _end_ids(folder, self.tokenizer)
        self.pad_id = int(
            self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else self.end_ids[0]
        )
        self._banned = tuple(self.tokenizer.convert_ids_to_tokens(list(family.banned_token_ids())))
        self._cache: OrderedDict[int, tuple[weakref.ref[Problem], Encoded]] = OrderedDict()
        self._cached_bytes = 0
        self._least = 1

    def _check_template(self) -> None:
        """Raises: FovealError, when there is no chat template, or it fails on a message with a picture, or
        does not end."""
        tokenizer, folder = self.tokenizer, self.folder
        if tokenizer.chat_template is None:
            tokenizer.chat_template = _chat_template(folder)
        content = [{"type": "image"}, {"type": "text", "text": "What is this?"}]
        messages = [{"role": "user", "content": content}]
        with door(
            f"the chat template of {folder} fails", "take that of the model that this one was made from"
        ):
            template = tokenizer.get_chat_template()
            require_bounded(template, messages, folder=folder, tokens=tokenizer.special_tokens_map)
            tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)

    def keep(self, problems: int) -> None:
        """Keep so many encoded problems whatever they take: those of a step, which its batch holds anyway."""
        self._least = problems

    @spanned(PICTURES)
    def encode(self, problem: Problem, pictures: tuple[Tensor, Tensor] | None = None) -> Encoded:
        """The prompt with its placeholders expanded, and the clean pictures' patches.

        `pictures`: what `pixels` gives for them, where it was made beforehand.
        Raises: FovealError, when the text holds placeholders of its own.
        """
        # By object, for as long as it lives: a step may hold a problem twice, each with a prompt of its own.
        kept = self._cache.get(id(problem))
        found = None if kept is None or kept[0]() is not problem else kept[1]
        if found is None:
            pixels, grids = pictures or self.pixels(problem.images)
            found = Encoded(prompt=self.prompt(problem, grids), pixels=pixels)
        for key in [key for key, (of, _) in self._cache.items() if of() is None or of() is problem]:
            self._drop(key)
        self._cache[id(problem)] = weakref.ref(problem), found
        self._cached_bytes += found.pixels.nbytes
        while len(self._cache) > self._least and (
            len(self._cache) > CACHED_PROBLEMS or self._cached_bytes > CACHED_BYTES
        ):
            self._drop(next(iter(self._cache)))
        return found

    def _drop(self, key: int) -> None:
        _, found = self._cache.pop(key)
        self._cached_bytes -= found.pixels.nbytes

    def prompt(self, problem: Problem, grids: Tensor) -> Prompt:
        """Token ids and positions of a problem whose pictures have these patch grids [images, 3]."""
        text_ids = self._text_ids(problem, pictures=len(grids))
        image_id = self.family.image_token_id
        counts = self.family.visual_tokens(grids).tolist()
        if text_ids.count(image_id) != len(counts):
            raise FovealError(
                f"problem {problem.id!r}: its prompt holds {text_ids.count(image_id)} picture placeholders "
                f"for {len(counts)} pictures; expected one each; check the chat template of {self.folder}"
            )
        remaining = iter(counts)
        expanded: list[int] = []
        for token in text_ids:
            expanded.extend([token] * next(remaining) if token == image_id else [token])
        token_ids = torch.tensor(expanded)
        position_ids, next_position = self.family.positions(token_ids, grids)
        return Prompt(
            problem_id=problem.id,
            token_ids=token_ids,
            position_ids=position_ids,
            next_position=next_position,
            image_mask=token_ids == image_id,
            grids=grids,
        )

    def prompt_length(self, problem: Problem, sizes: Sequence[tuple[int, int]]) -> int:
        """Tokens of a prompt, visual ones too, whose pictures have these (width, height); reads no pixels."""
        grids = torch.tensor([self.grid(size) for size in sizes], dtype=torch.long).reshape(-1, 3)
        text_ids = self._text_ids(problem, pictures=len(sizes))
        return len(text_ids) - len(sizes) + int(self.family.visual_tokens(grids).sum())

    def grid(self, size: tuple[int, int]) -> tuple[int, int, int]:
        """Patch grid (time, height, width) of a picture of (width, height) pixels."""
        patch, merge = self.family.patch, self.family.merge
        limits = self._images.size
        try:
            height, width = smart_resize(
                size[1],
                size[0],
                factor=patch * merge,
                min_pixels=limits["shortest_edge"],
                max_pixels=limits["longest_edge"],
            )
        except ValueError as error:
            raise FovealError(
                f"a picture of {size[0]} x {size[1]} pixels is too narrow: {error}; crop it or leave it "
                f"out of the data"
            ) from error
        return 1, height // patch, width // patch

    def fitted(self, image: Image) -> Image:
        """The picture in RGB at the size that the model sees, resized as `pixels` does it."""
        self.grid(image.size)
        picture = to_rgb(image)
        if not self._images.do_resize:
            return picture
        resized = self._images.resize(
            np.moveaxis(np.asarray(picture), -1, 0),
            size=self._images.size,
            resample=self._images.resample,
            factor=self.family.patch * self.family.merge,
        )
        return Images.fromarray(np.ascontiguousarray(np.moveaxis(resized, 0, -1)))

    @spanned(PICTURES)
    def pixels(self, images: Sequence[Image], *, fitted: bool = False) -> tuple[Tensor, Tensor]:
        """Patches [n, features] of all pictures, stacked, and their grids [images, 3].

        `fitted` pictures, from `fitted`, are not resized again: of very long ones a second fitting would
        change the size, or refuse it.
        """
        if not images:
            features = 3 * self._images.temporal_patch_size * self.family.patch**2
            return torch.zeros(0, features), torch.zeros(0, 3, dtype=torch.long)
        if not fitted:
            for image in images:
                self.grid(image.size)
        resize = self._images.do_resize and not fitted
        found = self._images(
            images=[to_rgb(image) for image in images], do_resize=resize, return_tensors="pt"
        )
        return found["pixel_values"], found["image_grid_thw"]

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of a completion, without special tokens."""
        text: str = self.tokenizer.decode(list(token_ids), skip_special_tokens=True)
        return text

    def _text_ids(self, problem: Problem, *, pictures: int) -> list[int]:
        told = [problem.system or "", *(turn.text for turn in problem.turns), problem.question]
        own = [token for token in self._banned if any(token in text for text in told)]
        if own:
            raise FovealError(
                f"problem {problem.id!r}: its prompt holds the special token {own[0]!r}; expected "
                f"{IMAGE_MARK} where a picture stands; take the token out of the text"
            )
        if problem.marks != pictures:
            raise FovealError(
                f"problem {problem.id!r}: {problem.marks} {IMAGE_MARK} marks for {pictures} pictures; "
                f"expected one mark per picture"
            )
        text = self.tokenizer.apply_chat_template(
            messages(problem), tokenize=False, add_generation_prompt=True
        )
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids


def messages(problem: Problem) -> list[dict[str, Any]]:
    """The turns of a prompt as chat templates read them: system prompt, earlier turns, question."""
    turns = [(turn.role, turn.text) for turn in problem.turns] + [("user", problem.question)]
    found = [{"role": role, "content": _parts(text)} for role, text in turns]
    if problem.system is None:
        return found
    return [{"role": "system", "content": [{"type": "text", "text": problem.system}]}, *found]


def _parts(text: str) -> list[dict[str, str]]:
    """Text as parts: a part of type image for each mark, and the text between the marks without outer spaces.

    A line that begins behind a picture in the text stays a line: options that are pictures have one each.
    """
    parts: list[dict[str, str]] = []
    begun = False
    for index, piece in enumerate(text.split(IMAGE_MARK)):
        if index:
            parts.append({"type": "image"})
        if piece.strip():
            line = "\n" if begun and piece.lstrip(" \t").startswith("\n") else ""
            parts.append({"type": "text", "text": line + piece.strip()})
            begun = True
    return parts


def _chat_template(folder: Path) -> str:
    """The chat template that older folders keep in a file of its own."""
    file = folder / "chat_template.json"
    if file.is_file():
        found = read_table(file).get("chat_template")
        if isinstance(found, str):
            return found
    raise FovealError(
        f"the model folder {folder} has no chat template; expected `chat_template` in tokenizer_config.json, "
        f"chat_template.jinja or chat_template.json"
    )


def _end_ids(folder: Path, tokenizer: Any) -> tuple[int, ...]:  # noqa: ANN401
    """Tokens that end a completion: those of generation_config.json, else the tokenizer's."""
    file = folder / "generation_config.json"
    found: Any = read_table(file).get("eos_token_id") if file.is_file() else None
    if found is None:
        found = tokenizer.eos_token_id
    if found is None:
        raise FovealError(
            f"the model folder {folder} names no end token; expected eos_token_id in "
            f"generation_config.json or an eos_token of the tokenizer"
        )
    return tuple(found) if isinstance(found, list) and found else (found,)
