"""What turns the pictures of a problem into those of a view: the protocol of perturbations.

`foveal.types` gives these names too.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from jaxtyping import Float
from PIL.Image import Image

from foveal.instances import Told
from foveal.spec import Component


@dataclass(frozen=True, kw_only=True)
class SaliencySource:
    """Where a saliency map comes from: the folder or hub id of a DINOv2 model, the layers whose attention is
    averaged (counted from 1), and the most patches that it looks at (larger pictures are scaled down).
    """

    model: str
    layers: tuple[int, ...]
    max_patches: int


@dataclass(frozen=True, kw_only=True)
class PerturbationContext:
    """What a perturbation may look at besides the picture."""

    patch: int = 14
    """Side of a vision patch, pixels."""
    merge: int = 2
    """Patches a side that become one visual token."""
    donors: tuple[Image, ...] = ()
    """Pictures of another problem, where the perturbation `needs_donors`."""
    saliency: Mapping[SaliencySource, Float[np.ndarray, "h w"]] = field(default_factory=dict)
    """By source, the attention that each of h x w equal cells of the picture draws."""
    progress: float = 0.0
    """Finished share of the training, 0 to 1."""


class Perturbation(Component, metaclass=Told):
    """Turns a picture into another of the same size; the input is left untouched.

    Called once a picture with a generator keyed by (run seed, step, problem id, image index, view). A
    perturbation that holds others names them in `held`; what they need it needs too.
    """

    required: ClassVar[tuple[str, ...]] = ("__call__",)

    @property
    def held(self) -> tuple["Perturbation", ...]:
        """Perturbations that this one applies."""
        return ()

    @property
    def on_model_grid(self) -> bool:
        """Whether it wants the picture at the size and on the patch grid that the model sees."""
        return any(part.on_model_grid for part in self.held)

    @property
    def needs_donors(self) -> bool:
        """Whether it wants pictures of another problem in the context."""
        return any(part.needs_donors for part in self.held)

    @property
    def saliency_sources(self) -> tuple[SaliencySource, ...]:
        """The saliency maps that it wants in the context, each once."""
        return tuple(dict.fromkeys(source for part in self.held for source in part.saliency_sources))

    def __call__(self, image: Image, *, rng: np.random.Generator, context: PerturbationContext) -> Image:
        """The perturbed picture."""
        raise NotImplementedError
