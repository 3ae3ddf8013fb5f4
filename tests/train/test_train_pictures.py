"""Pictures made ahead by threads: the same as in line, while the model works, and nothing is left behind."""

import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from PIL.Image import Image as Picture

from foveal.config import load
from foveal.data.errors import DataError
from foveal.data.views import view_pixels
from foveal.perturbations.occlude import PatchMask
from foveal.policy import load_policy
from foveal.policy import processing as processing_module
from foveal.policy.processing import Processor
from foveal.ranges import listening
from foveal.spec import ConfigError, FovealError
from foveal.train import loop
from foveal.train.pictures import Moment, Pictures, worker_count
from foveal.train.stop import Interrupted
from foveal.train.watcher import Silent
from foveal.types import Perturbation, PerturbationContext, Problem
from run_cases import differences, world_table

NOW = Moment(key=(0, 3), progress=0.5)
LIMIT = 20.0
"""Seconds after which what should happen is taken not to."""


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def processor(tiny_folder: Path) -> Processor:
    return load_policy(str(tiny_folder)).processor


class Data(Sequence[Problem]):
    """Problems whose loading can be watched, held up, or broken; made anew on each access."""

    def __init__(self, size: int = 8, *, broken: int = -1) -> None:
        self.size, self.broken = size, broken
        self.begun, self.go = threading.Event(), threading.Event()
        self.go.set()
        self.made: list[tuple[int, str]] = []

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: Any) -> Any:
        self.made.append((index, threading.current_thread().name))
        self.begun.set()
        assert self.go.wait(LIMIT)
        if index == self.broken:
            raise DataError(f"row {index}: the picture cannot be decoded; repair or remove it")
        colour = (20 * index, 90, 200)
        picture = Image.new("RGB", (56 + 28 * (index % 2), 56), colour)
        return Problem(id=f"p{index}", question="<image>Which?", images=(picture,), answer="1")


class Slow(PatchMask):
    """Waits until it may go on, in every thread but the main one; pictures of 56 x 56 break it when told."""

    type: str = "patch_mask"

    def __call__(self, image: Picture, *, rng: Any, context: PerturbationContext) -> Picture:
        if threading.current_thread() is not threading.main_thread():
            BEGUN.set()
            assert GO.wait(LIMIT)
        if BROKEN.is_set() and image.width == 56:
            raise FovealError("this perturbation takes no picture of 56 pixels; use larger ones")
        return super().__call__(image, rng=rng, context=context)


BEGUN, GO, BROKEN = threading.Event(), threading.Event(), threading.Event()


@pytest.fixture(autouse=True)
def signs() -> Iterator[None]:
    BEGUN.clear()
    GO.clear()
    BROKEN.clear()
    yield
    assert [t.name for t in threading.enumerate() if t.name.startswith("pictures")] == []


def pictures(
    processor: Processor, data: Sequence[Problem], *, workers: int, removed: Perturbation | None = None
) -> Pictures:
    views = {"removed": removed or PatchMask(ratio=0.5)}
    return Pictures(data, processor, perturbations=views, seed=1, workers=workers)


def ids(rounds: list[tuple[int, list[Problem]]]) -> list[tuple[int, list[str]]]:
    return [(epoch, [problem.id for problem in problems]) for epoch, problems in rounds]


def test_the_next_problems_are_loaded_while_the_model_works(processor: Processor) -> None:
    data = Data()
    made = pictures(processor, data, workers=1)
    first = made.take(0, 3)
    assert {name for _, name in data.made} == {"MainThread"}
    data.made.clear()
    data.begun.clear()
    data.go.clear()
    made.expect(3, 3)
    assert data.begun.wait(LIMIT)  # begun, though nobody has asked and this thread goes on
    data.go.set()
    second = made.take(3, 3)
    assert {name.split("_")[0] for _, name in data.made} == {"pictures"} and len(data.made) == 3
    inline = pictures(processor, Data(), workers=0)
    assert ids(first) + ids(second) == ids(inline.take(0, 3)) + ids(inline.take(3, 3))
    made.close()


