"""Sound input for the fuzz, made once a process."""

from pathlib import Path

import pytest
import torch

from fuzz import kinds


@pytest.fixture(scope="session", autouse=True)
def bases(tmp_path_factory: pytest.TempPathFactory) -> None:
    torch.set_num_threads(1)
    kinds.use(tmp_path_factory.mktemp("bases"))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for cases; nothing asks the hub."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    return tmp_path
