"""What every worker process does: stop with its parent, train or go on, find the held-out problems."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from foveal.boundary import ending
from foveal.config import RunConfig, load
from foveal.data.problems import DataSource
from foveal.data.world import WorldDataConfig
from foveal.jobs.job import Job
from foveal.policy.checkpoint import MODEL_FOLDER, latest_checkpoint
from foveal.spec import FovealError
from foveal.train import loop
from foveal.train.record import CONFIG, SUMMARY, read_lines
from foveal.train.setup import open_problems
from foveal.train.stop import Interrupted
from foveal.types import Problem


def serve(do: Callable[[threading.Event], None]) -> int:
    """Do a job with one thread; prints one line when it cannot be done, or was stopped.

    `do` is given an event that says that a stop was asked for.
    """
    try:
        torch.set_num_threads(1)
        do(_stop_with_parent())
    except BaseException as error:
        end = ending(error)
        if end is None:
            raise
        print(f"foveal: {end.message}", file=sys.stderr)
        return end.status
    return 0


def _stop_with_parent() -> threading.Event:
    """When standard input ends, note that and send this process one SIGTERM: training saves at it, anything
    else ends at once.

    The parent holds the other end: it closes it to ask for a stop, and the system does when it dies.
    """
    asked = threading.Event()

    def wait() -> None:
        # os.read, not sys.stdin: its lock, held in a daemon thread, would abort the interpreter's exit.
        while os.read(0, 1):
            pass
        asked.set()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()
    return asked


def train(job: Job, config: RunConfig, *, asked: threading.Event) -> RunConfig:
    """Train or go on; returns the configuration with the trained model in it, the same one with 0 steps.

    Raises: Interrupted, when a stop was asked for.
    """
    if not job.steps:
        return config
    folder = job.run_folder
    config = config.model_copy(update={"steps": job.steps})
    if (folder / CONFIG).is_file():
        if not (folder / SUMMARY).is_file():
            loop.resume(folder, config=load(folder / CONFIG))
    else:
        loop.start(config, folder)
    if asked.is_set():
        raise Interrupted("stopped after the last step, before the evaluation; everything is saved")
    newest = latest_checkpoint(folder / "checkpoints")
    if newest is None:
        raise FovealError(f"the run {folder} finished without a checkpoint; delete it and run again")
    return config.model_copy(
        update={"model": config.model.model_copy(update={"path": str(newest / MODEL_FOLDER)})}
    )


def heldout_data(config: RunConfig) -> DataSource:
    """What is evaluated on: the data of [validation], else of [data]; of a world always the held-out part.

    Raises: FovealError, when a file is trained on and no other is named.
    """
    source = config.data if config.validation is None else config.validation.data
    if isinstance(source, WorldDataConfig):
        return source.model_copy(update={"split": "heldout"})
    if config.validation is None:
        raise FovealError(
            "there are no held-out problems: [data] is what is trained on; name others with [validation] "
            'data = { type = "auto", path = "held_out.parquet" }'
        )
    return source


def on_heldout(config: RunConfig) -> RunConfig:
    """The same configuration with the held-out data in place of that of training."""
    return config.model_copy(update={"data": heldout_data(config)})


def require_heldout(config: RunConfig, count: int) -> None:
    """Raises: FovealError before training, when there are not enough problems to evaluate on after it."""
    found = len(open_problems(heldout_data(config)))
    if found < count:
        raise FovealError(
            f"the held-out data has {found} problems, fewer than the {count} asked for; lower --problems"
        )


def first_problems(config: RunConfig, count: int) -> Sequence[Problem]:
    """The first problems of the configuration's data, made once."""
    found = open_problems(config.data)
    return [found[i] for i in range(count)]


def step_seconds(run: Path, name: str) -> float:
    """Sum over the run's lines of a time: `time/step_s` (wall clock) or `time/cpu_s`."""
    metrics = run / "metrics.jsonl"
    if not metrics.is_file():
        return 0.0
    return round(sum(float(line.get(name, 0.0)) for line in read_lines(metrics)), 2)