def test_what_was_made_ahead_is_encoded_without_being_made_again(
    processor: Processor, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = pictures(processor, Data(), workers=2)
    made.expect(0, 4)
    ((_, problems),) = made.take(0, 4)
    made.close()
    with monkeypatch.context() as patch:
        patch.setattr(processor, "pixels", None)  # would fail if it were called
        found = [processor.encode(problem) for problem in problems]
    for problem, encoded in zip(problems, found, strict=True):
        pixels, grids = processor.pixels(problem.images)
        assert torch.equal(encoded.pixels, pixels) and torch.equal(encoded.prompt.grids, grids)


def test_views_are_made_while_completions_are_drawn(processor: Processor) -> None:
    made = pictures(processor, Data(), workers=1, removed=Slow(ratio=0.5))
    ((_, problems),) = made.take(0, 3)
    made.expect_views(problems, ("clean", "removed"), NOW)
    assert BEGUN.wait(LIMIT)  # begun before anyone asked
    GO.set()
    found = [made.made(problem, "removed") for problem in problems]
    made.close()
    wanted = view_pixels(
        problems,
        PatchMask(ratio=0.5),
        processor=processor,
        view="removed",
        key=NOW.key,
        progress=NOW.progress,
    )
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours is not None and torch.equal(ours, theirs)
    assert made.made(problems[0], "removed") is None  # forgotten


def test_a_problem_that_stands_twice_in_a_step_keeps_its_own_views(processor: Processor) -> None:
    made = pictures(processor, Data(1), workers=2)
    rounds = made.take(0, 2)
    problems = [problem for _, part in rounds for problem in part]
    assert [problem.id for problem in problems] == ["p0", "p0"] and problems[0] is not problems[1]
    made.expect_views(problems[:1], ("removed",), NOW)
    assert made.made(problems[0], "removed") is not None and made.made(problems[1], "removed") is None
    made.close()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_picture_is_told_in_the_step_that_needs_it(processor: Processor, workers: int) -> None:
    order = pictures(processor, Data(), workers=0).order.next(0, 6)[0][1]
    made = pictures(processor, Data(broken=order[4]), workers=workers)
    made.take(0, 3)
    made.expect(3, 3)
    with pytest.raises(DataError, match=rf"^row {order[4]}: the picture cannot be decoded; repair"):
        made.take(3, 3)
    made.close()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_perturbation_that_fails_is_told_where_its_pictures_are_asked_for(
    processor: Processor, workers: int
) -> None:
    GO.set()
    BROKEN.set()
    removed = Slow(ratio=0.5)
    made = pictures(processor, Data(), workers=workers, removed=removed)
    ((_, problems),) = made.take(0, 4)
    made.expect_views(problems, ("removed",), NOW)
    with pytest.raises(FovealError, match="^this perturbation takes no picture of 56 pixels"):
        view_pixels(problems, removed, processor=processor, view="removed", key=NOW.key, made=made.made)
    made.close()


def test_another_place_than_was_expected_is_loaded_in_line(processor: Processor) -> None:
    made = pictures(processor, Data(), workers=1)
    made.expect(0, 3)
    inline = pictures(processor, Data(), workers=0)
    assert ids(made.take(5, 5)) == ids(inline.take(5, 5))
    assert not made._next
    made.close()


def test_no_more_than_a_round_and_its_views_are_held(processor: Processor) -> None:
    made = pictures(processor, Data(6), workers=2)
    place = 0
    for _ in range(4):
        rounds = made.take(place, 4)
        place += 4
        for _, problems in rounds:
            made.expect_views(problems, ("removed",), NOW)
        made.expect(place, 4)
        assert len(made._next) == 4 and len(made._views) == 4
        made.forget_views()
        assert not made._views
    made.close()
    assert not made._next


def test_closing_drops_what_has_not_begun_and_waits_for_the_rest(processor: Processor) -> None:
    data = Data()
    made = pictures(processor, data, workers=1)
    data.go.clear()
    made.expect(0, 8)
    assert data.begun.wait(LIMIT)
    ending = threading.Thread(target=made.close)
    ending.start()
    data.go.set()
    ending.join(LIMIT)
    assert not ending.is_alive() and len(data.made) == 1


def test_threads_are_no_part_of_a_profile(processor: Processor) -> None:
    heard: list[str] = []

    class Ear:
        def enter(self, name: str) -> None:
            heard.append(threading.current_thread().name)

        def leave(self) -> None:
            heard.append(threading.current_thread().name)

        turn = enter

    made = pictures(processor, Data(), workers=1)
    with listening(Ear()):
        made.expect(0, 2)
        ((_, problems),) = made.take(0, 2)
        made.expect_views(problems, ("removed",), NOW)
        made.made(problems[1], "removed")
    made.close()
    assert set(heard) == {"MainThread"}


def test_auto_takes_threads_only_beside_another_device(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    assert worker_count("auto", cpu) == 0 and worker_count("auto", gpu) == 4
    assert worker_count(3, cpu) == worker_count(3, gpu) == 3 and worker_count(0, gpu) == 0
    for cores, wanted in ((1, 0), (2, 1), (None, 0)):
        monkeypatch.setattr(os, "cpu_count", lambda cores=cores: cores)
        assert worker_count("auto", gpu) == wanted


def test_a_number_of_workers_is_checked(tiny_folder: Path) -> None:
    table = world_table(tiny_folder)
    assert load(table, overrides=["pictures.workers=2"]).pictures.workers == 2
    assert load(table).pictures.workers == "auto"
    with pytest.raises(ConfigError, match=r"pictures\.workers"):
        load(table, overrides=["pictures.workers=-1"])
    with pytest.raises(ConfigError, match=r"pictures\.workers"):
        load(table, overrides=["pictures.workers=many"])


def test_the_processor_keeps_a_step_however_large(
    processor: Processor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processing_module, "CACHED_BYTES", 1)
    monkeypatch.setattr(processing_module, "CACHED_PROBLEMS", 2)
    data = Data()
    problems = [data[index] for index in range(8)]
    for least in (4, 1):
        processor.keep(least)
        found = [processor.encode(problem) for problem in problems]
        again = [processor.encode(problem) for problem in problems[-least:]]
        assert all(a is b for a, b in zip(found[-least:], again, strict=True))
        assert len(processor._cache) == least
    processor.keep(1)


def run_table(model: Path, workers: int) -> dict[str, Any]:
    """Epochs that end within a step, refills, another problem's picture, all pictures of a step recorded."""
    return world_table(
        model,
        steps=4,
        objective={"type": "papo", "base": {"type": "run_cases:Halves"}},
        sampling={"group_size": 3, "prompts_per_step": 3, "max_new_tokens": 5, "max_refills": 2},
        perturbations={"removed": {"type": "other_picture"}},
        pictures={"workers": workers},
        record={"groups": 3, "token_groups": 3},
    )


def test_a_run_with_workers_is_the_run_without(tiny_folder: Path, tmp_path: Path) -> None:
    for workers in (0, 2):
        loop.start(load(run_table(tiny_folder, workers)), tmp_path / str(workers))
    assert differences(tmp_path / "2", tmp_path / "0") == []


def test_a_run_with_workers_that_was_stopped_goes_on_as_it_would_have(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load(run_table(tiny_folder, 2))
    loop.start(config, tmp_path / "whole")

    class Stops(Silent):
        def step(self, line: Any) -> None:
            if line["kind"] == "step" and line["step"] == 2:
                raise Interrupted("stopped here")

    with pytest.raises(Interrupted):
        loop.start(config, tmp_path / "half", watcher=Stops())
    loop.resume(tmp_path / "half", config=config)
    assert differences(tmp_path / "half", tmp_path / "whole") == []
