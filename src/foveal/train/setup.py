"""What a run needs before its first step: the model's place, the data, and the checks that name the guilty row."""

from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path

import torch

from foveal.config import TINY_MODEL, RunConfig
from foveal.data import DataConfig
from foveal.policy.model import Policy, load_policy
from foveal.policy.processing import Processor
from foveal.spec import FovealError
from foveal.types import Problem

CHECKED_PROBLEMS = 5000
"""Problems whose prompt length is checked before the first step; later ones are checked when they are drawn."""


def policy_of(config: RunConfig) -> Policy:
    """The model of a configuration, on its device."""
    dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[config.model.dtype]
    return load_policy(
        resolve_model(config.model.path),
        dtype=dtype,
        attention=config.model.attention,
        device=resolve_device(config.model.device),
    )


def resolve_model(path: str) -> str:
    """A folder or hub id; "tiny" becomes the folder that ships with the package."""
    if path != TINY_MODEL:
        return path
    folder = Path(str(resources.files("foveal") / "assets" / "tiny"))
    if not (folder / "config.json").is_file():
        raise FovealError(
            f"the tiny model is missing from the package ({folder}); make it with `foveal worlds coldstart --out DIR` "
            f"and pass --model DIR"
        )
    return str(folder)


def resolve_device(name: str) -> torch.device:
    """The named device; "auto" takes the first accelerator, else the CPU.

    Raises: FovealError for a device that is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise FovealError(
            f"model.device is {name!r}, which is not usable: {reason}; try device = 'auto'"
        ) from error
    return device


def open_problems(config: DataConfig) -> Sequence[Problem]:
    """The problems of a data table.

    Raises: FovealError, when there is none.
    """
    problems = config.load()
    if len(problems) == 0:
        raise FovealError("the data holds no problem; check the file, its split and its limit")
    return problems


def check_problems(
    problems: Sequence[Problem], processor: Processor, *, limit: int, message: Callable[[str], None]
) -> int:
    """Prompt lengths, visual tokens counted, of the first problems; returns the longest.

    Raises: FovealError, naming the problem whose prompt is longer than `limit`.
    """
    count = min(len(problems), CHECKED_PROBLEMS)
    longest, worst = 0, ""
    for index in range(count):
        problem = problems[index]
        length = processor.prompt_length(problem, [image.size for image in problem.images])
        if length > longest:
            longest, worst = length, problem.id
        if length > limit:
            sizes = ", ".join(f"{image.size[0]} x {image.size[1]}" for image in problem.images) or "none"
            raise FovealError(
                f"problem {problem.id!r}: its prompt has {length} tokens, visual ones counted (pictures: {sizes} pixels), "
                f"more than sampling.max_prompt_tokens = {limit}; raise it, lower data.max_image_pixels, or drop the row"
            )
    message(f"{count} prompts checked; the longest has {longest} tokens ({worst})")
    return longest
