"""How a model reads a problem, without its weights: to measure and to show prompts."""

from collections.abc import Sequence

import torch

from foveal.boundary import door
from foveal.policy.families import family_of
from foveal.policy.folder import local_folder
from foveal.policy.processing import Processor
from foveal.policy.soundness import AGAIN, ODD, config_of
from foveal.types import Problem


def load_processor(path: str) -> Processor:
    """The processor of a model folder or hub id; of the hub's files only the small ones are fetched.

    Raises: FovealError, when there is no such model, or one that cannot be read.
    """
    folder = local_folder(path, setting="--model", weights=False)
    config = config_of(folder, where=path)
    with door(f"the config.json of {path} is not that of a {config.model_type} model", AGAIN, also=ODD):
        family = family_of(config, where=path)
    return Processor(folder, family)


def prompt_text(
    processor: Processor, problem: Problem, sizes: Sequence[tuple[int, int]]
) -> tuple[str, int, int]:
    """A prompt as the model reads it, special tokens included; its tokens, and the visual ones of these.

    Each run of a picture's placeholders is written once, in brackets with their number. `sizes`: (width,
    height) of the problem's pictures, which are not needed themselves.
    """
    grids = torch.tensor([processor.grid(size) for size in sizes], dtype=torch.long).reshape(-1, 3)
    ids: list[int] = processor.prompt(problem, grids).token_ids.tolist()
    visual = processor.family.image_token_id
    parts: list[str] = []
    start = 0
    while start < len(ids):
        end = start + 1
        while end < len(ids) and (ids[end] == visual) == (ids[start] == visual):
            end += 1
        if ids[start] == visual:
            parts.append(f"[{processor.tokenizer.decode([visual])} x {end - start}]")
        else:
            parts.append(processor.tokenizer.decode(ids[start:end], skip_special_tokens=False))
        start = end
    return "".join(parts), len(ids), ids.count(visual)
