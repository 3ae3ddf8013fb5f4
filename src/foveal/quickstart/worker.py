"""One job in a process of its own: train or go on, evaluate, look. `python -m
foveal.quickstart.worker JOB`.
"""

import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from foveal.config import RunConfig, load
from foveal.data.views import view_images
from foveal.diagnosis.looking import looking, summarize
from foveal.evaluation.records import Evaluation
from foveal.jobs.worker import first_problems, on_heldout, require_heldout, serve, step_seconds, train
from foveal.keys import Key
from foveal.policy.processing import Processor
from foveal.quickstart.job import StudyJob
from foveal.rewards.boxed import last_boxed
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

WORD_MODES = ("random", "wrong", "right")
"""What the style word of a held-out question says of the answer, in the shortcut study."""


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
    results = Path(job.folder)
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
    found.save(results / "evaluations" / job.name)
    perturbations = _looking_perturbations(config)
    groups = _said(found, problems[:LOOKED_AT], policy.processor.tokenizer, policy.processor.end_ids[0])
    heats = looking(policy, groups, perturbations=perturbations, key=LOOK_KEY)
    looks = summarize(heats)
    _save_pictures(results, problems[:LOOKED_AT], policy.processor, perturbations[REMOVED])
    (results / "looks").mkdir(parents=True, exist_ok=True)
    write_json(results / "looks" / f"{job.name}.json", {heat.problem_id: heat.tokens() for heat in heats})
    return {
        "kl_prcp_median": looks.kl_prcp_median,
        "kl_prcp_mean": looks.kl_prcp_mean,
        "cpu_seconds": step_seconds(job.run_folder, "time/cpu_s"),
    }


def _evaluate_words(job: StudyJob, config: RunConfig) -> dict[str, object]:
    """Held-out accuracy with the style word random, wrong and right, and how many answers follow a wrong
    word.
    """
    results = Path(job.folder)
    policy = policy_of(config)
    row: dict[str, object] = {}
    for mode in WORD_MODES:
        data = config.data.model_copy(update={"shortcut_word": mode})
        problems = first_problems(config.model_copy(update={"data": data}), job.problems)
        found = assess_policy(
            policy,
            config,
            problems,
            samples=0,
            progress=None,
            name=f"{job.name}-{mode}",
            method=job.method,
            seed=job.seed,
            other_picture=False,
        )
        found.save(results / "words" / f"{job.name}-{mode}")
        row[f"accuracy_{mode}"] = found.accuracy.value
        if mode == "wrong":
            follows = [
                last_boxed(record.texts[0]) == problem.meta["shortcut"]["answer"]
                for record, problem in zip(found.records, problems, strict=True)
            ]
            row["follow"] = sum(follows) / len(follows)
    return row | {"cpu_seconds": step_seconds(job.run_folder, "time/cpu_s")}


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
