"""The work that the cost benchmarks do: pictures, completions of set lengths, rewards that set the gate."""

import argparse
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock

OBJECTIVES = ("grpo", "papo", "papo_d", "cppo")

QUESTION = "<image>How many red circles are in the picture? Answer with one number."


def settle(threads: int) -> None:
    """What a run of the library does first: so many threads, and freed memory kept for the next step."""
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(threads)
    import torch

    from foveal.train.measure import keep_freed_memory

    torch.set_num_threads(threads)
    keep_freed_memory()


def resolve(found: argparse.Namespace, parser: argparse.ArgumentParser, *, shares: Sequence[float]) -> None:
    """Check the sizes that were asked for, and add `side` and `limits` to them."""
    try:
        found.side = side_of(found.visual_tokens)
        found.limits = length_range(found.response)
        for share in shares:
            gated_count(share, found.group)
    except ValueError as error:
        parser.error(str(error))


def load(checkpoint: str) -> Any:  # noqa: ANN401
    """The policy of a folder; one that cannot be read ends the benchmark with the reason."""
    from foveal.policy import load_policy
    from foveal.spec import FovealError

    try:
        return load_policy(checkpoint)
    except FovealError as error:
        raise SystemExit(f"--checkpoint: {error}") from error


def side_of(visual_tokens: int) -> int:
    """Pixels of the side of a picture of so many visual tokens."""
    side = math.isqrt(visual_tokens)
    if side < 1 or side**2 != visual_tokens:
        raise ValueError(f"--visual-tokens is {visual_tokens}; expected a square number")
    return 28 * side


def length_range(text: str) -> tuple[int, int]:
    """`64` as (64, 64), `8..256` as (8, 256)."""
    low, _, high = text.partition("..")
    numbers = (low, high or low)
    found = tuple(int(n) if n.isdecimal() else 0 for n in numbers)
    if not 1 <= found[0] <= found[1]:
        raise ValueError(f"--response is {text!r}; expected a length of at least 1, or LOW..HIGH")
    return found[0], found[1]


def lengths(limits: tuple[int, int], *, rows: int, seed: int, step: int) -> list[int]:
    """A length for each completion of a step, uniform within the limits, both ends included."""
    import numpy as np

    draw = np.random.default_rng((seed, step, rows))
    found: list[int] = draw.integers(limits[0], limits[1], rows, endpoint=True).tolist()
    return found


def picture(index: int, side: int, seed: int) -> Any:  # noqa: ANN401
    """A picture of noise: what is drawn does not change the cost."""
    import numpy as np
    from PIL import Image

    pixels = np.random.default_rng((seed, index)).integers(0, 256, (side, side, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def problem(index: int, side: int, seed: int) -> Any:  # noqa: ANN401
    """A question about a picture."""
    from foveal.types import Problem

    return Problem(id=str(index), question=QUESTION, images=(picture(index, side, seed),), answer="3")


def objective(name: str, *, gated: float | None = None) -> Any:  # noqa: ANN401
    """An objective with its defaults; a CPPO whose every completion is gated has no gate."""
    from foveal.objectives import REGISTRY
    from foveal.spec import build_component

    table: dict[str, object] = {"type": name}
    if name == "papo_d":
        table = {"type": "papo", "base": {"type": "dapo"}}
    if gated == 1 and name == "cppo":
        table["gate"] = False
    return build_component(table, REGISTRY, kind="objective")


def perturbations() -> dict[str, Any]:
    """The two views: a patch mask and a change of colours."""
    from foveal.perturbations import REGISTRY
    from foveal.spec import build_component

    tables = {"removed": {"type": "patch_mask"}, "preserved": {"type": "colour"}}
    return {name: build_component(t, REGISTRY, kind="perturbation") for name, t in tables.items()}


def gated_count(gated: float, group: int) -> int:
    """Completions of a group that get a positive advantage; with all of them gated, half do: see
    `objective`."""
    if gated == 1:
        return max(1, group // 2)
    count = round(gated * group)
    if not 1 <= count < group:
        raise ValueError(
            f"--gated {gated:g} is {gated * group:g} of a group of {group}; expected at least 1 completion "
            "and fewer than all, or 1, which turns the gate off"
        )
    return count


def grade(of: Any, completions: Sequence[Any], *, gated: float | None = None) -> Any:  # noqa: ANN401
    """A finished group. Rewards: the share of digits, half a point for the answer, and a little more for
    each place, so that no completion has advantage 0: what leaving those out saves is not part of a cost.
    With `gated`: 1 for the first completions and 0 for the others, so that this share has a positive
    advantage."""
    from foveal.types import Group

    if gated is None:
        rewards = tuple(
            sum(c.isdigit() for c in x.text) / max(1, len(x.text))
            + 0.5 * (of.answer in x.text)
            + 1e-3 * place**2
            for place, x in enumerate(completions)
        )
    else:
        first = gated_count(gated, len(completions))
        rewards = tuple(float(place < first) for place in range(len(completions)))
    correct = tuple(of.answer in x.text for x in completions)
    return Group(problem=of, completions=tuple(completions), rewards=rewards, correct=correct)


@contextmanager
def ending_after(wanted: Sequence[int]) -> Iterator[None]:
    """The local sampler ends each completion after its wanted number of tokens, whatever it draws.

    An end token drawn by chance would make the work depend on the weights.
    """
    import torch

    from foveal.rollout import local

    class Ending(local.Draw):
        def __init__(self, policy: Any, sampling: Any) -> None:  # noqa: ANN401
            super().__init__(policy, sampling)
            self.counts = torch.tensor(list(wanted), device=policy.device)

        def is_end(self, token: Any, rows: Any, step: Any) -> Any:  # noqa: ANN401
            return self.counts[rows] <= step + 1

    with mock.patch.object(local, "Draw", Ending):
        yield
