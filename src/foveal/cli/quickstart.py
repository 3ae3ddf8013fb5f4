"""`foveal quickstart`: the options."""

from pathlib import Path

from foveal.cli.checks import Commands


def add(commands: Commands) -> None:
    """The options of `foveal quickstart`."""
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
