"""`foveal.evaluate`."""

import os
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from foveal.api.arguments import EVALUATE_WORDS, folder_of, require_own_words, require_whole
from foveal.api.progress import counter, screen
from foveal.api.rows import fingerprint, is_rows, write_rows
from foveal.api.run import Run
from foveal.api.settings import Rewards, apply_settings, rewards_of, table_of
from foveal.cli.checks import free_stem, make_folder
from foveal.config import RunConfig, load, named_data
from foveal.data.problems import DataSource
from foveal.data.world import WorldDataConfig
from foveal.evaluation.records import Evaluation
from foveal.spec import ConfigError
from foveal.train import assess
from foveal.train.measure import measure

NAME = "foveal.evaluate"


def evaluate(
    model: "str | Path | Run",
    data: Any = None,
    *,
    k: int = 1,
    problems: int = 1000,
    rewards: Rewards | None = None,
    other_picture: bool = True,
    config: str | Path | None = None,
    out: str | Path | None = None,
    progress: bool = True,
    **settings: Any,
) -> Evaluation:
    """Accuracy of a model on problems, with intervals, also with another problem's picture.

    model: a `Run`, a run folder, a model folder, a hub id, or "tiny".
    data: as for `foveal.train`; by default that of the run, worlds held out.
    k: completions per problem; 1 is one greedy completion, more are sampled (avg@k).
    problems: at most so many.
    rewards: as for `foveal.train`; by default those of the run, or 0.9 accuracy + 0.1 format. The first that
        says whether an answer is right makes the accuracy.
    other_picture: whether to ask each question over another problem's picture too: a model that does not look
        is right as often.
    config: a shipped config or TOML file with [data], [[rewards]], [sampling].
    out: a folder for NAME.json and NAME.jsonl.
    settings: any field of a config, as for `foveal.train`, such as `sampling={"max_new_tokens": 512}`.

    Returns: the evaluation; `.accuracy` has value, low and high, `.summary` everything, `.records` a line per
    problem.
    Raises: FovealError for what a user can mend.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    _require_arguments(settings, k=k, problems=problems, out=out)
    path = str(model.path) if isinstance(model, Run) else str(_model(model))
    in_memory: str | None = None
    with tempfile.TemporaryDirectory(prefix="foveal-") as scratch, screen(progress) as shown:
        table = table_of(config) if config is not None else _table(model, path, data is None)
        apply_settings(table, settings, message=shown.message)
        if rewards is not None:
            table["rewards"] = rewards_of(rewards)
        if data is not None:
            if is_rows(data):
                data = write_rows(data, Path(scratch), name="evaluation")
                in_memory = fingerprint(Path(scratch))
            table["data"] = _source(table, data)
        found = load(table, model=assess.model_folder(path), message=shown.message, name=NAME)
        if isinstance(found.data, WorldDataConfig) and not _chooses_split(settings, data):
            found = found.model_copy(update={"data": found.data.model_copy(update={"split": "heldout"})})
        elif data is None and config is None and not isinstance(found.data, WorldDataConfig):
            shown.message(
                f"the data is that of {path}, on which it was trained; name other problems with data="
            )
        asked: dict[str, Any] = {
            "k": k,
            "problems": problems,
            "other_picture": other_picture,
            "in_memory": in_memory,
        }
        return _assess(found, path, progress=progress, out=out, **asked)


def _require_arguments(settings: Mapping[str, Any], *, k: Any, problems: Any, out: Any) -> None:
    require_own_words(settings, words=EVALUATE_WORDS, known=tuple(RunConfig.model_fields), name=NAME)
    require_whole(k, name=f"{NAME}: k")
    require_whole(problems, name=f"{NAME}: problems")
    if out is not None:
        make_folder(folder_of(out, name=NAME), option="out")


def _table(model: "str | Path | Run", path: str, own_data: bool) -> dict[str, Any]:
    table = assess.evaluation_table(path, other_data=not own_data)
    if isinstance(model, Run) and model.given is not None:
        # Functions of a notebook are known to the run that they were given to.
        table["rewards"] = list(model.given.rewards)
    return table


def _model(model: object) -> str:
    expected = "a foveal.Run, a run folder, a model folder, a hub id, or 'tiny'"
    if not isinstance(model, str | Path):
        raise ConfigError(f"{NAME}: model is a {type(model).__name__}; expected {expected}")
    if not str(model).strip():
        raise ConfigError(f"{NAME}: model is empty; expected {expected}")
    return str(model)


def _source(table: Mapping[str, Any], data: Any) -> Any:
    if isinstance(data, DataSource):
        return data
    if isinstance(data, Mapping):
        return dict(data)
    before = table.get("data")
    return named_data(before if isinstance(before, Mapping) else {}, str(data))


def _chooses_split(settings: Mapping[str, Any], data: Any) -> bool:
    table = settings.get("data")
    named = {"data__split", "data.split"} & set(settings)
    return (
        bool(named)
        or isinstance(data, DataSource)
        or any(isinstance(part, Mapping) and "split" in part for part in (table, data))
    )


def _assess(
    config: RunConfig,
    path: str,
    *,
    k: int,
    problems: int,
    other_picture: bool,
    progress: bool,
    out: str | Path | None,
    in_memory: str | None,
) -> Evaluation:
    torch.set_num_threads(int(measure(threads=config.threads)["threads"]))
    with counter(progress, "evaluating") as tick:
        found = assess.assess(
            config,
            samples=0 if k == 1 else k,
            limit=problems,
            progress=tick,
            name=path,
            other_picture=other_picture,
        )
    if in_memory is not None:
        found = replace(found, data={**found.data, "path": in_memory})
    if out is not None:
        found.save(free_stem(Path(out), assess.evaluation_name(path)))
    return found
