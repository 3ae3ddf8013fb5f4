"""The command line. Heavy modules are imported by the command that needs them: `--help` answers at once."""

import argparse
import importlib
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TextIO, cast

from foveal import __version__
from foveal.boundary import ending, require_name, require_one_process
from foveal.cli import config, data, evaluate, quickstart, report, sweep, train, worlds
from foveal.foreign import option_answers
from foveal.text import PrintableStream, bare_stream

COMMANDS = (quickstart, train, sweep, evaluate, report, data, worlds, config)
"""One file a command: `add` gives its options, and names what runs it."""

NAMES = ("config", "model", "data", "out", "resume", "against", "folder")
"""Options that name a file, a folder or something of the hub."""

EPILOG = """\
examples:
  foveal quickstart                                  train GRPO, PAPO and CPPO here and compare them
  foveal train own_data --model Qwen/Qwen2.5-VL-3B-Instruct --data my_problems.parquet
  foveal train configs/quickstart_papo.toml objective.kl_prcp_coef=0.02 steps=100
  foveal train --resume runs/papo                    go on after Ctrl-C, a kill or a full disk
  foveal train configs/quickstart_papo.toml --profile  also draw where a step's time goes
  foveal sweep sweep_gamma                           several values and seeds, with intervals
  foveal evaluate --model runs/papo --data world     accuracy, also with another problem's picture
  foveal data check my_problems.parquet              every row that a run could not use, before it
  foveal worlds show --out sheet.png                 look at the problems

Any field of a config can be overridden as section.key=value; `foveal config` prints all of them.
"""


ONE_PROCESS = (quickstart, train, sweep, evaluate)
"""Commands that run a model, and so must not be started several times over by torchrun."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; a user's mistake is one message and exit status 2, never a traceback."""
    with _printable_streams():
        return _main(argv)


def _main(argv: Sequence[str] | None) -> int:
    parser = build_parser()
    arguments, rest = parser.parse_known_args(argv)
    # argparse takes positional words in one run; overrides may also stand between and behind the options.
    late = [word for word in rest if "=" in word and not word.startswith("-")]
    if rest and (len(late) < len(rest) or not hasattr(arguments, "overrides")):
        unknown = [word for word in rest if word not in late] or rest
        theirs = "".join(f"\n  {line}" for line in option_answers(unknown))
        parser.error(f"unrecognized arguments: {' '.join(unknown)}{theirs}")
    if late:
        arguments.overrides = [*arguments.overrides, *late]
    if arguments.command is None:
        parser.print_help()
        return 0
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        return _run(arguments)
    except BrokenPipeError:
        # The reader of our output went away (`foveal ... | head`): nothing is left to say to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except BaseException as error:
        end = ending(error)
        if end is None:
            raise
        if end.message is not None:
            print(f"foveal: {end.message}", file=sys.stderr)
        return end.status


def _run(arguments: argparse.Namespace) -> int:
    if arguments.command in {module.__name__.rpartition(".")[2] for module in ONE_PROCESS}:
        require_one_process()
    for option, value in vars(arguments).items():
        if option in NAMES and value is not None:
            require_name(value, where="the config" if option == "config" else f"--{option}")
    module, _, name = arguments.run.partition(":")
    return int(getattr(importlib.import_module(module), name)(**_options(arguments)))


@contextmanager
def _printable_streams() -> Iterator[None]:
    """Whatever is printed until the end, by whom: nothing in it steers the terminal."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (
        None if stream is None else cast(TextIO, PrintableStream(bare_stream(stream))) for stream in before
    )
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


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
    for module in COMMANDS:
        module.add(commands)
    return parser


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
