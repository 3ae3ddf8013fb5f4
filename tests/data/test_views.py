"""The pictures of a view: patches of the model hidden whole, donors, progress, and what is checked first."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from foveal.data.views import check_perturbations, perturb, view_images, view_pixels
from foveal.keys import generator
from foveal.perturbations.chain import Chain, RandomChoice, build_perturbation
from foveal.perturbations.noise import DiffusionNoise
from foveal.perturbations.occlude import PatchMask
from foveal.perturbations.replace import OtherPicture
from foveal.policy import load_policy
from foveal.policy.processing import Processor
from foveal.spec import FovealError
from foveal.types import Perturbation, PerturbationContext, Problem
from policy_cases import NONE, ONE, TALL, TWO, picture, problem

SIZES = [(112, 112), (300, 200), (97, 61), (1000, 700), (20, 15), (1, 1), (1, 150), (33, 6000), (2300, 25)]
"""Whole patches, scaled down, scaled up, one pixel, and long ones that would change when fitted twice."""

CONTEXT = PerturbationContext()


@pytest.fixture(scope="module")
def processor(tiny_folder: Path) -> Processor:
    return load_policy(str(tiny_folder)).processor


def of_size(size: tuple[int, int]) -> Problem:
    return problem("sized", "<image>How many?", size)


def viewed(processor: Processor, of: Problem, perturbation: Perturbation, **more: object) -> torch.Tensor:
    return view_pixels([of], perturbation, processor=processor, view="removed", key=(3, 4), **more)[0]


def patch_rows(rows: int, columns: int, merge: int) -> list[tuple[int, int]]:
    """Place on the patch grid of each row of pixel_values: tokens row by row, inside them patches row by
    row."""
    return [
        (top + dy, left + dx)
        for top in range(0, rows, merge)
        for left in range(0, columns, merge)
        for dy in range(merge)
        for dx in range(merge)
    ]


@pytest.mark.parametrize("size", SIZES)
def test_fitted_pictures_give_the_patches_that_the_processor_makes_of_the_stored_ones(
    processor: Processor, size: tuple[int, int]
) -> None:
    image = picture(*size)
    pixels, grids = processor.pixels([image])
    fitted = processor.fitted(image)
    again, same_grids = processor.pixels([fitted], fitted=True)
    assert torch.equal(again, pixels) and torch.equal(same_grids, grids)
    assert fitted.size == (int(grids[0, 2]) * 14, int(grids[0, 1]) * 14) and fitted.mode == "RGB"


def test_a_very_long_picture_must_not_be_fitted_twice(processor: Processor) -> None:
    once = processor.fitted(picture(33, 6000))
    with pytest.raises(FovealError, match="28 x 5992 pixels is too narrow"):
        processor.fitted(once)
    assert len(processor.pixels([once], fitted=True)[0]) == 2 * 5992 // 14


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("patch", ["model", "token"])
@pytest.mark.parametrize("fill", ["black", (10, 200, 60)])
def test_on_the_models_grid_each_patch_is_hidden_whole_or_exactly_the_clean_one(
    processor: Processor, size: tuple[int, int], patch: str, fill: str | tuple[int, int, int]
) -> None:
    of = of_size(size)
    clean, grids = processor.pixels(of.images)
    found = viewed(processor, of, PatchMask(patch=patch, ratio=0.5, fill=fill))
    rows, columns = int(grids[0, 1]), int(grids[0, 2])
    side = 2 if patch == "token" else 1
    drawn = generator(3, 4, "sized", 0, "removed").random((rows // side, columns // side)) < 0.5
    settings = processor._images
    colour = np.array((0, 0, 0) if fill == "black" else fill) / 255
    wanted = torch.tensor((colour - settings.image_mean) / settings.image_std, dtype=torch.float32)
    for place, (row, column) in enumerate(patch_rows(rows, columns, 2)):
        if drawn[row // side, column // side]:
            channels = found[place].view(3, -1)
            assert torch.equal(channels, channels[:, :1].expand_as(channels))
            assert torch.allclose(channels[:, 0], wanted, atol=1e-6)
        else:
            assert torch.equal(found[place], clean[place])


@pytest.mark.parametrize("patch", ["model", "token", 14])
def test_ratio_zero_hides_nothing_and_one_everything(processor: Processor, patch: str | int) -> None:
    of = of_size((300, 200))
    clean, _ = processor.pixels(of.images)
    assert torch.equal(viewed(processor, of, PatchMask(patch=patch, ratio=0.0)), clean)
    nothing = viewed(processor, of, PatchMask(patch=patch, ratio=1.0)).view(len(clean), 3, -1)
    assert torch.equal(nothing, nothing[:1, :, :1].expand_as(nothing))


def test_squares_of_the_stored_picture_cut_through_the_models_patches(processor: Processor) -> None:
    """The papers' way: after resizing most patches are hidden in part, which the model's grid puts right."""

    def cut(mask: PatchMask) -> float:
        channels = viewed(processor, of_size((1000, 700)), mask).view(-1, 3, 2 * 14 * 14)
        shown = (channels - channels.amin((0, 2), keepdim=True)).abs().amax(1) > 1e-3
        return float((shown.any(-1) & ~shown.float().mean(-1).gt(0.9)).float().mean())

    assert cut(PatchMask(patch=14, ratio=0.5)) > 0.4
    assert cut(PatchMask(patch="model", ratio=0.5)) < 0.01


def test_a_chain_with_a_step_on_the_models_grid_works_there_as_a_whole(processor: Processor) -> None:
    of = of_size((300, 200))
    chain = Chain(steps=("blur", PatchMask(patch="model", ratio=1.0, fill="grey")))
    images = view_images(of, chain, processor=processor, view="removed", key=(1,))
    assert images[0].size == processor.fitted(of.images[0]).size
    assert (np.asarray(images[0]) == 128).all()
    assert len(viewed(processor, of, chain)) == len(processor.pixels(of.images)[0])


def test_several_pictures_are_hidden_each_on_its_own_grid(processor: Processor) -> None:
    clean, grids = processor.pixels(TWO.images)
    found = viewed(processor, TWO, PatchMask(patch="model", ratio=0.5))
    start = 0
    for index, (_, rows, columns) in enumerate(grids.tolist()):
        drawn = generator(3, 4, "two", index, "removed").random((rows, columns)) < 0.5
        for place, (row, column) in enumerate(patch_rows(rows, columns, 2)):
            kept = torch.equal(found[start + place], clean[start + place])
            assert kept != bool(drawn[row, column])
        start += rows * columns
    assert start == len(found)


EVERY = [
    *("patch_mask", "occlusion", "crop", "noise", "diffusion_noise", "colour", "rotation", "perspective"),
    *("blur", "blank", {"type": "patch_mask", "patch": "model"}, {"type": "other_picture"}),
]


@pytest.mark.parametrize("table", EVERY, ids=str)
def test_a_view_is_the_same_whichever_was_made_first(processor: Processor, table: object) -> None:
    perturbation, other = build_perturbation(table), build_perturbation("noise")
    problems = (ONE, TWO, TALL)

    def pixels(of: Problem, under: Perturbation, view: str) -> torch.Tensor:
        return view_pixels([of], under, processor=processor, view=view, key=(0, 1), donors=problems)[0]

    first = {of.id: pixels(of, perturbation, "a") for of in problems}
    for of in reversed(problems):
        pixels(of, other, "b")
        assert torch.equal(pixels(of, perturbation, "a"), first[of.id])
    whole = view_pixels(problems, perturbation, processor=processor, view="a", key=(0, 1), donors=problems)
    assert all(torch.equal(found, first[of.id]) for found, of in zip(whole, problems, strict=True))


def test_the_donor_is_drawn_from_the_data_by_the_key_and_never_the_problem_itself(
    processor: Processor,
) -> None:
    data = [problem(f"p{i}", "<image>?", (56, 56)) for i in range(6)]
    known = {of.id: np.asarray(of.images[0]) for of in data}

    def donor(of: Problem, *key: int) -> str:
        (image,) = view_images(of, OtherPicture(), processor=processor, view="v", key=key, donors=data)
        return next(name for name, pixels in known.items() if np.array_equal(pixels, np.asarray(image)))

    drawn = [donor(data[0], step) for step in range(40)]
    assert set(drawn) == {"p1", "p2", "p3", "p4", "p5"}
    assert drawn == [donor(data[0], step) for step in range(40)]


def test_problems_without_pictures_or_on_the_same_picture_lend_none(processor: Processor) -> None:
    own = problem("own", "<image>?", (56, 56))
    twin = Problem(id="twin", question="<image>Another?", images=(own.images[0].copy(),), answer="2")
    last = problem("last", "<image>?", (28, 28))
    data = [own, *[NONE] * 40, *[twin] * 40, last]
    (image,) = view_images(own, OtherPicture(), processor=processor, view="v", key=(0,), donors=data)
    assert np.array_equal(
        np.asarray(image), np.asarray(last.images[0].resize((56, 56), Image.Resampling.BICUBIC))
    )
    with pytest.raises(FovealError, match="found no other problem with a picture"):
        view_images(own, OtherPicture(), processor=processor, view="v", key=(0,), donors=data[:-1])
    assert view_images(NONE, OtherPicture(), processor=processor, view="v", key=(0,), donors=data) == ()


def test_pictures_are_only_read_for_perturbations_that_want_donors(processor: Processor) -> None:
    class Unread(list[Problem]):
        def __getitem__(self, index: object) -> Problem:  # type: ignore[override]
            raise AssertionError("a donor was read")

    data = Unread([ONE, TWO])
    assert len(viewed(processor, ONE, PatchMask(), donors=data)) == 64
    with pytest.raises(AssertionError, match="a donor was read"):
        viewed(processor, ONE, RandomChoice(options=("noise", "other_picture")), donors=data)


def test_progress_reaches_the_perturbation(processor: Processor) -> None:
    noise = DiffusionNoise(strength=500, midpoint=0.5)
    clean, _ = processor.pixels(ONE.images)
    moved = [float((viewed(processor, ONE, noise, progress=p) - clean).abs().mean()) for p in (0.0, 0.5, 1.0)]
    assert moved[0] > moved[1] > moved[2] and moved[2] < 0.03


def test_maps_for_saliency_come_beside_those_given(processor: Processor) -> None:
    class Seen(Perturbation):
        def __call__(
            self, image: Image.Image, *, rng: np.random.Generator, context: PerturbationContext
        ) -> Image.Image:
            assert (context.patch, context.progress, dict(context.saliency)) == (14, 0.5, {})
            return image

    perturb(ONE, Seen(), view="v", key=(0,), context=PerturbationContext(progress=0.5))


def test_data_of_one_problem_has_no_other_picture_to_show() -> None:
    used = {"removed": Chain(steps=("other_picture",))}
    with pytest.raises(
        FovealError, match=r"\[perturbations.removed\] takes pictures of other problems.*1 problem"
    ):
        check_perturbations(used, problems=[ONE])
    check_perturbations(used, problems=[ONE, TWO])
    check_perturbations({"removed": PatchMask()}, problems=[ONE])
