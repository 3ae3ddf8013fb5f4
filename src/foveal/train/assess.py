"""Evaluation of a configuration's model on its data, outside training."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from foveal.config import SHIPPED_MODELS, RunConfig, load
from foveal.data.bad_rows import counts
from foveal.data.world import WorldDataConfig
from foveal.evaluation.records import Evaluation
from foveal.evaluation.run import evaluate
from foveal.policy.checkpoint import MODEL_FOLDER, latest_checkpoint
from foveal.policy.model import Policy
from foveal.rewards.grading import Grader
from foveal.rollout.local import LocalEngine
from foveal.spec import FovealError
from foveal.tables import add_plugin_folder, read_table
from foveal.train.record import CONFIG, import_paths
from foveal.train.reopen import moved
from foveal.train.setup import first_problems, policy_of
from foveal.train.usable import check_problems
from foveal.train.validate import BATCH, judge_of
from foveal.types import Problem

DEFAULTS: Mapping[str, Any] = {
    "objective": {"type": "grpo"},
    "rewards": [{"type": "boxed", "weight": 0.9}, {"type": "format", "weight": 0.1}],
}
"""What an evaluation without a config does: the papers' rewards. The objective plays no part in it."""

RUN_TABLES = ("model", "data", "sampling", "rewards", "grading")
"""What an evaluation of a run takes from the run's config: not what only training needs."""

CHECKPOINT_DEPTH = 3
"""RUN/checkpoints/step-N/model."""


def evaluation_config(
    source: Path | None,
    *,
    overrides: Sequence[str],
    model: str,
    data: str | None,
    message: Callable[[str], None],
) -> RunConfig:
    """The configuration of an evaluation: that of `source`, else what the run of `model` says.

    A run folder gives `RUN_TABLES` of its config. Worlds are held out, whatever a config says, unless an
    override sets data.split: the config of a run names the problems it is trained on.
    Raises: FovealError as `load`, and for a run without a checkpoint.
    """
    table: Path | dict[str, Any] = source or evaluation_table(model, other_data=data is not None)
    run = run_of(model)
    config = load(table, overrides=overrides, model=model_folder(model), data=data)
    own_split = any(_sets_split(override) for override in overrides)
    if isinstance(config.data, WorldDataConfig):
        if not own_split:
            heldout = config.data.model_copy(update={"split": "heldout"})
            config = config.model_copy(update={"data": heldout})
    elif run is not None and source is None and data is None:
        message(
            f"the data is that of {run / CONFIG}, on which it was trained; name other problems with --data"
        )
    return config


def evaluation_table(model: str, *, other_data: bool) -> dict[str, Any]:
    """What an evaluation without a config starts from: what the run of the model says, else the papers'
    rewards.

    Raises: FovealError, when the run cannot be read.
    """
    run = run_of(model)
    return {**DEFAULTS} if run is None else {**DEFAULTS, **_run_table(run, other_data=other_data)}


def _run_table(run: Path, *, other_data: bool) -> dict[str, Any]:
    for place in import_paths(run):
        add_plugin_folder(Path(place))
    found = moved(read_table(run / CONFIG), run)
    table = {name: found[name] for name in RUN_TABLES if name in found}
    if other_data and "data" in table:
        # Columns may be alike, but a split and a limit belong to the data of the run.
        table["data"] = {key: value for key, value in table["data"].items() if key not in ("split", "limit")}
    return table


def _sets_split(override: str) -> bool:
    key, _, value = override.partition("=")
    return key.strip() == "data.split" or (key.strip() == "data" and "split" in value)


def run_of(path: str) -> Path | None:
    """The run folder that a model belongs to: itself, or that of a checkpoint; None for any other model."""
    folder = Path(path).resolve()
    if not folder.is_dir():
        return None
    for place in (folder, *folder.parents[:CHECKPOINT_DEPTH]):
        inside = place == folder or (place / "checkpoints") in folder.parents
        if inside and (place / CONFIG).is_file() and (place / "checkpoints").is_dir():
            return place
    return None


def model_folder(path: str) -> str:
    """A run folder stands for its newest checkpoint's model; anything else stands for itself."""
    folder = Path(path)
    if (folder / MODEL_FOLDER / "config.json").is_file():
        return str(folder / MODEL_FOLDER)
    if (folder / "checkpoints").is_dir():
        newest = latest_checkpoint(folder / "checkpoints")
        if newest is None:
            raise FovealError(
                f"the run {folder} has no checkpoint yet; go on with foveal train --resume {folder}"
            )
        return str(newest / MODEL_FOLDER)
    return path


def evaluation_name(model: str) -> str:
    """A file name for the evaluation of a model: its folder's name, RUN-CHECKPOINT for a run's checkpoint."""
    folder, run = Path(model).resolve(), run_of(model)
    parts = [folder.name]
    if run is not None:
        inner = [p for p in folder.relative_to(run).parts if p not in ("checkpoints", MODEL_FOLDER)]
        parts = [run.name, *inner]
    return re.sub(r"[^\w.-]+", "_", "-".join(parts)).strip("._") or "model"


def assess(
    config: RunConfig,
    *,
    samples: int,
    limit: int,
    progress: Callable[[int, int], None] | None = None,
    message: Callable[[str], None] = lambda text: None,
    name: str = "",
    method: str = "",
    seed: int | None = None,
    other_picture: bool = True,
) -> Evaluation:
    """Greedy (`samples` 0) or avg@k on the first `limit` problems of the configuration's data."""
    policy = policy_of(config)
    problems = first_problems(config.data, limit)
    usable = check_problems(problems, policy.processor, config, config.data, message=message)
    found = assess_policy(
        policy,
        config,
        usable.problems,
        samples=samples,
        progress=progress,
        name=name,
        method=method,
        seed=seed,
        other_picture=other_picture,
    )
    return replace(found, bad_rows=counts(usable.choice.bad))


def assess_policy(
    policy: Policy,
    config: RunConfig,
    problems: Sequence[Problem],
    *,
    samples: int,
    progress: Callable[[int, int], None] | None,
    name: str,
    method: str,
    seed: int | None,
    other_picture: bool,
) -> Evaluation:
    """Evaluate a loaded policy."""
    judge, other = judge_of(config.data)
    with Grader(config.rewards, config.grading) as grader:
        grader.start()
        return evaluate(
            LocalEngine(policy, decode=config.sampling.decode),
            problems,
            grader=grader,
            k=max(1, samples),
            greedy=samples == 0,
            temperature=config.sampling.temperature,
            max_new_tokens=config.sampling.max_new_tokens,
            batch_size=BATCH,
            key=(config.seed, "evaluation"),
            other_picture=other if other_picture else False,
            judge=judge,
            progress=progress,
            name=name,
            method=method,
            seed=seed,
            model=_placed(config.model.path),
            data=_data_of(config),
        )


def _data_of(config: RunConfig) -> dict[str, Any]:
    """The settings of the data as an evaluation records them."""
    found = config.data.model_dump(mode="json", exclude_none=True)
    return {**found, "path": _placed(found["path"])} if isinstance(found.get("path"), str) else found


def _placed(path: str) -> str:
    """A path on this machine from its root on: a file with results outlives the working directory. A hub id
    and the name of a shipped model stay as they are."""
    place = Path(path).expanduser()
    return str(place.absolute()) if path not in SHIPPED_MODELS and place.exists() else path
