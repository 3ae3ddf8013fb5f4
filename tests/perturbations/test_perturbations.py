"""Each perturbation against hand numbers or a loop, and what its fields refuse."""

import doctest
import itertools
import math

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from PIL import Image, ImageEnhance

import foveal.keys
from foveal.keys import generator
from foveal.perturbations.chain import Chain, RandomChoice
from foveal.perturbations.distort import Blur, Colour, Perspective, Rotation, perspective_coefficients
from foveal.perturbations.noise import DiffusionNoise, Noise
from foveal.perturbations.occlude import Crop, Occlusion, PatchMask
from foveal.perturbations.pictures import fill_colour, to_rgb
from foveal.perturbations.replace import Blank, OtherPicture
from foveal.spec import ConfigError, FovealError
from foveal.types import Perturbation, PerturbationContext

CONTEXT = PerturbationContext(patch=14, merge=2)


def picture(width: int = 60, height: int = 45, *, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(1, 255, (height, width, 3), dtype=np.uint8))


def apply(perturb: Perturbation, image: Image.Image, *key: int | str) -> np.ndarray:
    return np.asarray(perturb(image, rng=generator(*(key or ("key",))), context=CONTEXT))


def test_doctests_of_keys_hold():
    assert doctest.testmod(foveal.keys).failed == 0


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
    image = Image.fromarray(pixels)
    assert fill_colour("black", image) == (0, 0, 0)
    assert fill_colour("grey", image) == (128, 128, 128)
    assert fill_colour("background", image) == (0, 0, 0)
    assert fill_colour("mean", image) == (51, 11, 3)
    assert fill_colour((1, 2, 3), image) == (1, 2, 3)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(2, 4), st.integers(0, 1000))
def test_mean_and_background_equal_loops_over_pixels(width, height, colours, seed):
    draw = np.random.default_rng(seed)
    palette = draw.integers(0, 256, (colours, 3))
    pixels = palette[draw.integers(0, colours, (height, width))].astype(np.uint8)
    rows = [tuple(int(v) for v in pixels[y, x]) for y in range(height) for x in range(width)]
    means = [sum(row[channel] for row in rows) / len(rows) for channel in range(3)]
    border = [(y, x) for x in range(width) for y in (0, height - 1)]
    border += [(y, x) for y in range(height) for x in (0, width - 1)]
    seen = [tuple(int(v) for v in pixels[place]) for place in border]
    image = Image.fromarray(pixels)
    assert fill_colour("mean", image) == tuple(round(mean) for mean in means)
    assert fill_colour("background", image) == min(
        set(seen), key=lambda colour: (-seen.count(colour), colour)
    )


@pytest.mark.parametrize("fill", ["black", "grey", "mean", "background", (7, 8, 9)])
def test_blank_patch_mask_and_occlusion_hide_with_the_fill_asked_for(fill):
    image = picture()
    colour = fill_colour(fill, image)
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


def test_nothing_outside_the_window_of_a_crop_shows():
    inside, outside = np.full((50, 80, 3), 90, dtype=np.uint8), 0
    perturb, size = Crop(smallest=0.5, largest=0.5), (80, 50)
    for key in range(10):
        draws = generator(key)
        _, places = draws.uniform(0.5, 0.5, 2), draws.random(2)
        left, top = int(places[0] * (80 - 40 + 1)), int(places[1] * (50 - 25 + 1))
        pixels = np.full((50, 80, 3), outside, dtype=np.uint8)
        pixels[top : top + 25, left : left + 40] = 90
        found = perturb(Image.fromarray(pixels), rng=generator(key), context=CONTEXT)
        assert found.size == size and np.array_equal(np.asarray(found), inside)


def test_noise_has_the_standard_deviation_asked_for_and_none_leaves_the_picture():
    grey = Image.new("RGB", (200, 200), (128, 128, 128))
    moved = apply(Noise(std=0.1), grey).astype(float) - 128
    assert moved.std() == pytest.approx(25.5, rel=0.02) and abs(moved.mean()) < 0.3
    assert np.array_equal(apply(Noise(std=0.0), picture()), np.asarray(picture()))


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 7), st.integers(1, 7), st.sampled_from([3, 5]), st.floats(0.3, 3), st.integers(0, 99))
def test_blur_equals_a_loop_over_neighbours(width, height, size, sigma, seed):
    image, reach = picture(width, height, seed=seed), size // 2
    pixels = np.asarray(image).astype(float)
    offsets = [(dy, dx) for dy in range(-reach, reach + 1) for dx in range(-reach, reach + 1)]
    weights = {(dy, dx): np.exp(-(dy**2 + dx**2) / (2 * sigma**2)) for dy, dx in offsets}
    found = np.asarray(Blur(size=size, sigma=sigma)(image, rng=generator(0), context=CONTEXT))
    for y in range(height):
        for x in range(width):
            near = [pixels[mirrored(y + dy, height), mirrored(x + dx, width)] for dy, dx in offsets]
            mean = sum(w * v for w, v in zip(weights.values(), near, strict=True)) / sum(weights.values())
            assert np.abs(found[y, x] - mean).max() <= 0.51


