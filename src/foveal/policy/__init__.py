"""The trained model: loading, group-shared forward, and the adapters of the model families."""

from foveal.policy.model import Policy, load_policy

__all__ = ["Policy", "load_policy"]
