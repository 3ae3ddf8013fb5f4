"""Plain functions as rewards, by the signatures that TRL, EasyR1, verl and ms-swift give theirs.

`signatures` calls them, `calls` does so in a grading worker, and `functions` makes rewards of them. What is
offered here is loaded when it is used: a worker needs only the first two, which are light.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from foveal.rewards.adapters.functions import Function as Function
    from foveal.rewards.adapters.functions import Python as Python
    from foveal.rewards.adapters.functions import build_reward as build_reward
    from foveal.rewards.adapters.functions import provided as provided
    from foveal.rewards.adapters.functions import reward_from as reward_from
    from foveal.rewards.adapters.functions import unprovided as unprovided

__all__ = ["Function", "Python", "build_reward", "provided", "reward_from", "unprovided"]


def __getattr__(name: str) -> Any:  # noqa: ANN401
    """What `__all__` names, on first use."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from foveal.rewards.adapters import functions

    return getattr(functions, name)
