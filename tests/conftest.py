"""Fixtures of several test folders."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from foveal.policy import Policy

sys.path.insert(0, str(Path(__file__).parent))

# A mistake of the library's own fails a test with its traceback, in processes of their own too.
os.environ["FOVEAL_TRACEBACK"] = "1"


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Verdicts on pictures are kept with the tests, not in the user's home."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FOVEAL_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


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


@pytest.fixture(scope="module")
def policy(tiny_folder: Path) -> "Policy":
    """A policy of that folder, for the tests of one file: a test that changes it puts it back."""
    import torch

    from foveal.policy import load_policy

    torch.set_num_threads(1)
    return load_policy(str(tiny_folder))
