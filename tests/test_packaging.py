"""What a user gets who installs the built package."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def wheel_names(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Paths inside a wheel built from a copy of the tree, so that the tree keeps no build folder."""
    copy, out = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(ROOT / "src", copy / "src", ignore=ignored)
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        str(copy),
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(out),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(zipfile.ZipFile(next(out.glob("foveal-*.whl"))).namelist())


@pytest.mark.slow
def test_the_wheel_holds_every_file_of_the_source_tree(wheel_names: set[str]) -> None:
    source = ROOT / "src"
    wanted = {
        path.relative_to(source).as_posix()
        for path in (source / "foveal").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert wanted <= wheel_names, f"missing from the wheel: {sorted(wanted - wheel_names)}"


@pytest.mark.slow
def test_the_wheel_holds_the_licence_and_the_command(wheel_names: set[str]) -> None:
    assert any(name.endswith("licenses/LICENSE") for name in wheel_names)
    assert any(name.endswith("entry_points.txt") for name in wheel_names)
