import doctest

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from PIL import Image
from pydantic import ValidationError

import foveal.keys
from foveal.keys import generator
from foveal.perturbations import REGISTRY
from foveal.perturbations.chain import Chain, RandomChoice, build_perturbation
from foveal.perturbations.distort import Colour, Perspective, Rotation, perspective_coefficients
from foveal.perturbations.occlude import Blank, Crop, Noise, Occlusion, PatchMask
from foveal.perturbations.pictures import fill_colour, to_pixels, to_rgb
from foveal.spec import ConfigError, FovealError, build_component
from foveal.types import Perturbation, PerturbationContext

CONTEXT = PerturbationContext(patch=14, merge=2)
ALL: dict[str, Perturbation] = {
    "patch_mask": PatchMask(),
    "patch_mask_model": PatchMask(patch="model", fill="mean"),
    "patch_mask_background": PatchMask(patch=3, ratio=0.5, fill="background"),
    "occlusion": Occlusion(),
    "occlusion_grey": Occlusion(fill="grey"),
    "crop": Crop(),
    "noise": Noise(),
    "blank": Blank(fill=(1, 2, 3)),
    "colour": Colour(),
    "rotation": Rotation(),
    "perspective": Perspective(probability=1.0),
    "random_choice": RandomChoice(options=("colour", "perspective", "rotation")),
    "chain": Chain(steps=("colour", {"type": "patch_mask", "patch": 4})),
}
EVERY = pytest.mark.parametrize("perturb", ALL.values(), ids=ALL.keys())
MODES = [
    "1",
    "L",
    "LA",
    "P",
    "RGB",
    "RGBA",
    "CMYK",
    "YCbCr",
    "HSV",
    "I",
    "F",
    "I;16",
    "I;16B",
    "PA",
    "LAB",
    "La",
    "RGBa",
]


def picture(width: int = 60, height: int = 45, *, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(1, 255, (height, width, 3), dtype=np.uint8))


def apply(perturb: Perturbation, image: Image.Image, *key: int | str) -> np.ndarray:
    return np.asarray(perturb(image, rng=generator(*(key or ("key",))), context=CONTEXT))


def in_mode(mode: str, size: tuple[int, int]) -> Image.Image:
    image = picture(*size)
    if mode.startswith("I;16"):
        values = np.asarray(image.convert("L"), dtype=np.uint16) * 257
        image = Image.frombytes(mode, size, values.astype(">u2" if mode.endswith("B") else "<u2").tobytes())
        return image
    return image.convert("RGBA").convert(mode) if mode in ("La", "RGBa", "PA") else image.convert(mode)


def test_doctests_of_keys_hold():
    assert doctest.testmod(foveal.keys).failed == 0


def test_every_short_name_builds_its_perturbation_and_comes_back_from_its_dump():
    for name in REGISTRY:
        table = {"type": name, "options": ["crop"]} if name == "random_choice" else {"type": name}
        found = build_component(table, REGISTRY, kind="perturbation")
        assert isinstance(found, Perturbation) and found.type == name
        assert build_perturbation(found.model_dump(mode="json")) == found


@EVERY
@pytest.mark.parametrize("size", [(60, 45), (1, 1), (1, 30), (29, 2), (14, 14)])
def test_size_is_kept_mode_is_rgb_and_the_input_untouched(perturb, size):
    image = picture(*size)
    before = image.tobytes()
    found = perturb(image, rng=generator(1), context=CONTEXT)
    assert found.size == size and found.mode == "RGB" and found is not image
    assert image.tobytes() == before


@EVERY
@pytest.mark.parametrize("mode", MODES)
def test_every_mode_is_taken_and_left_untouched(perturb, mode):
    image = in_mode(mode, (17, 9))
    before = image.tobytes()
    found = perturb(image, rng=generator(1), context=CONTEXT)
    assert (found.size, found.mode) == ((17, 9), "RGB")
    assert image.mode == mode and image.tobytes() == before


