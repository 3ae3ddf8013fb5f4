"""`foveal.train` and `foveal.resume`."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from foveal.api.arguments import TRAIN_WORDS, callbacks_of, folder_of, require_own_words
from foveal.api.progress import screen
from foveal.api.rows import RowsFolder, is_rows, kept_if_started, write_rows
from foveal.api.run import Run, place_of_run
from foveal.api.settings import (
    Message,
    Rewards,
    Table,
    apply_settings,
    as_list,
    put_objective,
    rewards_of,
    table_of,
)
from foveal.cli.checks import free_folder
from foveal.config import DEFAULTS, WORLD, RunConfig, ValidationConfig, load, named_data
from foveal.data.problems import DataSource
from foveal.rewards.adapters import provided
from foveal.spec import Component, ConfigError
from foveal.switches import settle_validation
from foveal.train import loop
from foveal.train.record import RunFolder
from foveal.train.reopen import run_config
from foveal.train.stop import Interrupted
from foveal.train.watcher import AnyCallback, Callbacks

NAME = "foveal.train"


def train(
    *,
    data: Any = None,
    model: str | Path | None = None,
    objective: Any = None,
    rewards: Rewards | None = None,
    validation: Any = None,
    callbacks: Sequence[AnyCallback] | AnyCallback = (),
    out: str | Path | None = None,
    config: str | Path | Mapping[str, Any] | None = None,
    progress: bool = True,
    **settings: Any,
) -> Run:
    """Train a model, and return the run.

    data: a path or hub id, "world" (procedural problems), a list of dicts with question, images and answer, a
        `datasets.Dataset`, a DataFrame, or a list of `foveal.Problem`. What was in memory is written to the
        run folder, so that the run can be resumed.
    model: a Hugging Face folder or hub id; by default "tiny", the checkpoint that ships with the package.
    objective: a name such as "papo", a dict with a `type`, or an object such as
        `foveal.PAPO(kl_prcp_coef=0.02)`. By default PAPO with the settings of its paper's 3B runs.
    rewards: one or several: a name ("boxed"), a dict, a function, or an object derived from `foveal.Reward`.
        By default 0.9 accuracy + 0.1 format, as the papers train.
    validation: held-out data in the same forms, or a dict such as {"data": ..., "every": 10}; False switches
        off that of a config.
    callbacks: objects derived from `foveal.Callback`, or functions called with the metrics of each step; the
        answer "stop" ends the run after this step, with everything saved.
    out: the run folder; by default a new one below runs/.
    config: the name of a shipped config, a TOML file or a dict to start from.
    progress: whether to say on stderr what goes on.
    settings: any field of a config: `steps=100, optimizer={"lr": 1e-5}`, or `optimizer__lr=1e-5`.

    A run that a callback stopped is returned as well: `run.finished` is False, and `foveal.resume` goes on.
    Raises: FovealError for what a user can mend; Interrupted after Ctrl-C, once the step is saved.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    require_own_words(settings, words=TRAIN_WORDS, known=tuple(RunConfig.model_fields), name=NAME)
    callbacks = callbacks_of(callbacks, name=NAME)
    chosen_folder = None if out is None else folder_of(out, name=NAME)
    with screen(progress) as shown:
        watcher = Callbacks(shown, callbacks)
        table = table_of(config)
        if objective is not None:
            put_objective(table, objective, message=watcher.message)
        apply_settings(table, settings, message=watcher.message)
        if rewards is not None:
            table["rewards"] = rewards_of(rewards)
        if model is not None:
            apply_settings(table, {"model.path": _model(model)}, message=watcher.message)
        folder = chosen_folder or free_folder(Path("runs"), _name(table, config))
        RunFolder.require_free(folder)
        with kept_if_started(folder) as rows:
            _put_data(table, data, rows, message=watcher.message)
            _put_validation(table, validation, rows)
            chosen = config is None or objective is not None
            found = _checked(table, complete=chosen, fresh=config is None, message=watcher.message)
            watcher.message(f"loading {found.model.path}")
            return _run(lambda: loop.start(found, folder, watcher=watcher), folder, found, watcher)


