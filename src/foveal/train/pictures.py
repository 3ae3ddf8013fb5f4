"""The problems of a step and their pictures under every view; made ahead of time by threads where asked."""

import os
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

import torch
from torch import Tensor

from foveal.config import RunConfig
from foveal.data.views import problem_pixels, view_images
from foveal.keys import Key
from foveal.policy.model import Policy
from foveal.policy.processing import Processor
from foveal.ranges import unheard
from foveal.train.draw import Order
from foveal.types import CLEAN, Perturbation, Problem, ViewName

MOST_WORKERS = 4
"""Threads that "auto" takes at most: between calls of Pillow and numpy they hold the interpreter's lock."""

T = TypeVar("T")


def worker_count(setting: int | Literal["auto"], device: torch.device) -> int:
    """Threads that a setting means: with "auto" none where the model runs on the CPU, which they would take
    from it, else one for each further core, up to MOST_WORKERS."""
    if setting != "auto":
        return setting
    return 0 if device.type == "cpu" else min(MOST_WORKERS, (os.cpu_count() or 1) - 1)


@dataclass(frozen=True, kw_only=True)
class Moment:
    """What the pictures of a step depend on beside the problem."""

    key: Key
    progress: float
    """Finished share of the training, 0 to 1."""

    @classmethod
    def of(cls, config: RunConfig, step: int) -> "Moment":
        """That of a step of a run."""
        return cls(key=(config.seed, step), progress=step / config.steps)


@dataclass(frozen=True, kw_only=True)
class _Viewed:
    problem: Problem
    pixels: Future[Tensor]


class Pictures:
    """Loads the next problems, and perturbs and preprocesses their pictures.

    Without workers everything is made when it is asked for. With workers the problems behind the asked ones
    are loaded and preprocessed meanwhile, and the views of the asked ones are made while completions are
    drawn. Both are the same to the last bit, and an exception is raised where the thing is asked for.
    At most the next round's problems, and this one's views, are held.
    """

    def __init__(
        self,
        problems: Sequence[Problem],
        processor: Processor,
        *,
        perturbations: Mapping[ViewName, Perturbation],
        seed: int,
        workers: int,
    ) -> None:
        self.problems, self.processor, self.perturbations = problems, processor, perturbations
        self.order = Order(len(problems), seed=seed)
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="pictures") if workers else None
        self._next: deque[tuple[int, Future[tuple[Problem, tuple[Tensor, Tensor]]]]] = deque()
        self._views: dict[tuple[ViewName, int], _Viewed] = {}

    @classmethod
    def of(cls, config: RunConfig, problems: Sequence[Problem], policy: Policy) -> "Pictures":
        """Those of a run; the processor keeps what a step encodes."""
        policy.processor.keep(config.sampling.prompts_per_step)
        return cls(
            problems,
            policy.processor,
            perturbations=config.perturbations,
            seed=config.seed,
            workers=worker_count(config.pictures.workers, policy.device),
        )

    def take(self, place: int, count: int) -> list[tuple[int, list[Problem]]]:
        """The problems at `count` places from `place` on, by epoch."""
        wanted = self.order.next(place, count)
        found = [(epoch, [self._problem(index) for index in indices]) for epoch, indices in wanted]
        self._drop_next()
        return found

    def expect(self, place: int, count: int) -> None:
        """Begin to load the problems that `take` will be asked for next."""
        if self._pool is not None:
            for _, indices in self.order.next(place, count):
                self._next.extend((index, self._pool.submit(_apart, self._load, index)) for index in indices)

    def expect_views(self, problems: Sequence[Problem], views: Sequence[ViewName], moment: Moment) -> None:
        """Begin to make the views of problems that `made` will give.

        Perturbations that look at saliency run a model of their own, and are left until then.
        """
        if self._pool is None:
            return
        chosen = [v for v in views if v != CLEAN and not self.perturbations[v].saliency_sources]
        for problem in problems:
            for view in chosen:
                pixels = self._pool.submit(_apart, self._pixels, problem, view, moment)
                self._views[view, id(problem)] = _Viewed(problem=problem, pixels=pixels)

    def made(self, problem: Problem, view: ViewName) -> Tensor | None:
        """The patches of a problem's pictures under a view, where they were begun."""
        begun = self._views.get((view, id(problem)))
        return None if begun is None else begun.pixels.result()

    def forget_views(self) -> None:
        """The step needs no more of them: those of groups that were dropped are not made."""
        for viewed in self._views.values():
            viewed.pixels.cancel()
        self._views.clear()

    def shown(self, problem: Problem, view: ViewName, moment: Moment) -> Problem:
        """The problem with its pictures under a view."""
        images = view_images(
            problem,
            self.perturbations[view],
            processor=self.processor,
            view=view,
            key=moment.key,
            progress=moment.progress,
            donors=self.problems,
        )
        return replace(problem, images=images)

    def close(self) -> None:
        """End the threads; what is being made is waited for, what has not begun is dropped."""
        self._drop_next()
        self.forget_views()
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def _problem(self, index: int) -> Problem:
        if not self._next or self._next[0][0] != index:
            # Another place than was expected, such as after a return to an earlier checkpoint.
            self._drop_next()
            return self.problems[index]
        problem, pixels = self._next.popleft()[1].result()
        self.processor.encode(problem, pixels)
        return problem

    def _load(self, index: int) -> tuple[Problem, tuple[Tensor, Tensor]]:
        problem = self.problems[index]
        return problem, self.processor.pixels(problem.images)

    def _pixels(self, problem: Problem, view: ViewName, moment: Moment) -> Tensor:
        return problem_pixels(
            problem,
            self.perturbations[view],
            processor=self.processor,
            view=view,
            key=moment.key,
            progress=moment.progress,
            donors=self.problems,
        )

    def _drop_next(self) -> None:
        for _, loading in self._next:
            loading.cancel()
        self._next.clear()


def _apart(function: Callable[..., T], *given: object) -> T:
    """Call it as no part of the step's time line."""
    with unheard():
        return function(*given)