def mirrored(place: int, length: int) -> int:
    """The pixel that stands beyond the edge; the edge itself is not repeated."""
    if length == 1:
        return 0
    place = abs(place) % (2 * (length - 1))
    return min(place, 2 * (length - 1) - place)


def test_blur_of_one_point_by_hand():
    pixels = np.zeros((5, 5, 3), dtype=np.uint8)
    pixels[2, 2] = 255
    near = 1 / np.e**0.5
    whole = (1 + 2 * near) ** 2
    found = apply(Blur(), Image.fromarray(pixels))[..., 0]
    assert found[2, 2] == round(255 / whole) == 52
    assert found[1, 2] == found[2, 3] == round(255 * near / whole) == 32
    assert found[1, 1] == round(255 * near**2 / whole) == 19
    assert found[0].max() == found[:, 4].max() == 0


def signal_left(step: int) -> float:
    """Product of 1 - beta_s over the steps 0..step of NoisyRollout's forward process."""
    left = 1.0
    for s in range(step + 1):
        left *= 1 - (1e-5 + (0.5e-2 - 1e-5) / (1 + np.exp(-(-6 + 12 * s / 999))))
    return float(left)


@pytest.mark.parametrize(("strength", "left"), [(0, 0.99998), (450, 0.82944), (500, 0.74480), (999, 0.08125)])
def test_diffusion_noise_keeps_and_adds_what_the_forward_process_says(strength, left):
    assert signal_left(strength) == pytest.approx(left, abs=1e-5)
    grey = Image.new("RGB", (300, 200), (128, 128, 128))
    found = DiffusionNoise(strength=strength, anneal="none")(grey, rng=generator(2), context=CONTEXT)
    noise = generator(2).standard_normal((200, 300, 3), dtype=np.float32)
    exact = 128 * left_root(strength) + 255 * (1 - signal_left(strength)) ** 0.5 * noise
    assert np.abs(np.asarray(found) - np.clip(exact, 0, 255)).max() <= 0.51


def left_root(strength: int) -> float:
    return signal_left(strength) ** 0.5


def test_diffusion_noise_fades_over_the_training_as_in_noisyrollout():
    noise = DiffusionNoise(strength=500, steepness=30.0, midpoint=40 / 60)
    by_hand = {p: int(500 * (1 - 1 / (1 + np.exp(-30 * (p - 40 / 60))))) for p in (0.0, 0.5, 0.6, 0.8, 1.0)}
    assert {p: noise.step(p) for p in by_hand} == by_hand
    assert by_hand == {0.0: 499, 0.5: 496, 0.6: 440, 0.8: 8, 1.0: 0}
    assert noise.step(40 / 60) == 250
    assert DiffusionNoise(strength=500, anneal="none").step(1.0) == 500
    assert DiffusionNoise(steepness=1e9).step(0.0) == 500 and DiffusionNoise(steepness=1e9).step(1.0) == 0
    image = Image.new("RGB", (100, 80), (128, 128, 128))
    spreads = []
    for progress in (0.0, 0.6, 0.7, 1.0):
        context = PerturbationContext(progress=progress)
        spreads.append(np.asarray(noise(image, rng=generator(0), context=context)).astype(float).std())
    assert spreads == sorted(spreads, reverse=True) and spreads[0] > 90 and spreads[-1] < 2


def test_other_picture_is_a_donor_at_this_size_whatever_the_picture():
    donors = tuple(picture(30, 20, seed=seed) for seed in range(3))
    context = PerturbationContext(donors=donors)
    wanted = [np.asarray(donor.resize((60, 45), Image.Resampling.BICUBIC)) for donor in donors]
    drawn = set()
    for key in range(20):
        found = np.asarray(OtherPicture()(picture(), rng=generator(key), context=context))
        drawn |= {index for index, donor in enumerate(wanted) if np.array_equal(found, donor)}
        blank = Image.new("RGB", (60, 45))
        assert np.array_equal(found, np.asarray(OtherPicture()(blank, rng=generator(key), context=context)))
    assert drawn == {0, 1, 2}


