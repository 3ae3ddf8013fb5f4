"""The pictures of a problem under a view: what a perturbation needs is found, what it gives is checked."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from PIL.Image import Image
from torch import Tensor

from foveal.keys import Key, generator
from foveal.policy.processing import Processor
from foveal.ranges import PICTURES, spanned
from foveal.saliency import saliency_model
from foveal.spec import FovealError
from foveal.types import Perturbation, PerturbationContext, Problem, ViewName

DONOR_TRIES = 16
"""Random problems looked at for a picture to lend, before all are, one by one."""


def check_perturbations(
    perturbations: Mapping[ViewName, Perturbation], *, problems: Sequence[Problem]
) -> None:
    """Find out before the first step what would stop a later one; loads the saliency models.

    Raises: FovealError for a saliency model that cannot be used, or data of one problem where another
    problem's picture is wanted.
    """
    for view, perturbation in perturbations.items():
        for source in perturbation.saliency_sources:
            saliency_model(source)
        if perturbation.needs_donors and len(problems) < 2:
            raise FovealError(
                f"[perturbations.{view}] takes pictures of other problems, but the data has "
                f"{len(problems)} problem; expected at least 2; use other data or another perturbation"
            )


Made = Callable[[Problem, ViewName], Tensor | None]
"""What `problem_pixels` gives for a problem and a view, where it was made beforehand."""


def view_pixels(
    problems: Sequence[Problem],
    perturbation: Perturbation,
    *,
    processor: Processor,
    view: ViewName,
    key: Key,
    progress: float = 0.0,
    donors: Sequence[Problem] = (),
    made: Made = lambda problem, view: None,
) -> tuple[Tensor, ...]:
    """For each problem what `problem_pixels` gives."""

    def pixels(problem: Problem) -> Tensor:
        found = made(problem, view)
        if found is not None:
            return found
        return problem_pixels(
            problem, perturbation, processor=processor, view=view, key=key, progress=progress, donors=donors
        )

    return tuple(pixels(problem) for problem in problems)


def problem_pixels(
    problem: Problem,
    perturbation: Perturbation,
    *,
    processor: Processor,
    view: ViewName,
    key: Key,
    progress: float = 0.0,
    donors: Sequence[Problem] = (),
) -> Tensor:
    """The patches [n, features] of a problem's pictures under a view, in its clean ones' grids.

    Arguments as those of `view_images`.
    """
    images = view_images(
        problem, perturbation, processor=processor, view=view, key=key, progress=progress, donors=donors
    )
    return processor.pixels(images, fitted=perturbation.on_model_grid)[0]


@spanned(PICTURES)
def view_images(
    problem: Problem,
    perturbation: Perturbation,
    *,
    processor: Processor,
    view: ViewName,
    key: Key,
    progress: float = 0.0,
    donors: Sequence[Problem] = (),
) -> tuple[Image, ...]:
    """The pictures of a problem under a view, keyed by (*key, problem id, image index, view).

    A perturbation on the model's grid gets and gives pictures of the size that the model sees. `donors` are
    the problems that one is drawn from where the perturbation wants another problem's picture.
    """
    lent: tuple[Image, ...] = ()
    if perturbation.needs_donors:
        lent = _drawn(problem, donors, key=(*key, problem.id, "donor", view))
    context = PerturbationContext(
        patch=processor.family.patch,
        merge=processor.family.merge,
        donors=lent,
        progress=progress,
    )
    if perturbation.on_model_grid:
        problem = replace(problem, images=tuple(processor.fitted(image) for image in problem.images))
    return perturb(problem, perturbation, view=view, key=key, context=context)


def perturb(
    problem: Problem,
    perturbation: Perturbation,
    *,
    view: ViewName,
    key: Key,
    context: PerturbationContext,
) -> tuple[Image, ...]:
    """The pictures of a problem under a view; the same for the same key, however work is batched.

    Saliency maps that the perturbation wants are added to the context.
    Raises: FovealError, when the perturbation changes a picture's size.
    """
    found = []
    for index, image in enumerate(problem.images):
        maps = {source: saliency_model(source)(image) for source in perturbation.saliency_sources}
        changed = perturbation(
            image,
            rng=generator(*key, problem.id, index, view),
            context=replace(context, saliency={**context.saliency, **maps}),
        )
        if not isinstance(changed, Image):
            raise FovealError(
                f"perturbation {perturbation.type!r} of view {view!r} gave {type(changed).__name__} (problem "
                f"{problem.id!r}); expected a picture of Pillow; change [perturbations.{view}]"
            )
        if changed.size != image.size:
            raise FovealError(
                f"perturbation {perturbation.type!r} of view {view!r} turned a picture of {image.size} "
                f"into one of {changed.size} (problem {problem.id!r}); expected the same size; change "
                f"[perturbations.{view}]"
            )
        found.append(changed)
    return tuple(found)


def _drawn(problem: Problem, donors: Sequence[Problem], *, key: Key) -> tuple[Image, ...]:
    """The pictures of one of the donors, by the key alone; none where no donor has a picture of its own.

    Problems that share a picture with this one (several questions on one figure) are passed over.
    """
    if not problem.images or not len(donors):
        return ()
    own = {_content(image) for image in problem.images}
    tried = generator(*key).integers(len(donors), size=DONOR_TRIES)
    rest = (tried[-1] + 1 + np.arange(len(donors))) % len(donors)
    for index in (*tried.tolist(), *rest.tolist()):
        donor: Problem = donors[index]
        if donor.id != problem.id and donor.images and own.isdisjoint(map(_content, donor.images)):
            return donor.images
    return ()


def _content(image: Image) -> tuple[str, tuple[int, int], bytes]:
    return image.mode, image.size, image.tobytes()
