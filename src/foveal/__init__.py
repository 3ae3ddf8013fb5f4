"""foveal: train vision-language models that look before they reason.

    import foveal

    run = foveal.train(data="problems.parquet", model="Qwen/Qwen2.5-VL-3B-Instruct", steps=100)
    run.metrics["reward/mean"].plot()
    run.evaluate("held_out.parquet").accuracy

`foveal.losses` has the loss of every method as a plain function, for a training loop of one's own. Nothing
heavy is loaded before it is used.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_API = ("Callback", "Run", "evaluate", "resume", "reward")
_NAMES: dict[str, str] = {
    **dict.fromkeys(_API, "foveal.api"),
    **dict.fromkeys(("Objective", "Problem", "Reward"), "foveal.types"),
    **dict.fromkeys(("ConfigError", "FovealError"), "foveal.spec"),
    "Interrupted": "foveal.train.stop",
    "CISPO": "foveal.objectives.cispo",
    "CPPO": "foveal.objectives.cppo",
    "DAPO": "foveal.objectives.dapo",
    "DVRP": "foveal.objectives.dvrp",
    "DrGRPO": "foveal.objectives.dr_grpo",
    "GRPO": "foveal.objectives.grpo",
    "GSPO": "foveal.objectives.gspo",
    "NoisyRollout": "foveal.objectives.noisy_rollout",
    "PAPO": "foveal.objectives.papo",
    "PerceptionReward": "foveal.objectives.perception_reward",
    "RLOO": "foveal.objectives.rloo",
    "ReinforcePP": "foveal.objectives.reinforce_pp",
    "VPPO": "foveal.objectives.vppo",
}
"""Where the names of this package are; they are loaded when they are used."""

_MODULES = ("losses", "train")
"""Modules that are loaded as attributes; `foveal.train` is one that can be called."""

if TYPE_CHECKING:
    from foveal import losses as losses
    from foveal.api import Callback as Callback
    from foveal.api import Run as Run
    from foveal.api import evaluate as evaluate
    from foveal.api import resume as resume
    from foveal.api import reward as reward
    from foveal.api import train as train
    from foveal.objectives.cispo import CISPO as CISPO
    from foveal.objectives.cppo import CPPO as CPPO
    from foveal.objectives.dapo import DAPO as DAPO
    from foveal.objectives.dr_grpo import DrGRPO as DrGRPO
    from foveal.objectives.dvrp import DVRP as DVRP
    from foveal.objectives.grpo import GRPO as GRPO
    from foveal.objectives.gspo import GSPO as GSPO
    from foveal.objectives.noisy_rollout import NoisyRollout as NoisyRollout
    from foveal.objectives.papo import PAPO as PAPO
    from foveal.objectives.perception_reward import PerceptionReward as PerceptionReward
    from foveal.objectives.reinforce_pp import ReinforcePP as ReinforcePP
    from foveal.objectives.rloo import RLOO as RLOO
    from foveal.objectives.vppo import VPPO as VPPO
    from foveal.spec import ConfigError as ConfigError
    from foveal.spec import FovealError as FovealError
    from foveal.train.stop import Interrupted as Interrupted
    from foveal.types import Objective as Objective
    from foveal.types import Problem as Problem
    from foveal.types import Reward as Reward


def __getattr__(name: str) -> Any:  # noqa: ANN401
    if name in _MODULES:
        return importlib.import_module(f"foveal.{name}")
    if name not in _NAMES:
        raise AttributeError(f"module 'foveal' has no attribute {name!r}")
    found = getattr(importlib.import_module(_NAMES[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_NAMES, *_MODULES})
