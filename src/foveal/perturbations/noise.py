"""Perturbations that lay noise over every sample: Gaussian, and a diffusion model's forward process."""

from functools import cache
from typing import Literal

import numpy as np
from jaxtyping import Float
from PIL.Image import Image
from pydantic import Field

from foveal.perturbations.pictures import to_image, to_pixels
from foveal.types import Perturbation, PerturbationContext

DIFFUSION_STEPS = 1000
LEAST_BETA, GREATEST_BETA = 1e-5, 5e-3
BETA_REACH = 6.0
"""The variances added by the forward process rise as a sigmoid over -6..6 from least to greatest."""


class Noise(Perturbation):
    """Add independent Gaussian noise to every sample, cut to the range of a picture.

    Source: PAPO arXiv:2507.06448v5 discusses and rejects it as a masking strategy: pictures stay legible at
    std 0.8.
    """

    type: str = "noise"
    std: float = Field(default=0.5, ge=0)
    """Standard deviation as a share of the full range (1.0 = 255 steps)."""

    def __call__(self, image: Image, *, rng: np.random.Generator, context: PerturbationContext) -> Image:
        """The noisy picture."""
        return _noisy(image, rng, keep=1.0, std=255 * self.std)


class DiffusionNoise(Perturbation):
    """The picture after some steps of a diffusion model's forward process, fewer as training goes on.

    x_t = sqrt(a_t) x + sqrt(1 - a_t) e, with e standard normal, samples in 0..1, a_t the product of
    1 - beta_0 .. 1 - beta_t, and beta_s = 1e-5 + (5e-3 - 1e-5) sigmoid(-6 + 12 s / 999).
    t = floor(strength * (1 - sigmoid(steepness * (progress - midpoint)))); `anneal = "none"`: t = strength.
    Source: NoisyRollout arXiv:2504.13055, code John-AI-Lab/NoisyRollout (gaussian_noise_step 500, decay_mode
    sigmoid, decay_coef 30, decay_sig_mid_step 40 of the 60 steps of its Geometry3K run).
    Differs from its code: progress counts finished steps (there: the running one, from 1); samples are
    rounded (there: cut down) to 8 bits; the generator is keyed.
    """

    type: str = "diffusion_noise"
    strength: int = Field(default=500, ge=0, lt=DIFFUSION_STEPS)
    """Index of the diffusion step at full strength, of 1000 (Geometry3K: 500, K12: 450). 0 is the first one,
    of 1.2 steps of 255."""
    anneal: Literal["sigmoid", "none"] = "sigmoid"
    """Whether the strength falls over the training."""
    steepness: float = Field(default=30.0, ge=0)
    """How fast it falls around the midpoint (Geometry3K: 30, K12: 60)."""
    midpoint: float = Field(default=2 / 3, ge=0, le=1)
    """Finished share of the training at which half the strength is left."""

    def __call__(self, image: Image, *, rng: np.random.Generator, context: PerturbationContext) -> Image:
        """The noisy picture."""
        kept = float(_signal()[self.step(context.progress)])
        return _noisy(image, rng, keep=kept**0.5, std=255 * (1 - kept) ** 0.5)

    def step(self, progress: float) -> int:
        """Index of the diffusion step at this finished share of the training."""
        if self.anneal == "none":
            return self.strength
        # 1 - sigmoid(x) as a tanh, which cannot overflow.
        left = 0.5 - 0.5 * np.tanh(0.5 * self.steepness * (progress - self.midpoint))
        return int(self.strength * left)


@cache
def _signal() -> Float[np.ndarray, "1000"]:
    """a_t: the share of the signal's variance that is left after each step."""
    reach = np.linspace(-BETA_REACH, BETA_REACH, DIFFUSION_STEPS)
    betas = LEAST_BETA + (GREATEST_BETA - LEAST_BETA) / (1 + np.exp(-reach))
    return np.cumprod(1 - betas)


def _noisy(image: Image, rng: np.random.Generator, *, keep: float, std: float) -> Image:
    """`keep` times the samples plus noise of this standard deviation (steps of 255), cut to 0..255."""
    pixels = to_pixels(image)
    values = rng.standard_normal(pixels.shape, dtype=np.float32)
    values *= np.float32(std)
    values += pixels if keep == 1 else pixels * np.float32(keep)
    np.clip(np.rint(values, out=values), 0, 255, out=values)
    return to_image(values.astype(np.uint8))
