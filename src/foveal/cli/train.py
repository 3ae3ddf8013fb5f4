"""`foveal train`: a run from a config, or an earlier run that goes on."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from foveal.cli.checks import Commands, check_words, free_folder
from foveal.spec import FovealError


def add(commands: Commands) -> None:
    """The options of `foveal train`."""
    command = commands.add_parser(
        "train",
        help="train a model from a config, or go on with a run",
        description="Train from a TOML config; every field can be overridden as section.key=value. "
        "Without a config: PAPO with the papers' rewards on --data.",
    )
    command.add_argument("config", nargs="?", help="TOML file (see configs/), or the first override")
    command.add_argument(
        "overrides", nargs="*", metavar="section.key=value", help="such as optimizer.lr=1e-6"
    )
    command.add_argument("--model", help="Hugging Face folder or hub id, or 'tiny', the shipped checkpoint")
    command.add_argument("--data", help="parquet, JSONL, image folder, hub id, or 'world'")
    command.add_argument("--out", type=Path, help="run folder (default: runs/NAME, by config and objective)")
    command.add_argument("--resume", type=Path, metavar="RUN", help="go on with this run folder")
    command.add_argument(
        "--profile",
        type=_steps,
        nargs="?",
        const=2,
        metavar="STEPS",
        help="time STEPS early steps (2) by phase, into profile.json, profile.png and the page of the run",
    )
    command.set_defaults(run="foveal.cli.train:run")


def _steps(word: str) -> int:
    try:
        return int(word)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{word!r} is no number of steps; expected one, such as --profile 2; for the default put "
            f"--profile last"
        ) from None


def run(
    *,
    source: Path | None,
    overrides: Sequence[str],
    model: str | None,
    data: str | None,
    out: Path | None,
    resume: Path | None,
    profile: int | None,
) -> int:
    """`foveal train`."""
    from foveal.cli.screen import Screen
    from foveal.config import load
    from foveal.train import loop
    from foveal.train.reopen import run_config

    check_words(model=model, data=data)
    screen = Screen()
    try:
        if resume is not None:
            if source is not None or overrides or model or data or out:
                raise FovealError(
                    f"--resume takes the configuration of {resume}; leave the config, --model, --data, "
                    f"--out and overrides out, or start a new run"
                )
            folder = resume
            config = run_config(folder, message=screen.message)
            summary = loop.resume(folder, config=config, watcher=screen, profile=profile)
        else:
            config = load(source, overrides=overrides, model=model, data=data, message=screen.message)
            folder = out or free_folder(Path("runs"), source.stem if source else config.objective.type)
            summary = loop.start(config, folder, watcher=screen, profile=profile)
    finally:
        screen.close()
    best = summary["best"]
    print(f"finished: {summary['steps']} steps; the model is in {folder / summary['model']}")
    if best:
        print(
            f"best validation: {best['accuracy']:.3f} "
            f"after step {best['step']}, in {folder / 'checkpoints' / 'best'}"
        )
    print(f"look at it: foveal report {folder}")
    return 0