def test_other_picture_without_another_says_what_to_change():
    with pytest.raises(FovealError, match="no other problem with a picture.*use data with several pictures"):
        OtherPicture()(picture(), rng=generator(0), context=CONTEXT)


def test_what_held_perturbations_need_their_holder_needs():
    nested = Chain(steps=({"type": "random_choice", "options": ["crop", {"type": "other_picture"}]}, "blur"))
    assert nested.needs_donors and not nested.on_model_grid and nested.saliency_sources == ()
    assert Chain(steps=("crop", PatchMask(patch="token"))).on_model_grid
    assert not Chain(steps=("crop", PatchMask(patch=28))).on_model_grid
    assert not RandomChoice(options=("crop", "noise")).needs_donors


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


def test_rotation_turns_either_way_by_up_to_the_angle_asked_for():
    bar = Image.new("RGB", (101, 101))
    bar.paste((255, 255, 255), (90, 49, 93, 52))
    angles = []
    for key in range(60):
        y, x = np.argwhere(apply(Rotation(degrees=30.0), bar, key)[..., 0] > 100).mean(0) - 50
        angles.append(math.degrees(math.atan2(-y, x)))
    assert -31 < min(angles) < -20 and 20 < max(angles) < 31
    assert abs(float(np.mean(angles))) < 8


def test_colour_changes_come_in_any_order():
    brightness, contrast, saturation = 0.7, 1.6, 0.3
    changes = (
        (ImageEnhance.Brightness, brightness),
        (ImageEnhance.Contrast, contrast),
        (ImageEnhance.Color, saturation),
    )
    wanted = set()
    for order in itertools.permutations(changes):
        found = picture()
        for enhance, factor in order:
            found = enhance(found).enhance(factor)
        wanted.add(found.tobytes())
    colour = Colour(brightness=(0.7, 0.7), contrast=(1.6, 1.6), saturation=(0.3, 0.3))
    assert {apply(colour, picture(), key).tobytes() for key in range(60)} == wanted and len(wanted) == 6


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


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
def test_a_transparent_colour_shows_the_paper(mode):
    image = Image.new("RGB", (1, 1)).convert(mode)
    assert to_rgb(image).getpixel((0, 0)) == (0, 0, 0)
    image.info["transparency"] = image.getpixel((0, 0))
    assert to_rgb(image).getpixel((0, 0)) == (255, 255, 255)


def test_a_float_sample_that_is_not_a_number_is_black():
    image = Image.fromarray(np.array([[np.nan, 0.5, 1.0]], dtype=np.float32))
    assert np.asarray(to_rgb(image))[0, :, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize(
    ("mode", "value", "seen"), [("I;16", 65535, 255), ("I;16", 257, 1), ("I", 65535, 255), ("I", 200, 200)]
)
def test_to_rgb_scales_16_bit_samples(mode, value, seen):
    image = Image.new(mode, (1, 1), value)
    assert to_rgb(image).getpixel((0, 0)) == (seen, seen, seen)


@pytest.mark.parametrize("kind", [np.uint16, np.int32])
def test_16_bit_samples_are_divided_by_257_and_rounded(kind):
    samples = np.array([[0, 128, 129, 30000, 51400, 65535]], dtype=kind)
    found = np.asarray(to_rgb(Image.fromarray(samples)))[0, :, 0]
    assert found.tolist() == [0, 0, 1, 117, 200, 255]


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
        (lambda: DiffusionNoise(strength=1000), "less than 1000"),
        (lambda: Blur(size=4), "Input should be 3 or 5"),
        (lambda: Blur(sigma=0), "greater than 0"),
    ],
)
def test_settings_that_cannot_work_are_refused(build, message):
    with pytest.raises(ConfigError, match=message):
        build()


def test_a_mistake_in_a_held_perturbation_is_named():
    with pytest.raises(ConfigError, match="did you mean 'crop'"):
        Chain(steps=("corp",))
    with pytest.raises(ConfigError, match="grpo:GRPO' is not a class derived from foveal.types.Perturbation"):
        Chain(steps=({"type": "foveal.objectives.grpo:GRPO"},))
