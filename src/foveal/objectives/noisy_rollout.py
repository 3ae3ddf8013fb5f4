"""NoisyRollout: part of each group is sampled from a noised picture; the update sees the clean one."""

from collections.abc import Mapping

from pydantic import Field

from foveal.objectives.extension import Extension, OtherView
from foveal.types import ViewName


class NoisyRollout(Extension):
    """Completions of clean and of noised pictures in one group.

    A share `fraction` of each group's completions is sampled under `noised_view`; all are rewarded and
    compared as one group, and every loss of the base is computed on the clean pictures. Gradient flows as
    in the base. The noise fades with the perturbation ("diffusion_noise" follows the share of the training
    that is done); from `clean_after` on everything is sampled clean. With fraction 0 this is the base bit for
    bit.

    The log-probabilities recorded with such a completion are those of the policy on the noised picture. They
    are not old log-probabilities: these completions are scored on the clean picture before the update.

    Source: arXiv:2504.13055 Eq. 2-3; code John-AI-Lab/NoisyRollout. As in the paper and its code there is no
    correction for the other picture: the ratio starts at 1. Differs from the code: a group of G holds
    G * fraction noised completions (there n clean and n noised ones, so its n = 6 is group_size 12 here);
    every completion carries its view, and the noise is keyed by seed, step and problem.
    """

    type: str = "noisy_rollout"
    fraction: float = Field(default=0.5, ge=0, le=1)
    """Share of each group that is sampled from noised pictures; counts are exact, a tie goes to the clean."""
    noised_view: OtherView = "noised"
    """Name of the view that is sampled from."""
    clean_after: float = Field(default=1.0, ge=0, le=1)
    """Finished share of the training from which on nothing is sampled from noised pictures; 1: never."""

    def sample_views(self, step: int, *, steps: int) -> Mapping[ViewName, float]:
        """The base's shares, `fraction` of them taken over by the noised view."""
        shares = dict(super().sample_views(step, steps=steps))
        if self.fraction == 0 or step >= self.clean_after * steps:
            return shares
        found = {view: share * (1 - self.fraction) for view, share in shares.items()}
        return {**found, self.noised_view: found.get(self.noised_view, 0.0) + self.fraction}
