"""The library from Python, as in a notebook: `foveal.train`, `foveal.resume`, `foveal.evaluate`.

The names stand in the package itself, and are loaded when they are first used.
"""

from foveal.api.evaluating import evaluate
from foveal.api.run import Run
from foveal.api.training import resume, train
from foveal.rewards.adapters import reward_from as reward
from foveal.train.watcher import Callback

__all__ = ["Callback", "Run", "evaluate", "resume", "reward", "train"]
