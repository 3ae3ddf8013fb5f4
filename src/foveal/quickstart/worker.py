"""One job in a process of its own: train or go on, evaluate, look. `python -m foveal.quickstart.worker
JOB`.
"""

import json
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import torch

from foveal.config import RunConfig, load, shipped
from foveal.data.collate import perturb
from foveal.diagnosis.looking import looking, summarize
from foveal.evaluation.records import Evaluation
from foveal.policy.checkpoint import MODEL_FOLDER, latest_checkpoint
from foveal.quickstart.jobs import Job
from foveal.rewards.boxed import last_boxed
from foveal.spec import FovealError
from foveal.train import loop
from foveal.train.assess import assess_policy
from foveal.train.record import CONFIG, SUMMARY, read_lines, save_picture, write_json
from foveal.train.setup import open_problems, policy_of
from foveal.train.stop import Interrupted
from foveal.types import (
    CLEAN,
    REMOVED,
    Completion,
    Group,
    Perturbation,
    PerturbationContext,
    Problem,
    ViewName,
)

LOOKED_AT = 64
"""Held-out problems whose completions are looked at token by token."""

WORD_MODES = ("random", "wrong", "right")
"""What the style word of a held-out question says of the answer, in the shortcut study."""


STOPPED = 130
"""Exit status of a worker that was asked to stop."""


def main(text: str) -> int:
    """Do the job; prints one line when it cannot be done, or was stopped."""
    try:
        work(Job.from_json(text), asked=_stop_with_parent())
    except FovealError as error:
        print(f"foveal: {error}", file=sys.stderr)
        return STOPPED if isinstance(error, Interrupted) else 2
    except KeyboardInterrupt:
        print("foveal: stopped at once", file=sys.stderr)
        return STOPPED
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


def work(job: Job, *, asked: threading.Event) -> None:
    """Everything of a job that is not yet there.

    Raises: Interrupted, when a stop was asked for during training.
    """
    torch.set_num_threads(1)
    config = load(shipped(job.config), overrides=[*job.overrides, "threads=1", f"seed={job.seed or 0}"])
    _require_heldout(config, job.problems)
    if job.steps:
        config = _train(job, config)
        if asked.is_set():
            raise Interrupted("stopped after the last step, before the evaluation; everything is saved")
    config = _on_heldout(config)
    result = _evaluate_words(job, config) if job.shortcut else _evaluate(job, config)
    write_json(job.done_file, {"name": job.name, "method": job.method, "seed": job.seed, **result})


def _on_heldout(config: RunConfig) -> RunConfig:
    return config.model_copy(update={"data": config.data.model_copy(update={"split": "heldout"})})


def _require_heldout(config: RunConfig, count: int) -> None:
    """Raises: FovealError before training, when there are not enough problems to evaluate on after it."""
    found = len(open_problems(_on_heldout(config).data))
    if found < count:
        raise FovealError(
            f"the held-out data has {found} problems, fewer than the {count} asked for; lower --problems"
        )


def _train(job: Job, config: RunConfig) -> RunConfig:
    """Train or go on; returns the configuration with the trained model in it."""
    folder = job.run_folder
    config = config.model_copy(update={"steps": job.steps})
    if (folder / CONFIG).is_file():
        if not (folder / SUMMARY).is_file():
            loop.resume(folder, config=load(folder / CONFIG))
    else:
        loop.start(config, folder)
    newest = latest_checkpoint(folder / "checkpoints")
    if newest is None:
        raise FovealError(f"the run {folder} finished without a checkpoint; delete it and run again")
    return config.model_copy(
        update={"model": config.model.model_copy(update={"path": str(newest / MODEL_FOLDER)})}
    )


def _evaluate(job: Job, config: RunConfig) -> dict[str, object]:
    """Held-out accuracy with right and other pictures, kinds of error, and what each token owes to the
    picture.
    """
    results = Path(job.folder)
    problems = _heldout(config, job.problems)
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
    heats = looking(policy, groups, perturbations=perturbations, key=("quickstart", "look"))
    looks = summarize(heats)
    for problem in problems[:LOOKED_AT]:
        _save_pictures(results, problem, config)
    write_json(results / "looks" / f"{job.name}.json", {heat.problem_id: heat.tokens() for heat in heats})
    return {
        "kl_prcp_median": looks.kl_prcp_median,
        "kl_prcp_mean": looks.kl_prcp_mean,
        "cpu_seconds": cpu_seconds(job),
    }


def _evaluate_words(job: Job, config: RunConfig) -> dict[str, object]:
    """Held-out accuracy with the style word random, wrong and right, and how many answers follow a wrong
    word.
    """
    results = Path(job.folder)
    policy = policy_of(config)
    row: dict[str, object] = {}
    for mode in WORD_MODES:
        data = config.data.model_copy(update={"shortcut_word": mode})
        problems = _heldout(config.model_copy(update={"data": data}), job.problems)
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
    return row | {"cpu_seconds": cpu_seconds(job)}


def _heldout(config: RunConfig, count: int) -> list[Problem]:
    found = open_problems(config.data)
    return [found[i] for i in range(count)]


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


def _save_pictures(results: Path, problem: Problem, config: RunConfig) -> None:
    """Clean and removed pictures for the gallery."""
    context = PerturbationContext()
    removed = perturb(
        problem, config.perturbations[REMOVED], view=REMOVED, key=("quickstart", "look"), context=context
    )
    for index, (clean, masked) in enumerate(zip(problem.images, removed, strict=True)):
        for view, image in ((CLEAN, clean), (REMOVED, masked)):
            save_picture(image, results / picture_name(problem.id, index, view))


def picture_name(problem_id: str, index: int, view: str) -> str:
    """The gallery's file of a picture, below the results folder."""
    return f"gallery/{problem_id.replace('/', '-')}-{index}-{view}.png"


def cpu_seconds(job: Job) -> float:
    """CPU seconds of the run's steps and validations."""
    metrics = job.run_folder / "metrics.jsonl"
    if not job.steps or not metrics.is_file():
        return 0.0
    return round(sum(float(line.get("time/cpu_s", 0.0)) for line in read_lines(metrics)), 2)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1]))
    except json.JSONDecodeError:
        sys.exit("foveal.quickstart.worker is started by foveal quickstart")
