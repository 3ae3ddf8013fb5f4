"""`foveal config`: the resolved configuration."""

import sys
from collections.abc import Sequence
from pathlib import Path

from foveal.cli.checks import Commands


def add(commands: Commands) -> None:
    """The options of `foveal config`."""
    command = commands.add_parser("config", help="print the resolved config, every field with its value")
    command.add_argument("config", nargs="?", help="TOML file")
    command.add_argument("overrides", nargs="*", metavar="section.key=value")
    command.set_defaults(run="foveal.cli.config:run")


def run(*, source: Path | None, overrides: Sequence[str]) -> int:
    """`foveal config`."""
    from foveal.config import WORLD, dump, load

    def tell(text: str) -> None:
        print(text, file=sys.stderr)

    data = None if source else WORLD
    print(dump(load(source, overrides=overrides, data=data, message=tell)), end="")
    return 0
