"""`foveal evaluate`: accuracy of a model, with intervals, also with another problem's picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from foveal.cli.checks import Commands, check_words, free_stem, make_folder
from foveal.spec import FovealError

MOST_SAMPLES = 1024
"""As for sampling.group_size."""


def add(commands: Commands) -> None:
    """The options of `foveal evaluate`."""
    command = commands.add_parser(
        "evaluate",
        help="accuracy of a model, with intervals, also with another problem's picture",
        description="Evaluate a model folder or a run folder on any data: greedy or avg@k with bootstrap "
        "intervals, accuracy with another problem's picture, and on worlds the kinds of error.",
    )
    command.add_argument(
        "config",
        nargs="?",
        help="TOML file with [data], [[rewards]], [sampling] (default: those of the run of --model)",
    )
    command.add_argument("overrides", nargs="*", metavar="section.key=value")
    command.add_argument("--model", required=True, help="model folder, hub id, run folder, or 'tiny'")
    command.add_argument("--data", help="parquet, JSONL, image folder, hub id, or 'world' (held out)")
    command.add_argument(
        "--samples", type=int, default=0, help="completions a problem (avg@k); 0: one greedy (0)"
    )
    command.add_argument("--problems", type=int, default=1000, help="at most so many problems (1000)")
    command.add_argument("--out", type=Path, help="folder for NAME.json and NAME.jsonl; NAME is the model's")
    command.add_argument(
        "--against", type=Path, help="an earlier evaluation of the same problems: paired difference"
    )
    command.set_defaults(run="foveal.cli.evaluate:run")


def run(
    *,
    source: Path | None,
    overrides: Sequence[str],
    model: str,
    data: str | None,
    samples: int,
    problems: int,
    out: Path | None,
    against: Path | None,
) -> int:
    """`foveal evaluate`."""
    import torch

    from foveal.cli.screen import Bar
    from foveal.console import Console
    from foveal.evaluation.compare import compare
    from foveal.evaluation.records import Evaluation
    from foveal.train import assess
    from foveal.train.measure import measure

    check_words(model=model, data=data)
    if not 0 <= samples <= MOST_SAMPLES:
        raise FovealError(
            f"--samples is {samples}; expected 0 (one greedy completion) to {MOST_SAMPLES} per problem"
        )
    if problems < 1:
        raise FovealError(f"--problems is {problems}; expected at least 1")
    earlier = Evaluation.load(against) if against is not None else None
    if out is not None:
        make_folder(out, option="--out")
    console = Console(stderr=True)
    message = console.say
    config = assess.evaluation_config(source, overrides=overrides, model=model, data=data, message=message)
    torch.set_num_threads(int(measure(threads=config.threads)["threads"]))
    with Bar(console, "evaluating") as tick:
        found = assess.assess(
            config, samples=samples, limit=problems, progress=tick, message=message, name=model
        )
    if out is not None:
        stem = free_stem(out, assess.evaluation_name(model))
        try:
            print(f"written: {found.save(stem)}")
        except OSError as error:
            raise FovealError(
                f"{stem}.json cannot be written: {error.strerror or error}; choose another --out"
            ) from error
    _print_evaluation(found.summary)
    if earlier is not None:
        Console().print_json(data=compare(earlier, found).to_json())
    return 0


def _print_evaluation(summary: Mapping[str, Any]) -> None:
    from rich.table import Table

    from foveal.console import Console

    table = Table(title=f"{summary['problems']} problems, {summary['completions']} completions")
    for column in ("quantity", "value", "95 % interval"):
        table.add_column(column, justify="left" if column == "quantity" else "right")
    for name, value in summary.items():
        if isinstance(value, Mapping) and {"value", "low", "high"} <= value.keys():
            table.add_row(name, f"{value['value']:.3f}", f"{value['low']:.3f} to {value['high']:.3f}")
    for group in ("by_family", "by_grade"):
        for label, values in summary[group].items():
            found = values["accuracy"]
            if found is None:
                continue
            table.add_row(
                f"  accuracy, {label}", f"{found['value']:.3f}", f"{found['low']:.3f} to {found['high']:.3f}"
            )
    for kind, share in summary["kinds"].items():
        table.add_row(f"  {kind}", f"{share:.3f}", "")
    if summary["failed_count"]:
        table.add_row("could not be graded, left out", str(summary["failed_count"]), "")
    Console().print(table)