def resume(
    path: str | Path,
    *,
    rewards: Rewards | None = None,
    callbacks: Sequence[AnyCallback] | AnyCallback = (),
    progress: bool = True,
) -> Run:
    """Go on with a run from its newest checkpoint, and return it; a finished run is left as it is.

    path: the run folder, or the `Run`.
    rewards: the functions that the run was started with, where these have no import path (a notebook's): they
        are found by their names. Everything else stands in the run folder.
    callbacks, progress: as for `foveal.train`.
    Raises: FovealError, when the folder holds no run, or a function is missing.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    callbacks = callbacks_of(callbacks, name="foveal.resume")
    folder = place_of_run(path, name="foveal.resume")
    with screen(progress) as shown, provided(_functions(rewards)):
        watcher = Callbacks(shown, callbacks)
        found = run_config(folder, message=watcher.message)
        return _run(lambda: loop.resume(folder, config=found, watcher=watcher), folder, found, watcher)


def _functions(rewards: Rewards | None) -> list[Any]:
    """Those that a config may ask for by name are among them."""
    return [] if rewards is None else as_list(rewards)


def _run(work: Any, folder: Path, config: RunConfig, watcher: Callbacks) -> Run:
    try:
        work()
    except Interrupted as error:
        if not watcher.stopped:
            raise Interrupted(f"{error}, or in Python foveal.resume({str(folder)!r})") from None
        done = Run(folder, config=config).step
        watcher.message(
            f"a callback stopped the run after step {done} of {config.steps}; everything is saved; go on "
            f"with foveal.resume({str(folder)!r})"
        )
    watcher.end(folder)
    return Run(folder, config=config)


def _checked(table: Table, *, complete: bool, fresh: bool, message: Message) -> RunConfig:
    if fresh and table.get("perturbations") == DEFAULTS["perturbations"]:
        table["perturbations"] = {}  # each method's own, as nobody asked for PAPO's
    default = table.get("objective") == DEFAULTS["objective"]
    quiet: Message = lambda text: None  # noqa: E731
    return load(table, complete=complete, message=quiet if default else message, name=NAME)


def _model(model: object) -> str:
    if not isinstance(model, str | Path):
        raise ConfigError(
            f"model is a {type(model).__name__}; expected a Hugging Face folder or hub id: save it with its "
            f"processor by save_pretrained(FOLDER), and pass the folder"
        )
    if not str(model).strip():
        raise ConfigError("model is empty; expected a Hugging Face folder or hub id, or leave it out")
    return str(model)


def _name(table: Table, config: object) -> str:
    if isinstance(config, str | Path):
        return Path(config).stem
    objective = table.get("objective")
    kind = objective.type if isinstance(objective, Component) else None
    if isinstance(objective, Mapping):
        kind = objective.get("type")
    return str(kind or "run").rpartition(":")[2]


def _put_data(table: Table, data: Any, rows: RowsFolder, *, message: Message) -> None:
    if data is None:
        if "data" not in table:
            raise ConfigError(f"{NAME}: no data; expected data= a path, a hub id, 'world', or rows")
        return
    source = _source(table, data, rows, name="train")
    settle_validation(table, (), other_data=str(_place(source)), message=message)
    table["data"] = source


def _source(table: Table, data: Any, rows: RowsFolder, *, name: str) -> Any:
    """What a config says of this data; rows are written down first."""
    before = table.get("data") if name == "train" else None
    kept = before if isinstance(before, Mapping) else {}
    if isinstance(data, Mapping) and "rows" in data:
        kept, data = {**kept, **{key: value for key, value in data.items() if key != "rows"}}, data["rows"]
    if isinstance(data, DataSource):
        return data
    if isinstance(data, Mapping):
        if not {"type", "path"} & set(data):
            raise ConfigError(
                f"{name} data is a dict with {', '.join(map(str, data)) or 'nothing'}; expected a list of "
                f"dicts, or a table with `path` or `rows`"
            )
        return dict(data)
    if is_rows(data):
        written = write_rows(data, rows.make(), name=name)
        return written if isinstance(written, DataSource) else named_data(kept, written)
    if not str(data).strip():
        raise ConfigError(f"{name} data is empty; expected a path, a hub id, 'world', or rows")
    if str(data) == WORLD and name == "validation":
        return {"type": WORLD, "split": "heldout"}
    return named_data(kept, str(data))


def _place(source: Any) -> object:
    if isinstance(source, DataSource):
        return getattr(source, "path", source.type)
    return source.get("path", source.get("type"))


def _put_validation(table: Table, validation: Any, rows: RowsFolder) -> None:
    if validation is None:
        return
    if validation is False:
        table.pop("validation", None)
        return
    if validation is True:
        raise ConfigError("validation is True; expected held-out data, such as validation='held_out.parquet'")
    given = {"data": validation}
    if isinstance(validation, Mapping) and not {"type", "path", "rows"} & set(validation):
        given = dict(validation)
    inherited = table.get("validation")
    found = {**(inherited if isinstance(inherited, Mapping) else {}), **given}
    if "data" not in found:
        raise ConfigError(
            f"validation has {', '.join(map(str, given)) or 'nothing'}, but no data; expected held-out "
            f"problems, such as validation={{'data': 'held_out.parquet', 'every': 10}}"
        )
    if "data" in given:
        found["data"] = _source(table, given["data"], rows, name="validation")
    steps = table.get("steps")
    if "every" not in found and isinstance(steps, int):
        # A short run is validated at its end, not only at its start.
        found["every"] = max(1, min(ValidationConfig.model_fields["every"].default, steps))
    table["validation"] = found
