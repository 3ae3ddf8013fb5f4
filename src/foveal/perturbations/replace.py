"""Perturbations that put something else in the picture's place."""

import numpy as np
from PIL import Image as Images
from PIL.Image import Image

from foveal.perturbations.pictures import Fill, fill_colour, to_rgb
from foveal.spec import FovealError
from foveal.types import Perturbation, PerturbationContext


class Blank(Perturbation):
    """One colour all over: nothing can be seen."""

    type: str = "blank"
    fill: Fill = "black"

    def __call__(self, image: Image, *, rng: np.random.Generator, context: PerturbationContext) -> Image:
        """The empty picture."""
        picture = to_rgb(image)
        return Images.new("RGB", picture.size, fill_colour(self.fill, picture))


class OtherPicture(Perturbation):
    """A picture of another problem, scaled to this one's size: a lifelike picture without the information.

    What a policy that does not look cannot tell apart from its own; an answer that stays as likely owes
    nothing to the picture. Training draws the other problem from its data, by the key of this one.
    Raises: FovealError, when there is no other problem with a picture.
    """

    type: str = "other_picture"

    @property
    def needs_donors(self) -> bool:
        """Always."""
        return True

    def __call__(self, image: Image, *, rng: np.random.Generator, context: PerturbationContext) -> Image:
        """The other picture."""
        size = to_rgb(image).size
        if not context.donors:
            raise FovealError(
                "the perturbation 'other_picture' found no other problem with a picture of its own; it takes "
                "one from the data; use data with several pictures, or another perturbation"
            )
        donor = context.donors[int(rng.integers(len(context.donors)))]
        return to_rgb(donor).resize(size, Images.Resampling.BICUBIC)
