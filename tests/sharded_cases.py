"""What each process of a sharded test runs: a module that a fresh interpreter can import by its name."""

import os
from pathlib import Path

import torch
from torch import distributed

from foveal.policy import load_policy
from foveal.train.step import zero_gradients
from foveal.types import CLEAN
from policy_cases import MIXED, batch, weights

RANKS = 2
SHARES = (MIXED[:2], (MIXED[0], MIXED[3]))


def train_share(rank: int, port: int, folder: str, path: str, linears: str, out: str) -> None:
    """One rank's share; the first writes the relative distance of the summed gradient."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", rank=rank, world_size=RANKS)
    from torch.distributed.fsdp import fully_shard

    whole = load_policy(folder, attention="dense")
    for share in SHARES:
        inputs = batch(whole, *share)
        (whole(inputs, CLEAN).logprobs * weights(inputs, torch.float32)).sum().backward()
    wanted = {name: p.grad for name, p in whole.model.named_parameters()}
    policy = load_policy(folder, attention=path, linears=linears)
    policy.model.gradient_checkpointing_enable()  # type: ignore[operator]
    mesh = distributed.device_mesh.init_device_mesh("cpu", (RANKS,))
    blocks = policy.model.model.visual.blocks  # type: ignore[union-attr]
    for block in (*policy.model.model.language_model.layers, *blocks):  # type: ignore[union-attr, misc]
        fully_shard(block, mesh=mesh)
    fully_shard(policy, mesh=mesh)
    inputs = batch(policy, *SHARES[rank])
    for _ in range(2):  # the second over gradients that are there
        zero_gradients(policy)
        (policy(inputs, CLEAN).logprobs * weights(inputs, torch.float32)).sum().backward()
    off = total = 0.0
    for name, parameter in policy.model.named_parameters():
        # FSDP takes the mean over ranks.
        found = parameter.grad.full_tensor() * RANKS  # type: ignore[union-attr]
        off += float((found - wanted[name]).square().sum())
        total += float(wanted[name].square().sum())  # type: ignore[union-attr]
    if rank == 0:
        Path(out).write_text(str((off / total) ** 0.5))
    distributed.barrier()
    distributed.destroy_process_group()
    # Threads of the libraries have aborted an interpreter that ended as usual, after all was done.
    os._exit(0)
