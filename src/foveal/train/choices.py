"""What a run chooses for its machine at start, by measurement where it is not configured; recorded, and taken
again on resume."""

from collections.abc import Callable, Mapping
from typing import Any

import torch

from foveal.config import RunConfig
from foveal.policy.model import Policy
from foveal.rollout.local import LocalEngine
from foveal.train.linears import choose_linears
from foveal.train.measure import choose_attention, choose_threads, chosen_head


def choose(
    config: RunConfig,
    policy: Policy,
    reference: Policy | None,
    engine: LocalEngine,
    *,
    longest: int,
    recorded: Mapping[str, Any] | None,
    message: Callable[[str], None],
) -> dict[str, Any]:
    """Set threads, the way to attend, the head's and the linear layers' products; what was chosen, and how.

    `longest`: tokens of the longest prompt. `recorded`: the choices of the run that goes on, where it does.
    """
    found = dict(recorded or {}) | {"decode": engine.decode}
    found |= choose_threads(config.threads, found, message=message)
    torch.set_num_threads(int(found["threads"]))
    found |= choose_attention(config, policy, longest=longest, recorded=found, message=message)
    found |= chosen_head(policy, message=message)
    return found | choose_linears(config.model.linears, policy, reference, recorded=found, message=message)
