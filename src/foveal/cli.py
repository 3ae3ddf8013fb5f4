"""The command line. Heavy modules are imported by the command that needs them: `--help` answers at once."""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from foveal import __version__
from foveal.spec import FovealError, plugin_failure

EXIT_MISTAKE = 2
EXIT_STOPPED = 130

EPILOG = """\
examples:
  foveal quickstart                                  train GRPO, PAPO and CPPO here and compare them
  foveal train own_data --model Qwen/Qwen2.5-VL-3B-Instruct --data my_problems.parquet
  foveal train configs/quickstart_papo.toml objective.kl_prcp_coef=0.02 steps=100
  foveal train --resume runs/papo                    go on after Ctrl-C, a kill or a full disk
  foveal train configs/quickstart_papo.toml --profile  also draw where a step's time goes
  foveal sweep sweep_gamma                           several values and seeds, with intervals
  foveal evaluate --model runs/papo --data world     accuracy, also with another problem's picture
  foveal worlds show --out sheet.png                 look at the problems

Any field of a config can be overridden as section.key=value; `foveal config` prints all of them.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; a user's mistake is one message and exit status 2, never a traceback."""
    parser = build_parser()
    arguments, rest = parser.parse_known_args(argv)
    # argparse takes positional words in one run; overrides may also stand between and behind the options.
    late = [word for word in rest if "=" in word and not word.startswith("-")]
    if rest and (len(late) < len(rest) or not hasattr(arguments, "overrides")):
        unknown = [word for word in rest if word not in late] or rest
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    if late:
        arguments.overrides = [*arguments.overrides, *late]
    if arguments.command is None:
        parser.print_help()
        return 0
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        module, _, name = arguments.run.partition(":")
        return int(getattr(importlib.import_module(module), name)(**_options(arguments)))
    except FovealError as error:
        print(f"foveal: {error}", file=sys.stderr)
        return EXIT_STOPPED if type(error).__name__ == "Interrupted" else EXIT_MISTAKE
    except KeyboardInterrupt:
        print(
            "foveal: stopped at once; a run goes on from its last checkpoint with --resume", file=sys.stderr
        )
        return EXIT_STOPPED
    except BrokenPipeError:
        # The reader of our output went away (`foveal ... | head`): nothing is left to say to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        told = plugin_failure(error)
        if told is None:
            raise
        print(f"foveal: {told}; mend it there; a run goes on with --resume", file=sys.stderr)
        return EXIT_MISTAKE


def build_parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    parser = argparse.ArgumentParser(
        prog="foveal",
        description="Train vision-language models that look before they reason (PAPO, CPPO, GRPO, DAPO).",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"foveal {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    _add_quickstart(commands)
    _add_train(commands)
    _add_sweep(commands)
    _add_evaluate(commands)
    _add_report(commands)
    _add_worlds(commands)
    _add_config(commands)
    return parser


_Commands = Any


def _add_quickstart(commands: _Commands) -> None:
    command = commands.add_parser(
        "quickstart",
        help="train GRPO, PAPO and CPPO from the shipped checkpoint and compare them",
        description="Train GRPO, PAPO and CPPO with equal steps and seeds from the tiny checkpoint that "
        "ships with the package, evaluate all on the same held-out problems, print one table and write "
        "report.html.",
    )
    command.add_argument(
        "--out", type=Path, help="folder (default: runs/quickstart, or runs/shortcut for --study shortcut)"
    )
    command.add_argument(
        "--study", choices=("plain", "shortcut"), default="plain", help="which comparison (plain)"
    )
    command.add_argument("--model", help="start from another model folder (default: the shipped one)")
    command.add_argument("--seeds", type=int, default=2, help="runs of each method (2)")
    command.add_argument("--steps", type=int, help="training steps of each run (default: the config's)")
    command.add_argument("--problems", type=int, default=1000, help="held-out problems (1000)")
    command.add_argument("--jobs", type=int, help="runs at the same time (default: one a core)")
    command.set_defaults(run="foveal.quickstart:run")


def _add_train(commands: _Commands) -> None:
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
    command.set_defaults(run="foveal.console:train")


def _steps(word: str) -> int:
    try:
        return int(word)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{word!r} is no number of steps; expected one, such as --profile 2; for the default put "
            f"--profile last"
        ) from None