@EVERY
def test_the_same_key_gives_the_same_picture_whatever_came_before_and_another_key_another(perturb):
    image = picture()
    first = apply(perturb, image, 0, "p", "removed")
    apply(perturb, picture(seed=5), 9)
    assert np.array_equal(apply(perturb, image, 0, "p", "removed"), first)
    if not isinstance(perturb, Blank):
        others = [apply(perturb, image, 1, "p", "removed", i) for i in range(3)]
        assert any(not np.array_equal(other, first) for other in others)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 50), st.integers(1, 50), st.integers(1, 20), st.floats(0, 1), st.integers(0, 1000))
def test_patch_mask_equals_a_loop_over_squares(width, height, side, ratio, seed):
    image = picture(width, height, seed=seed)
    expected = np.asarray(image).copy()
    draws = generator(seed)
    for top in range(0, height, side):
        for left in range(0, width, side):
            if draws.random() < ratio:
                expected[top : top + side, left : left + side] = 0
    found = PatchMask(ratio=ratio, patch=side)(image, rng=generator(seed), context=CONTEXT)
    assert np.array_equal(np.asarray(found), expected)


def test_patch_mask_ratio_is_the_share_of_squares_and_its_ends_are_nothing_and_everything():
    image = picture(1400, 1400)
    masked = (apply(PatchMask(ratio=0.6), image) == 0).all(-1).mean()
    assert masked == pytest.approx(0.6, abs=0.02)
    assert np.array_equal(apply(PatchMask(ratio=0.0), image), np.asarray(image))
    assert (apply(PatchMask(ratio=1.0), image) == 0).all()


@pytest.mark.parametrize(("patch", "side"), [("model", 16), ("token", 32), (8, 8)])
def test_patch_mask_squares_have_the_side_that_was_asked_for(patch, side):
    context = PerturbationContext(patch=16, merge=2)
    found = PatchMask(patch=patch, ratio=0.5)(picture(128, 96), rng=generator(3), context=context)
    hidden = (np.asarray(found) == 0).all(-1)
    squares = hidden.reshape(96 // side, side, 128 // side, side).mean((1, 3))
    assert set(np.unique(squares)) == {0.0, 1.0}


def test_fill_colours_by_hand():
    pixels = np.zeros((4, 4, 3), dtype=np.uint8)
    pixels[1:3, 1:3] = (200, 40, 8)
    pixels[0, 0] = (9, 9, 9)
    assert fill_colour("black", pixels) == (0, 0, 0)
    assert fill_colour("grey", pixels) == (128, 128, 128)
    assert fill_colour("background", pixels) == (0, 0, 0)
    assert fill_colour("mean", pixels) == (51, 11, 3)
    assert fill_colour((1, 2, 3), pixels) == (1, 2, 3)


@pytest.mark.parametrize("fill", ["black", "grey", "mean", "background", (7, 8, 9)])
def test_blank_patch_mask_and_occlusion_hide_with_the_fill_asked_for(fill):
    image = picture()
    colour = fill_colour(fill, to_pixels(image))
    assert (apply(Blank(fill=fill), image) == colour).all()
    assert (apply(PatchMask(ratio=1.0, fill=fill), image) == colour).all()
    changed = (apply(Occlusion(fill=fill), image) != np.asarray(image)).any(-1)
    assert (apply(Occlusion(fill=fill), image)[changed] == colour).all() and changed.any()


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 8), st.integers(0, 1000))
def test_occlusion_equals_a_loop_over_rectangles(width, height, count, seed):
    image = picture(width, height)
    draws = generator(seed)
    sides, places = draws.uniform(0.05, 0.5, (2, count)), draws.random((2, count))
    expected = np.asarray(image).copy()
    for i in range(count):
        tall = min(max(1, round(sides[0, i] * height)), height)
        wide = min(max(1, round(sides[1, i] * width)), width)
        top, left = int(places[0, i] * (height - tall + 1)), int(places[1, i] * (width - wide + 1))
        expected[top : top + tall, left : left + wide] = 0
    perturb = Occlusion(rectangles=count, smallest=0.05, largest=0.5, fill="black")
    assert np.array_equal(np.asarray(perturb(image, rng=generator(seed), context=CONTEXT)), expected)


