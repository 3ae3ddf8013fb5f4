"""`foveal worlds`: look at the procedural problems; remake the tiny checkpoint."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from foveal.cli.checks import Commands, make_folder
from foveal.spec import FovealError, explain


def add(commands: Commands) -> None:
    """The options of `foveal worlds`."""
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
    show.set_defaults(run="foveal.cli.worlds:show")
    cold = parts.add_parser("coldstart", help="train the tiny checkpoint from random weights")
    cold.add_argument("--out", type=Path, required=True, help="model folder to write")
    cold.add_argument("--seed", type=int, default=0)
    cold.add_argument("--text-prior", action="store_true", help="the variant of the shortcut study")
    cold.add_argument(
        "--size",
        choices=("tiny", "small"),
        default="tiny",
        help="small: twice as wide, 3.5 M parameters (tiny)",
    )
    cold.set_defaults(run="foveal.cli.worlds:coldstart")


def show(
    *,
    out: Path,
    families: Sequence[str] | None,
    n: int,
    seed: int,
    split: str,
    noise: float,
    haze: float,
    grade: str,
    shortcut: float,
) -> int:
    """`foveal worlds show`."""
    from pydantic import ValidationError

    from foveal.worlds.base import WorldSettings
    from foveal.worlds.problems import FAMILIES
    from foveal.worlds.sheet import write_contact_sheet

    wanted = {
        "noise": noise,
        "haze": haze,
        "grade": grade,
        "shortcut": shortcut,
        "shortcut_word": "biased" if shortcut else "none",
    }
    try:
        settings = WorldSettings.model_validate(wanted)
    except ValidationError as error:
        raise FovealError(explain(error, WorldSettings, where="worlds show")) from error
    names = tuple(families or FAMILIES)
    for name in names:
        if name not in FAMILIES:
            raise FovealError(f"no such family: {name!r}; known: {', '.join(FAMILIES)}")
    if out.is_dir():
        raise FovealError(
            f"--out {out} is a folder; expected the name of a picture in it, such as {out}/sheet.png"
        )
    make_folder(out.parent, option="--out")
    try:
        write_contact_sheet(out, families=names, n=n, seed=seed, split=split, settings=settings)  # type: ignore[arg-type]
    except OSError as error:
        raise FovealError(
            f"--out {out} cannot be written: {error.strerror or error}; choose another --out"
        ) from error
    print(f"written: {out}")
    return 0


def coldstart(*, out: Path, seed: int, text_prior: bool, size: Literal["tiny", "small"]) -> int:
    """`foveal worlds coldstart`."""
    from foveal.console import Console
    from foveal.worlds.coldstart import coldstart as remake
    from foveal.worlds.coldstart_recipe import recipe_of

    if text_prior and size != "tiny":
        raise FovealError("--text-prior goes on from the shipped tiny model; leave --size out")
    # Everything that can be wrong with the folder is found before the minutes of training.
    make_folder(out, option="--out")
    if any(out.iterdir()) and not (out / "config.json").is_file():
        raise FovealError(
            f"--out {out} holds other files and no model (config.json); choose a new or an empty folder"
        )
    console = Console(stderr=True)
    recipe = recipe_of(size, text_prior=text_prior)
    found = remake(out, seed=seed, settings=recipe, progress=console.print)
    print(f"written: {out} ({found['cpu_seconds']:.0f} CPU seconds)")
    return 0
