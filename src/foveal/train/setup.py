"""What a run needs before its first step: the model, the optimizer, the data."""

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import torch

from foveal.boundary import door
from foveal.config import SHIPPED_MODELS, RunConfig
from foveal.data.problems import DataSource, first
from foveal.data.world import Kept, WorldDataConfig
from foveal.policy.model import Policy, load_policy
from foveal.spec import FovealError
from foveal.types import Problem

DONORS = 1024
"""Problems of a world whose pictures may stand in for another's: their pictures, some 60 MB at most, are
kept."""


def policy_of(config: RunConfig) -> Policy:
    """The model of a configuration, on its device."""
    dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[config.model.dtype]
    policy = load_policy(
        resolve_model(config.model.path),
        dtype=dtype,
        attention=config.model.attention,
        head=config.model.head,
        linears=config.model.linears,
        device=resolve_device(config.model.device),
    )
    policy.reuse_features = config.model.reuse_features
    if config.model.freeze_vision:
        policy.family.vision(policy.model).requires_grad_(False)
    return policy


def trained_policy(config: RunConfig) -> Policy:
    """The policy of a run, its activations checkpointed where that is configured."""
    policy = policy_of(config)
    if config.model.gradient_checkpointing:
        model: Any = policy.model
        newer = getattr(model, "activation_checkpointing_enable", None)
        (newer or model.gradient_checkpointing_enable)()
    return policy


def reference_policy(config: RunConfig) -> Policy | None:
    """The frozen reference, where the objective uses one."""
    return policy_of(config).eval().requires_grad_(False) if config.objective.uses_reference else None


FUSED = ("cpu", "cuda", "xpu")
"""Devices whose AdamW goes over memory once; on others torch chooses."""


def adamw(policy: Policy, **settings: Any) -> torch.optim.AdamW:  # noqa: ANN401
    """AdamW over the weights that are trained; `settings` are torch's."""
    return torch.optim.AdamW(
        [p for p in policy.parameters() if p.requires_grad],
        fused=(policy.device.type in FUSED) or None,
        **settings,
    )


def optimizer_of(config: RunConfig, policy: Policy) -> torch.optim.AdamW:
    """The optimizer of a run."""
    settings = config.optimizer
    return adamw(policy, lr=settings.lr, betas=settings.betas, weight_decay=settings.weight_decay)


def resolve_model(path: str) -> str:
    """A folder or hub id; a name of `SHIPPED_MODELS` becomes the folder that ships with the package."""
    if path not in SHIPPED_MODELS:
        return path
    folder = Path(str(resources.files("foveal") / "assets" / path))
    if not (folder / "config.json").is_file():
        raise FovealError(
            f"the model {path!r} is missing from the package ({folder}); make it with "
            f"`foveal worlds coldstart{SHIPPED_MODELS[path]} --out DIR` and pass --model DIR"
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
        torch.zeros(1, device=device).item()  # "meta" has no values to give
    except (RuntimeError, AssertionError, NotImplementedError, ImportError) as error:
        reason = str(error).splitlines()[0]
        raise FovealError(
            f"model.device is {name!r}, which is not usable: {reason}; try device = 'auto'"
        ) from error
    return device


def open_problems(config: DataSource) -> Sequence[Problem]:
    """The problems of a data table.

    Raises: FovealError, when there is none.
    """
    where = getattr(config, "path", config.type)
    with door(f"the data {where} cannot be read", "repair the file, or change [data]"):
        problems = config.load()
    if len(problems) == 0:
        raise FovealError("the data holds no problem; check the file, its split and its limit")
    return problems


def first_problems(config: DataSource, count: int) -> Sequence[Problem]:
    """The first `count` problems of a data table, none made or decoded before it is asked for.

    Raises: FovealError, when there is none.
    """
    problems = first(open_problems(config), count)
    return Kept(problems, DONORS) if isinstance(config, WorldDataConfig) else problems


def largest_group(longest: int, config: RunConfig) -> str:
    """What bounds the memory of an update: the tokens of a group of the longest prompt, held against a row's.

    A row of the update has at most `micro_batch_tokens`, but a prompt with one completion is never cut.
    """
    group, most = config.sampling.group_size, config.sampling.max_new_tokens
    whole, limit = longest + group * most, config.optimizer.micro_batch_tokens
    told = f"its group has up to {whole} tokens ({longest} + {group} x {most})"
    if longest + most > limit:
        return (
            f"{told}, and one completion of it {longest + most}, more than optimizer.micro_batch_tokens = "
            f"{limit}: rows of the update will be longer than that, and memory grows with them"
        )
    rows = -(-group // ((limit - longest) // most))
    return f"{told}: {rows} rows of the update" if rows > 1 else f"{told}, which fit one row of the update"
