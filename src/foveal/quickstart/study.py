"""The studies: which jobs, how long, and what is made of their results."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from foveal.console import Console
from foveal.evaluation.compare import COLD_START
from foveal.jobs.folder import check_model, check_numbers, default_jobs, forget_broken
from foveal.jobs.pool import run_jobs
from foveal.quickstart.folder import DEFAULT_OUT, claim, whole
from foveal.quickstart.job import StudyJob
from foveal.train.stop import Interrupted

ARMS: Mapping[str, Mapping[str, str]] = {
    "shortcut": {"grpo": "shortcut_grpo", "cppo": "shortcut_cppo", "papo": "shortcut_papo"},
    "plain": {"grpo": "quickstart_grpo", "papo": "quickstart_papo", "cppo": "quickstart_cppo"},
}
"""Study -> method -> its config."""

STEPS: Mapping[str, int] = {"shortcut": 60, "plain": 20}
PROBLEMS: Mapping[str, int] = {"shortcut": 400, "plain": 1000}
"""Held-out problems; the shortcut study asks each of them three times, and once over another picture."""


def run(
    *,
    out: Path | None,
    study: str,
    model: str | None,
    seeds: int,
    steps: int | None,
    problems: int | None,
    jobs: int | None,
) -> int:
    """Run a study into `out` (None: its own folder below runs/); a second call goes on where a stopped one
    was, and shows a finished one again.

    Raises: FovealError for what a user can mend, before anything is written; Interrupted after a stop.
    """
    check_numbers({"seeds": (seeds, 1), "steps": (steps, 1), "problems": (problems, 2), "jobs": (jobs, 1)})
    if model is not None:
        check_model(model, where="--model")
    out = out or DEFAULT_OUT[study]
    console = Console(stderr=True)
    began = time.monotonic()
    settings = {
        "study": study,
        "seeds": seeds,
        "steps": steps or STEPS[study],
        "problems": problems or PROBLEMS[study],
    }
    plan = _plan(
        out,
        study,
        model=model,
        seeds=seeds,
        steps=steps or STEPS[study],
        problems=problems or PROBLEMS[study],
    )
    claim(out, settings | ({"model": model} if model else {}))
    again = forget_broken(plan, whole=whole)
    if again:
        console.print(f"results of {', '.join(again)} are not whole and are made again")
    console.print(f"{len(plan)} jobs into {out}; Ctrl-C saves, the same command goes on")
    run_jobs(plan, at_once=jobs or default_jobs(), console=console)
    try:
        page = _finish(out, study, plan)
    except KeyboardInterrupt:
        raise Interrupted("stopped; all runs are finished and saved; the same command goes on") from None
    print(f"{time.monotonic() - began:.0f} s; open {page}")
    return 0


def _finish(out: Path, study: str, plan: Sequence[StudyJob]) -> Path:
    """The files of the results, the table, and the page; returns the page."""
    from foveal.quickstart import plain, shortcut
    from foveal.report.page import write_report

    (plain if study == "plain" else shortcut).finish(out, plan)
    return write_report(out)


def _plan(
    out: Path, study: str, *, model: str | None, seeds: int, steps: int, problems: int
) -> list[StudyJob]:
    """The cold start first, then seed by seed, so that a stopped study has whole seeds."""

    def job(method: str, seed: int | None, config: str, steps: int) -> StudyJob:
        return StudyJob(
            name=method if seed is None else f"{method}-{seed}",
            method=method,
            seed=seed,
            config=config,
            overrides=() if model is None else (f"model.path={model}",),
            steps=steps,
            problems=problems,
            folder=str(out),
            shortcut=study == "shortcut",
        )

    arms = ARMS[study]
    first = job(COLD_START, None, next(iter(arms.values())), 0)
    rest = [job(method, seed, config, steps) for seed in range(seeds) for method, config in arms.items()]
    return [first, *rest]
