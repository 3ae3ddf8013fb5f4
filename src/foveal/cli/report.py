"""`foveal report`: the page of a run, quickstart or sweep folder."""

from pathlib import Path

from foveal.cli.checks import Commands
from foveal.spec import FovealError


def add(commands: Commands) -> None:
    """The options of `foveal report`."""
    command = commands.add_parser("report", help="write report.html of a run, quickstart or sweep folder")
    command.add_argument("folder", type=Path)
    command.set_defaults(run="foveal.cli.report:run")


def run(*, folder: Path) -> int:
    """`foveal report`."""
    try:
        from foveal.report.page import write_report
        from foveal.report.run_page import write_run_report
        from foveal.report.sweep_page import write_sweep_report
    except ModuleNotFoundError as error:
        raise FovealError(
            f"a report needs the extra report, {error.name} is missing: pip install 'foveal[report]'"
        ) from error
    from foveal.sweep.plan import PLAN
    from foveal.sweep.results import collect

    if (folder / "metrics.jsonl").is_file():
        page = write_run_report(folder)
    elif (folder / PLAN).is_file():
        collect(folder)
        page = write_sweep_report(folder)
    elif (folder / "summary.json").is_file():
        page = write_report(folder)
    else:
        raise FovealError(
            f"{folder} is neither a run (metrics.jsonl) nor a quickstart (summary.json) nor a sweep "
            f"({PLAN}); check the path"
        )
    print(f"written: {page}")
    return 0
