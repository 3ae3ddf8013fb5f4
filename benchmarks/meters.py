"""Where a step's CPU seconds, FLOPs, pictures and positions go, phase by phase."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

from foveal.ranges import BACKWARD, OPTIMIZER, SCORING, UPDATE, listening

PHASES = {SCORING: "score", UPDATE: "update", BACKWARD: "backward", OPTIMIZER: "optimizer"}
"""Phases by the library's ranges; other ranges belong to the phase around them."""


class Phases:
    """CPU seconds of nested phases, each without those inside it, and counts by phase.

    Keys are `s/PHASE`, `flops/PHASE` (while a FlopCounterMode is given), `images/PHASE` (pictures through the
    vision tower) and `lm_positions/PHASE` (positions through the text layers).
    """

    def __init__(self) -> None:
        self.now: Counter[str] = Counter()
        self.flops: Any = None
        self._open: list[str] = []
        self._seconds = 0.0
        self._flops = 0

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        self._open_phase(name)
        try:
            yield
        finally:
            self.leave()

    def enter(self, name: str) -> None:
        self._open_phase(PHASES.get(name, self._now()))

    def leave(self) -> None:
        self._close_interval()
        self._open.pop()

    def turn(self, name: str) -> None:
        """Parts of a backward are all backward."""

    def count(self, what: str, number: int) -> None:
        self.now[f"{what}/{self._now()}"] += number

    def take(self) -> Counter[str]:
        """What was counted since the last call."""
        found, self.now = self.now, Counter()
        return found

    def _now(self) -> str:
        return self._open[-1] if self._open else "other"

    def _open_phase(self, name: str) -> None:
        self._close_interval()
        self._open.append(name)

    def _close_interval(self) -> None:
        seconds = time.process_time()
        flops = self.flops.get_total_flops() if self.flops is not None else 0
        if self._open:
            self.now[f"s/{self._open[-1]}"] += seconds - self._seconds
            if self.flops is not None:
                self.now[f"flops/{self._open[-1]}"] += flops - self._flops
        self._seconds, self._flops = seconds, flops


@contextmanager
def watching(policy: Any, phases: Phases) -> Iterator[None]:  # noqa: ANN401
    """Within `train_step`: the phases `score`, `update` (forward and losses), `backward` and `optimizer`;
    everywhere: pictures through the vision tower and positions through the text layers."""
    visual, language = policy.model.model.visual, policy.model.model.language_model
    make_decoder = policy.family.decoder

    def seen_pictures(module: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        grids = kwargs["grid_thw"] if "grid_thw" in kwargs else args[1]
        phases.count("images", len(grids))

    def seen_text(module: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        embeddings = kwargs["inputs_embeds"]
        phases.count("lm_positions", embeddings.shape[0] * embeddings.shape[1])

    def decoder(*args: Any) -> Callable[..., Any]:  # noqa: ANN401
        return _counted(make_decoder(*args), phases)

    with ExitStack() as stack:
        stack.enter_context(listening(phases))
        stack.enter_context(mock.patch.object(policy.family, "decoder", decoder))
        for module, hook in ((visual, seen_pictures), (language, seen_text)):
            stack.callback(module.register_forward_pre_hook(hook, with_kwargs=True).remove)
        yield


def _counted(decoder: Any, phases: Phases) -> Callable[..., Any]:  # noqa: ANN401
    """A decoder that counts its rows, unless it runs the model's own layers, which are counted there."""

    def run(embeddings: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        before = _positions(phases)
        found = decoder(embeddings, *args, **kwargs)
        if _positions(phases) == before:
            phases.count("lm_positions", len(embeddings))
        return found

    run.keeps_shapes = False  # type: ignore[attr-defined]
    run.record = decoder.record  # type: ignore[attr-defined]
    return run


def _positions(phases: Phases) -> int:
    return sum(number for name, number in phases.now.items() if name.startswith("lm_positions/"))
