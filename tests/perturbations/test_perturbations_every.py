"""What holds for every registered perturbation: any picture in, RGB of its size out, by the key alone."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from foveal.keys import generator
from foveal.perturbations import REGISTRY
from foveal.perturbations.chain import Chain, RandomChoice, build_perturbation
from foveal.perturbations.distort import Blur, Colour, Perspective, Rotation
from foveal.perturbations.noise import DiffusionNoise, Noise
from foveal.perturbations.occlude import Crop, Occlusion, PatchMask
from foveal.perturbations.replace import Blank, OtherPicture
from foveal.perturbations.salient import SalientMask
from foveal.types import Perturbation, PerturbationContext

PAGE = Path(__file__).parents[2] / "docs" / "perturbations.md"
SALIENT = SalientMask(model="anywhere", patch=5)


def picture(width: int = 60, height: int = 45, *, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(1, 255, (height, width, 3), dtype=np.uint8))


CONTEXT = PerturbationContext(
    patch=14,
    merge=2,
    donors=tuple(picture(20, 30, seed=seed) for seed in (7, 8, 9)),
    saliency={SALIENT.saliency_sources[0]: np.random.default_rng(1).random((4, 6))},
    progress=0.25,
)
ALL: dict[str, Perturbation] = {
    "patch_mask": PatchMask(),
    "patch_mask_model": PatchMask(patch="model", fill="mean"),
    "patch_mask_background": PatchMask(patch=3, ratio=0.5, fill="background"),
    "salient_mask": SALIENT,
    "occlusion": Occlusion(),
    "occlusion_grey": Occlusion(fill="grey"),
    "crop": Crop(),
    "noise": Noise(),
    "diffusion_noise": DiffusionNoise(),
    "blank": Blank(fill=(1, 2, 3)),
    "other_picture": OtherPicture(),
    "colour": Colour(),
    "rotation": Rotation(),
    "perspective": Perspective(probability=1.0),
    "blur": Blur(),
    "blur_wide": Blur(size=5, sigma=2.0),
    "random_choice": RandomChoice(options=("colour", "perspective", "rotation")),
    "chain": Chain(steps=("colour", {"type": "patch_mask", "patch": 4})),
}
UNDRAWN = {"salient_mask", "blank", "blur"}
"""Those with nothing random in them."""

EVERY = pytest.mark.parametrize("perturb", ALL.values(), ids=ALL.keys())
SIZES = [(60, 45), (1, 1), (1, 30), (2, 1), (29, 2), (14, 14), (2500, 1), (1, 2500)]
MODES = [
    *("1", "L", "LA", "P", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "LAB"),
    *("I", "F", "I;16", "I;16L", "I;16B", "PA", "La", "RGBa", "P transparent", "RGB transparent"),
]


def apply(perturb: Perturbation, image: Image.Image, *key: int | str) -> np.ndarray:
    return np.asarray(perturb(image, rng=generator(*(key or ("key",))), context=CONTEXT))


def in_mode(mode: str, size: tuple[int, int]) -> Image.Image:
    image = picture(*size)
    if mode.startswith("I;16"):
        values = np.asarray(image.convert("L"), dtype=np.uint16) * 257
        return Image.frombytes(mode, size, values.astype(">u2" if mode.endswith("B") else "<u2").tobytes())
    if mode.endswith("transparent"):
        image = image.convert(mode.split()[0])
        image.info["transparency"] = image.getpixel((0, 0))
        return image
    return image.convert("RGBA").convert(mode) if mode in ("La", "RGBa", "PA") else image.convert(mode)


def test_every_registered_perturbation_is_tested_here() -> None:
    assert {perturb.type for perturb in ALL.values()} == set(REGISTRY)


def test_every_short_name_builds_its_perturbation_and_comes_back_from_its_dump() -> None:
    needed = {"random_choice": {"options": ["crop"]}, "salient_mask": {"model": "anywhere"}}
    for name in REGISTRY:
        found = build_perturbation({"type": name, **needed.get(name, {})})
        assert found.type == name
        assert build_perturbation(found.model_dump(mode="json")) == found


def test_every_registered_perturbation_has_a_section_on_its_page() -> None:
    headings = [line for line in PAGE.read_text().splitlines() if line.startswith("#")]
    assert [name for name in REGISTRY if not any(f"`{name}`" in line for line in headings)] == []


@EVERY
@pytest.mark.parametrize("size", SIZES)
def test_size_is_kept_mode_is_rgb_and_the_input_untouched(perturb, size) -> None:
    image = picture(*size)
    before = image.tobytes()
    found = perturb(image, rng=generator(1), context=CONTEXT)
    assert found.size == size and found.mode == "RGB" and found is not image
    assert image.tobytes() == before and image.size == size


@EVERY
@pytest.mark.parametrize("mode", MODES)
def test_every_mode_is_taken_and_left_untouched(perturb, mode) -> None:
    image = in_mode(mode, (17, 9))
    before, info, kind = image.tobytes(), dict(image.info), image.mode
    found = perturb(image, rng=generator(1), context=CONTEXT)
    assert (found.size, found.mode) == ((17, 9), "RGB")
    assert image.mode == kind and image.tobytes() == before and image.info == info


@EVERY
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_mode_that_loses_nothing_gives_what_its_rgb_picture_gives(perturb, mode) -> None:
    image = picture(33, 21).convert(mode)
    assert np.array_equal(apply(perturb, image), apply(perturb, image.convert("RGB")))


@EVERY
def test_the_same_key_gives_the_same_picture_whatever_came_before_and_another_key_another(perturb) -> None:
    image, other = picture(), picture(seed=5)
    first = apply(perturb, image, 0, "p", "removed")
    second = apply(perturb, other, 9)
    assert np.array_equal(apply(perturb, other, 9), second)
    assert np.array_equal(apply(perturb, image, 0, "p", "removed"), first)
    others = [apply(perturb, image, 1, "p", "removed", i) for i in range(8)]
    assert any(not np.array_equal(found, first) for found in others) == (perturb.type not in UNDRAWN)