def test_occlusion_covers_about_two_fifths_with_the_published_settings_and_changes_nothing_else():
    image = Image.new("RGB", (400, 400), (0, 0, 0))
    shares = [(apply(Occlusion(), image, i) != 0).any(-1).mean() for i in range(20)]
    assert np.mean(shares) == pytest.approx(0.37, abs=0.04)
    assert np.array_equal(apply(Occlusion(rectangles=0), image), np.asarray(image))


def test_crop_keeps_a_window_of_the_published_share_at_full_size():
    ramp = np.tile(np.arange(200, dtype=np.uint8)[None, :, None], (200, 1, 3))
    ramp[:, :, 1] = np.arange(200, dtype=np.uint8)[:, None]
    for key in range(20):
        found = apply(Crop(), Image.fromarray(ramp), key).astype(int)
        for channel in (0, 1):
            extent = np.ptp(found[..., channel]) + 1
            assert 200 * 0.58 <= extent <= 200 * 0.72
    assert np.array_equal(apply(Crop(smallest=1.0, largest=1.0), picture()), np.asarray(picture()))


def test_noise_has_the_standard_deviation_asked_for_and_none_leaves_the_picture():
    grey = Image.new("RGB", (200, 200), (128, 128, 128))
    moved = apply(Noise(std=0.1), grey).astype(float) - 128
    assert moved.std() == pytest.approx(25.5, rel=0.02) and abs(moved.mean()) < 0.3
    assert np.array_equal(apply(Noise(std=0.0), picture()), np.asarray(picture()))


def test_colour_with_factors_of_one_leaves_the_picture_and_zero_saturation_gives_grey():
    one = (1.0, 1.0)
    assert np.array_equal(
        apply(Colour(brightness=one, contrast=one, saturation=one), picture()), np.asarray(picture())
    )
    grey = apply(Colour(brightness=one, contrast=one, saturation=(0.0, 0.0)), picture())
    assert np.array_equal(grey[..., 0], grey[..., 1]) and np.array_equal(grey[..., 1], grey[..., 2])
    half = apply(Colour(brightness=(0.5, 0.5), contrast=one, saturation=one), picture()).astype(int)
    assert np.abs(half - np.asarray(picture()) / 2).max() <= 1


def test_rotation_turns_by_no_more_than_asked_and_fills_the_corners():
    white = Image.new("RGB", (101, 101), "white")
    assert np.array_equal(apply(Rotation(degrees=0.0), picture()), np.asarray(picture()))
    found = apply(Rotation(degrees=10.0), white)
    assert (found[50, 50] == 255).all()
    assert 0 < (found == 0).all(-1).mean() < 0.1
    filled = apply(Rotation(degrees=10.0, fill="background"), white)
    assert (filled >= 254).all()


def test_perspective_coefficients_take_the_corners_where_they_belong():
    source = np.array([[0, 0], [80, 0], [80, 60], [0, 60]], dtype=float)
    target = np.array([[3, 4], [71, 2], [78, 55], [6, 58]], dtype=float)
    a, b, c, d, e, f, g, h = perspective_coefficients(target, source)
    for (x, y), expected in zip(target, source, strict=True):
        scale = g * x + h * y + 1
        assert ((a * x + b * y + c) / scale, (d * x + e * y + f) / scale) == pytest.approx(expected, abs=1e-9)


def test_perspective_moves_corners_inwards_half_of_the_time():
    white = Image.new("RGB", (100, 80), "white")
    tilted = [apply(Perspective(), white, i) for i in range(200)]
    untouched = [bool((found == 255).all()) for found in tilted]
    assert 70 <= sum(untouched) <= 130
    assert np.array_equal(
        apply(Perspective(distortion=0.0, probability=1.0), picture()), np.asarray(picture())
    )
    for found, same in zip(tilted, untouched, strict=True):
        assert same or (found[40, 50] == 255).all()
        assert (found == 0).all(-1).mean() < 1 - 0.8**2


