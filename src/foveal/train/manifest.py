"""What ran where, for manifest.json: command, commit, packages, machine."""

import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from foveal.config import SCHEMA_VERSION
from foveal.spec import PLUGIN_FILES
from foveal.tables import PLUGIN_FOLDERS


def manifest() -> dict[str, Any]:
    """What ran where: command, commit, packages, machine."""
    packages = {}
    for name in (
        "foveal",
        "torch",
        "transformers",
        "torchvision",
        "numpy",
        "pillow",
        "math-verify",
        "pydantic",
    ):
        try:
            packages[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            packages[name] = "absent"
    return {
        "schema_version": SCHEMA_VERSION,
        "started": now(),
        "command": sys.argv,
        "import_paths": list(dict.fromkeys([*PLUGIN_FOLDERS, str(Path.cwd()), *_plugin_folders()])),
        "git": _git(),
        "python": platform.python_version(),
        "packages": packages,
        "machine": {"system": platform.platform(), "processor": platform.machine(), "cores": os.cpu_count()},
    }


def _plugin_folders() -> list[str]:
    """Where the modules of a user's own classes lie."""
    return sorted({str(Path(file).parent) for file in PLUGIN_FILES if Path(file).is_file()})


def _git() -> dict[str, Any] | None:
    """Commit and state of the checkout that this code runs from; None where it was installed from a package.

    The working directory's own repository is none of ours, nor is one that merely lies around an environment.
    """

    def ask(*words: str) -> str:
        command = ("git", "-C", str(Path(__file__).parent), *words)
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        ask("ls-files", "--error-unmatch", Path(__file__).name)
        return {
            "repository": ask("rev-parse", "--show-toplevel"),
            "commit": ask("rev-parse", "HEAD"),
            "changed": bool(ask("status", "--porcelain")),
        }
    except (OSError, subprocess.SubprocessError):
        return None


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
