"""`foveal sweep`: the options."""

import argparse
from pathlib import Path

from foveal.cli.checks import Commands

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


def add(commands: Commands) -> None:
    """The options of `foveal sweep`."""
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
