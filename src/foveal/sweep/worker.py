"""One run of a sweep in a process of its own: train or go on, evaluate."""

import sys
import threading
import time
from pathlib import Path

from foveal.config import load
from foveal.jobs.worker import first_problems, on_heldout, require_heldout, serve, step_seconds, train
from foveal.sweep.plan import SweepJob
from foveal.tables import add_plugin_folder
from foveal.train.assess import assess_policy
from foveal.train.record import write_json
from foveal.train.setup import policy_of


def work(job: SweepJob, *, asked: threading.Event) -> None:
    """Everything of a run that is not yet there.

    Raises: Interrupted, when a stop was asked for during training.
    """
    began, before = time.monotonic(), step_seconds(job.run_folder, "time/step_s")
    for place in job.import_paths:
        add_plugin_folder(Path(place))
    config = load(Path(job.config), overrides=[*job.overrides, "threads=1"])
    require_heldout(config, job.problems)
    config = on_heldout(train(job, config, asked=asked))
    found = assess_policy(
        policy_of(config),
        config,
        first_problems(config, job.problems),
        samples=0,
        progress=None,
        name=job.name,
        method=job.method,
        seed=job.seed,
        other_picture=True,
    )
    found.save(Path(job.folder) / "evaluations" / job.name)
    result = {
        "name": job.name,
        "seconds": round(before + time.monotonic() - began, 2),
        "cpu_seconds": step_seconds(job.run_folder, "time/cpu_s"),
    }
    write_json(job.done_file, result)


if __name__ == "__main__":
    sys.exit(serve(lambda asked: work(SweepJob.from_json(sys.argv[1]), asked=asked)))