SWEEP_EPILOG = """\
examples:
  foveal sweep sweep_gamma                            a ready sweep: PAPO's gamma on a world
  foveal sweep sweep_gamma --dry-run                  its runs, what is done, and about how long it takes
  foveal sweep quickstart_papo --set objective.kl_prcp_coef=0,0.005,0.01,0.02,0.04 --seeds 8
  foveal sweep quickstart_papo --set optimizer.lr=1e-4,3e-4 --set perturbations.removed.ratio=0.6,0.8
  foveal sweep quickstart_papo --set 'perturbations.removed={type="noise", std=0.5},{type="blank"}'
  foveal sweep quickstart_papo data.haze=0.6 --set sampling.group_size=4,8 --out runs/groups

Several --set make a grid. Values are TOML, or text; commas inside brackets and quotes do not separate.
The same stands in a config: [sweep] seeds, problems; [sweep.set] "key" = [values]; [sweep.arms.NAME] for keys
that change together. Words section.key=value hold for all runs.

Ctrl-C saves; the same command does what is missing. More seeds and values may be added.
Ready: sweep_gamma, sweep_mask_ratio, sweep_mask_kind, sweep_noise, sweep_reference_kl, sweep_entropy.
"""


def _add_sweep(commands: _Commands) -> None:
    command = commands.add_parser(
        "sweep",
        help="one config with several values and seeds; the curve with intervals",
        description="Train one config with several values of some keys and several seeds, a run a core,\n"
        "evaluate all on the same held-out problems, print a table, and write sweep.json and report.html\n"
        "with curves, intervals over seeds and paired differences.",
        epilog=SWEEP_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("config", help="TOML file or shipped config")
    command.add_argument("overrides", nargs="*", metavar="section.key=value", help="for all runs")
    command.add_argument(
        "--set",
        action="append",
        default=[],
        dest="sets",
        metavar="KEY=V1,V2,...",
        help="values to try; may be repeated",
    )
    command.add_argument("--seeds", type=int, help="runs of each arm, seeds 0, 1, ... (the config's, or 4)")
    command.add_argument("--steps", type=int, help="training steps of each run (the config's)")
    command.add_argument("--problems", type=int, help="held-out problems (the config's, or 1000)")
    command.add_argument("--jobs", type=int, help="runs at the same time (default: one a core)")
    command.add_argument("--out", type=Path, help="folder (default: runs/sweep-NAME)")
    command.add_argument("--dry-run", action="store_true", help="list the runs; write nothing")
    command.set_defaults(run="foveal.sweep:run")


def _add_evaluate(commands: _Commands) -> None:
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
    command.set_defaults(run="foveal.console:evaluate")


def _add_report(commands: _Commands) -> None:
    command = commands.add_parser("report", help="write report.html of a run, quickstart or sweep folder")
    command.add_argument("folder", type=Path)
    command.set_defaults(run="foveal.console:report")


def _add_worlds(commands: _Commands) -> None:
    command = commands.add_parser(
        "worlds", help="look at the procedural problems; remake the tiny checkpoint"
    )
    parts = command.add_subparsers(dest="part", metavar="show|coldstart", required=True)
    show = parts.add_parser("show", help="write a contact sheet of problems")
    show.add_argument("--out", type=Path, default=Path("worlds.png"))
    show.add_argument("--families", nargs="*", help="default: all")
    show.add_argument("--n", type=int, default=4, help="problems of each family (4)")
    show.add_argument("--seed", type=int, default=0)
    show.add_argument("--split", choices=("train", "heldout"), default="heldout")
    show.add_argument("--noise", type=float, default=1.0, help="noise on the pictures (1.0)")
    show.add_argument("--haze", type=float, default=0.0, help="fog over the pictures, 0 to 1 (0)")
    show.add_argument("--grade", choices=("low", "medium", "high"), default="high")
    show.add_argument("--shortcut", type=float, default=0.0, help="strength of the shortcut word, 0 to 1 (0)")
    show.set_defaults(run="foveal.console:worlds_show")
    cold = parts.add_parser("coldstart", help="train the tiny checkpoint from random weights")
    cold.add_argument("--out", type=Path, required=True, help="model folder to write")
    cold.add_argument("--seed", type=int, default=0)
    cold.add_argument("--text-prior", action="store_true", help="the variant of the shortcut study")
    cold.add_argument(
        "--size",
        choices=("tiny", "small"),
        default="tiny",
        help="small: twice as wide, 2.7 M parameters (tiny)",
    )
    cold.set_defaults(run="foveal.console:worlds_coldstart")


def _add_config(commands: _Commands) -> None:
    command = commands.add_parser("config", help="print the resolved config, every field with its value")
    command.add_argument("config", nargs="?", help="TOML file")
    command.add_argument("overrides", nargs="*", metavar="section.key=value")
    command.set_defaults(run="foveal.console:show_config")


def _options(arguments: argparse.Namespace) -> dict[str, Any]:
    """The arguments as the command's function takes them: `config` and `overrides` become `source` and
    `overrides`.
    """
    options = {key: value for key, value in vars(arguments).items() if key not in ("command", "part", "run")}
    if "config" not in options:
        return options
    from foveal.tables import shipped

    first = options.pop("config")
    if first is not None and "=" in first:
        # Without a config the first word is an override.
        return {**options, "source": None, "overrides": [first, *options["overrides"]]}
    return {**options, "source": None if first is None else shipped(first)}


if __name__ == "__main__":
    sys.exit(main())