def test_random_choice_draws_every_option_and_only_those():
    choice = RandomChoice(options=({"type": "blank", "fill": "grey"}, {"type": "blank", "fill": [1, 1, 1]}))
    found = [int(apply(choice, picture(), i)[0, 0, 0]) for i in range(60)]
    assert set(found) == {128, 1} and 15 <= found.count(1) <= 45


def test_chain_is_its_steps_in_order_from_one_generator():
    image, rng = picture(), generator("key")
    by_hand = Noise()(Crop()(image, rng=rng, context=CONTEXT), rng=rng, context=CONTEXT)
    assert np.array_equal(apply(Chain(steps=("crop", "noise")), image), np.asarray(by_hand))
    assert np.array_equal(apply(Chain(), image), np.asarray(image))


def test_to_rgb_reads_odd_modes_as_a_person_would_see_them():
    assert to_rgb(Image.new("RGBA", (1, 1), (255, 0, 0, 0))).getpixel((0, 0)) == (255, 255, 255)
    assert to_rgb(Image.new("RGBA", (1, 1), (0, 0, 0, 255))).getpixel((0, 0)) == (0, 0, 0)
    assert to_rgb(Image.new("LA", (1, 1), (0, 128))).getpixel((0, 0)) == (127, 127, 127)
    assert to_rgb(Image.new("1", (1, 1), 1)).getpixel((0, 0)) == (255, 255, 255)
    assert to_rgb(Image.new("CMYK", (1, 1), (0, 255, 255, 0))).getpixel((0, 0)) == (255, 0, 0)
    palette = Image.new("P", (1, 1), 1)
    palette.putpalette([0, 0, 0, 10, 200, 30])
    assert to_rgb(palette).getpixel((0, 0)) == (10, 200, 30)
    palette.info["transparency"] = 1
    assert to_rgb(palette).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize(
    ("mode", "value", "seen"), [("I;16", 65535, 255), ("I;16", 257, 1), ("I", 65535, 255), ("I", 200, 200)]
)
def test_to_rgb_scales_16_bit_samples(mode, value, seen):
    image = Image.new(mode, (1, 1), value)
    assert to_rgb(image).getpixel((0, 0)) == (seen, seen, seen)


def test_to_rgb_scales_floats_in_the_unit_range_and_refuses_an_empty_picture():
    assert to_rgb(Image.new("F", (1, 1), 1.0)).getpixel((0, 0)) == (255, 255, 255)
    assert to_rgb(Image.new("F", (1, 1), 200.0)).getpixel((0, 0)) == (200, 200, 200)
    with pytest.raises(FovealError, match="0 x 3 pixels"):
        to_rgb(Image.new("RGB", (0, 3)))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: PatchMask(ratio=1.2), "less than or equal to 1"),
        (lambda: PatchMask(patch=0), "greater than or equal to 1"),
        (lambda: Blank(fill=(0, 0, 300)), "less than or equal to 255"),
        (lambda: Occlusion(smallest=0.4, largest=0.2), "smallest 0.4 is above largest 0.2"),
        (lambda: Crop(smallest=0.8), "smallest 0.8 is above largest 0.7"),
        (lambda: Colour(contrast=(1.2, 0.2)), "0 <= least <= greatest"),
        (lambda: RandomChoice(options=()), "at least 1 item"),
    ],
)
def test_settings_that_cannot_work_are_refused(build, message):
    with pytest.raises(ValidationError, match=message):
        build()


def test_a_mistake_in_a_held_perturbation_is_named():
    with pytest.raises(ConfigError, match="did you mean 'crop'"):
        Chain(steps=("corp",))
    with pytest.raises(ConfigError, match="GRPO is not a perturbation"):
        Chain(steps=({"type": "foveal.objectives.grpo:GRPO"},))
