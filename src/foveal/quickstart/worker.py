"""One job in a process of its own: train or go on, evaluate, look. `python -m
foveal.quickstart.worker JOB`.
"""

import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from foveal.config import RunConfig, load
from foveal.data.views import view_images
from foveal.diagnosis.looking import HeatSummary, looking, summarize
from foveal.evaluation.records import Evaluation
from foveal.jobs.worker import first_problems, on_heldout, require_heldout, serve, step_seconds, train
from foveal.keys import Key
from foveal.policy.model import Policy
from foveal.policy.processing import Processor
from foveal.quickstart.job import StudyJob
from foveal.quickstart.words import WORD_MODES, measure_words, word_problems
from foveal.spec import FovealError
from foveal.tables import shipped
from foveal.train.assess import assess_policy
from foveal.train.record import save_picture, write_json
from foveal.train.setup import policy_of
from foveal.types import (
    CLEAN,
    REMOVED,
    Completion,
    Group,
    Perturbation,
    Problem,
    ViewName,
)

LOOKED_AT = 64
"""Held-out problems whose completions are looked at token by token."""

LOOK_KEY: Key = ("quickstart", "look")
"""Randomness of the pictures that they are looked at with."""


def work(job: StudyJob, *, asked: threading.Event) -> None:
    """Everything of a job that is not yet there.

    Raises: Interrupted, when a stop was asked for during training.
    """
    config = load(shipped(job.config), overrides=[*job.overrides, "threads=1", f"seed={job.seed or 0}"])
    require_heldout(config, job.problems)
    config = on_heldout(train(job, config, asked=asked))
    result = _evaluate_words(job, config) if job.shortcut else _evaluate(job, config)
    write_json(job.done_file, {"name": job.name, "method": job.method, "seed": job.seed, **result})


def _evaluate(job: StudyJob, config: RunConfig) -> dict[str, object]:
    """Held-out accuracy with right and other pictures, kinds of error, and what each token owes to the
    picture.
    """
    problems = first_problems(config, job.problems)
    policy = policy_of(config)
    found = assess_policy(
        policy,
        config,
        problems,
        samples=0,
        progress=None,
        name=job.name,
        method=job.method,
        seed=job.seed,
        other_picture=True,
    )
    found.save(Path(job.folder) / "evaluations" / job.name)
    looks = _look(job, config, policy, found, problems[:LOOKED_AT])
    return {
        "kl_prcp_median": looks.kl_prcp_median,
        "kl_prcp_mean": looks.kl_prcp_mean,
        "cpu_seconds": step_seconds(job.run_folder, "time/cpu_s"),
    }


def _evaluate_words(job: StudyJob, config: RunConfig) -> dict[str, object]:
    """Held-out accuracy by what the style word says; the gallery shows problems with a wrong word."""
    policy = policy_of(config)
    folder = Path(job.folder) / "words"
    row = measure_words(
        policy,
        config,
        count=job.problems,
        modes=[mode for mode in WORD_MODES if mode in job.modes],
        name=job.name,
        method=job.method,
        seed=job.seed,
        folder=folder,
    )
    if job.looks and "wrong" in job.modes:
        problems = word_problems(config, "wrong", count=min(LOOKED_AT, job.problems))
        _look(job, config, policy, Evaluation.load(folder / f"{job.name}-wrong"), problems)
    return {**row, "cpu_seconds": step_seconds(job.run_folder, "time/cpu_s")}


def _look(
    job: StudyJob, config: RunConfig, policy: Policy, found: Evaluation, problems: Sequence[Problem]
) -> HeatSummary:
    """Write what each token of the completions owes to the picture, and the pictures they are shown with."""
    results = Path(job.folder)
    perturbations = _looking_perturbations(config)
    groups = _said(found, problems, policy.processor.tokenizer, policy.processor.end_ids[0])
    heats = looking(policy, groups, perturbations=perturbations, key=LOOK_KEY)
    _save_pictures(results, problems, policy.processor, perturbations[REMOVED])
    (results / "looks").mkdir(parents=True, exist_ok=True)
    write_json(results / "looks" / f"{job.name}.json", {heat.problem_id: heat.tokens() for heat in heats})
    return summarize(heats)


def _looking_perturbations(config: RunConfig) -> dict[ViewName, Perturbation]:
    """The perturbation that every method is looked at with: the same for all, or the numbers could not be
    compared.
    """
    if REMOVED not in config.perturbations:
        raise FovealError(
            f"[perturbations] has no {REMOVED!r} view; the quickstart looks at every method with the same one"
        )
    return {REMOVED: config.perturbations[REMOVED]}


def _said(found: Evaluation, problems: Sequence[Problem], tokenizer: object, end_id: int) -> list[Group]:
    """The evaluation's completions as groups, tokens from their text."""
    groups = []
    for record, problem in zip(found.records, problems, strict=False):
        ids = tuple(tokenizer(record.texts[0], add_special_tokens=False)["input_ids"])  # type: ignore[operator]
        if not record.truncated[0]:
            ids += (end_id,)
        completion = Completion(
            token_ids=ids, sampled_logprobs=(0.0,) * len(ids), text=record.texts[0], finish="stop"
        )
        groups.append(
            Group(problem=problem, completions=(completion,), rewards=(0.0,), correct=record.correct)
        )
    return groups


def _save_pictures(
    results: Path, problems: Sequence[Problem], processor: Processor, perturbation: Perturbation
) -> None:
    """Clean and removed pictures for the gallery: those that the completions were looked at with."""
    for problem in problems:
        removed = view_images(
            problem, perturbation, processor=processor, view=REMOVED, key=LOOK_KEY, donors=problems
        )
        for index, (clean, masked) in enumerate(zip(problem.images, removed, strict=True)):
            for view, image in ((CLEAN, clean), (REMOVED, masked)):
                save_picture(image, results / picture_name(problem.id, index, view))


def picture_name(problem_id: str, index: int, view: str) -> str:
    """The gallery's file of a picture, below the results folder."""
    return f"gallery/{problem_id.replace('/', '-')}-{index}-{view}.png"


if __name__ == "__main__":
    sys.exit(serve(lambda asked: work(StudyJob.from_json(sys.argv[1]), asked=asked)))
