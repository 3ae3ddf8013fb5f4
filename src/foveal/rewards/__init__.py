"""Rewards: rules that grade a completion, and the worker processes in which slow ones run.

A user's own reward is a file with a class derived from `foveal.types.Reward`, chosen by `type =
"my_file:MyReward"`. Nothing heavy is imported here, so that a grading worker starts in a fraction of a
second.
"""

REGISTRY: dict[str, str] = {
    "boxed": "foveal.rewards.rules:Boxed",
    "choice": "foveal.rewards.rules:Choice",
    "number": "foveal.rewards.rules:Number",
    "mathruler": "foveal.rewards.mathruler:Mathruler",
    "format": "foveal.rewards.rules:Format",
    "facts": "foveal.worlds.facts:Facts",
    "python": "foveal.rewards.adapters:Python",
}
"""Short name -> import path."""

DEFAULT: tuple[dict[str, str | float], ...] = (
    {"type": "boxed", "weight": 0.9},
    {"type": "format", "weight": 0.1},
)
"""0.9 accuracy + 0.1 format, as PAPO and CPPO train (arXiv:2507.06448, released reward function)."""

__all__ = ["DEFAULT", "REGISTRY"]
