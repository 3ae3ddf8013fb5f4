"""Perturbations made of others: one drawn at random, or several in a row."""

from typing import Annotated

import numpy as np
from PIL.Image import Image
from pydantic import BeforeValidator, Field, SerializeAsAny

from foveal.perturbations import REGISTRY
from foveal.perturbations.pictures import to_rgb
from foveal.spec import ConfigError, build_component
from foveal.types import Perturbation, PerturbationContext


def build_perturbation(value: object) -> Perturbation:
    """A perturbation from a table with a `type`, a name, or an instance.

    Raises: ConfigError for an unknown name, a bad field, or a class that is not a perturbation.
    """
    found = build_component(value, REGISTRY, kind="perturbation", base=Perturbation)
    if not isinstance(found, Perturbation):
        raise ConfigError(
            f"{type(found).__name__} is not a perturbation; derive it from foveal.types.Perturbation"
        )
    return found


Held = Annotated[SerializeAsAny[Perturbation], BeforeValidator(build_perturbation)]
"""A perturbation held by another, written as a table with a `type` or a bare name."""


class RandomChoice(Perturbation):
    """One of `options`, drawn evenly for each picture: how CPPO draws its removed and preserved pictures."""

    type: str = "random_choice"
    options: tuple[Held, ...] = Field(min_length=1)

    @property
    def held(self) -> tuple[Perturbation, ...]:
        """The options."""
        return self.options

    def __call__(self, image: Image, *, rng: np.random.Generator, context: PerturbationContext) -> Image:
        """The picture under the option drawn."""
        chosen = self.options[int(rng.integers(len(self.options)))]
        return chosen(image, rng=rng, context=context)


class Chain(Perturbation):
    """All of `steps`, one after the other; no step gives the picture in RGB.

    One step on the model's grid puts the whole chain there. A saliency map is that of the first picture: put
    a salient mask in front of steps that move things.
    """

    type: str = "chain"
    steps: tuple[Held, ...] = ()

    @property
    def held(self) -> tuple[Perturbation, ...]:
        """The steps."""
        return self.steps

    def __call__(self, image: Image, *, rng: np.random.Generator, context: PerturbationContext) -> Image:
        """The picture after the last step."""
        picture = to_rgb(image)
        for step in self.steps:
            picture = step(picture, rng=rng, context=context)
        return picture
