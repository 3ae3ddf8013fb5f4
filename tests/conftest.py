"""Fixtures of several test folders."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Qwen2.5-VL folder with a head of its own; read only."""
    from tiny_models import build_folder

    return build_folder(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def tied_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with a head tied to the embedding; read only."""
    from tiny_models import build_folder

    return build_folder(tmp_path_factory.mktemp("models") / "tied", tied=True)
