"""`foveal quickstart`: the options."""

from pathlib import Path

from foveal.cli.checks import Commands


def add(commands: Commands) -> None:
    """The options of `foveal quickstart`."""
    command = commands.add_parser(
        "quickstart",
        help="train GRPO, CPPO and PAPO where a word gives answers away, and see who still looks",
        description="Train GRPO, CPPO and PAPO with equal steps and seeds from a tiny checkpoint that ships "
        "with the package, in a world in which a word of the question gives most answers away. Evaluate all "
        "on the same held-out problems, in which the word lies; print one table and write report.html.",
    )
    command.add_argument(
        "--out",
        type=Path,
        help="folder (default: runs/quickstart, or runs/quickstart_plain for --study plain)",
    )
    command.add_argument(
        "--study",
        choices=("shortcut", "plain"),
        default="shortcut",
        help="plain: no word, the picture is the only source (shortcut)",
    )
    command.add_argument("--model", help="start from another model folder (default: the shipped one)")
    command.add_argument("--seeds", type=int, default=2, help="runs of each method (2)")
    command.add_argument("--steps", type=int, help="training steps of each run (60; plain: 20)")
    command.add_argument("--problems", type=int, help="held-out problems (400; plain: 1000)")
    command.add_argument("--jobs", type=int, help="runs at the same time (default: one a core)")
    command.set_defaults(run="foveal.quickstart:run")
