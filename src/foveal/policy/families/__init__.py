"""One adapter a model family: what the shared forward must know of a model and transformers does not say."""

from foveal.policy.families.base import Family, family_of

__all__ = ["Family", "family_of"]
