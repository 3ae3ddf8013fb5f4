"""A policy sharded by FSDP2 over two processes, with gradient checkpointing, against one that is whole."""

import socket
from pathlib import Path

import pytest
from torch import multiprocessing

from sharded_cases import RANKS, train_share


@pytest.mark.slow
@pytest.mark.parametrize(("path", "linears"), [("split", "torch"), ("split", "onednn"), ("tiled", "torch")])
def test_gradients_of_a_sharded_checkpointed_policy_equal_those_of_a_whole_one(
    tiny_folder: Path, tmp_path: Path, path: str, linears: str
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    out = tmp_path / "distance"
    multiprocessing.spawn(train_share, (port, str(tiny_folder), path, linears, str(out)), nprocs=RANKS)
    assert float(out.read_text()) <= 2e-6
