"""Saliency from a real Dinov2Model with random weights: attention received, squares hidden, bad folders."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from foveal import saliency
from foveal.data.views import check_perturbations, perturb
from foveal.perturbations.chain import Chain
from foveal.perturbations.salient import SalientMask
from foveal.saliency import SaliencyModel, saliency_model
from foveal.spec import FovealError
from foveal.types import PerturbationContext, Problem, SaliencySource
from policy_cases import picture
from saliency_cases import MEAN, PATCH, build_dinov2, masked, received


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_dinov2(tmp_path_factory.mktemp("models") / "dinov2")


@pytest.fixture(autouse=True)
def _no_model_is_kept() -> Iterator[None]:
    yield
    saliency_model.cache_clear()


def source(folder: Path, *layers: int, max_patches: int = 400) -> SaliencySource:
    return SaliencySource(model=str(folder), layers=layers or (2, 3), max_patches=max_patches)


@pytest.mark.parametrize("size", [(70, 70), (98, 56), (14, 42), (14, 14)])
@pytest.mark.parametrize("layers", [(2, 3), (4,), (1, 2, 3, 4)])
def test_a_map_is_the_attention_received_by_each_patch(
    folder: Path, size: tuple[int, int], layers: tuple[int, ...]
) -> None:
    image = picture(*size)
    found = SaliencyModel(source(folder, *layers))(image)
    assert found.shape == (size[1] // PATCH, size[0] // PATCH)
    assert found == pytest.approx(np.array(received(folder, image, layers)), rel=1e-5)


def test_layers_differ_and_later_ones_are_not_run(folder: Path) -> None:
    image = picture(70, 56)
    first, second = (SaliencyModel(source(folder, layer)) for layer in (1, 2))
    assert np.abs(first(image) - second(image)).max() > 1e-3
    assert len(first._model.encoder.layer) == 1 and len(second._model.encoder.layer) == 2


@pytest.mark.parametrize("ratio", [0.0, 0.3, 0.6, 1.0])
def test_a_salient_mask_hides_what_a_loop_over_the_models_attention_hides(folder: Path, ratio: float) -> None:
    image = picture(98, 70, seed=4)
    of = Problem(id="p", question="<image>?", images=(image,), answer="1")
    mask = SalientMask(model=str(folder), layers=(2, 3), ratio=ratio)
    (found,) = perturb(of, mask, view="removed", key=(0,), context=PerturbationContext())
    assert np.array_equal(np.asarray(found), masked(folder, image, (2, 3), ratio=ratio))


def test_each_of_several_pictures_is_masked_by_its_own_attention(folder: Path) -> None:
    images = tuple(picture(98, 70, seed=seed) for seed in (4, 5))
    of = Problem(id="p", question="<image><image>?", images=images, answer="1")
    mask = SalientMask(model=str(folder), layers=(2, 3), ratio=0.5)
    found = perturb(of, mask, view="removed", key=(0,), context=PerturbationContext())
    for image, one in zip(images, found, strict=True):
        assert np.array_equal(np.asarray(one), masked(folder, image, (2, 3), ratio=0.5))


@pytest.mark.parametrize(
    ("size", "grid"),
    [
        ((98, 70), (5, 7)),
        ((101, 66), (5, 7)),
        ((1, 1), (1, 1)),
        ((1, 3000), (20, 1)),
        ((280, 280), (4, 4)),
        ((560, 140), (2, 8)),
        ((5000, 14), (1, 20)),
    ],
)
def test_pictures_are_scaled_to_whole_patches_of_their_shape_and_no_more_than_asked(
    folder: Path, size: tuple[int, int], grid: tuple[int, int]
) -> None:
    few = 20 if max(size) > 150 else 400
    model = SaliencyModel(source(folder, max_patches=few))
    assert model.grid(size) == grid
    assert model(picture(*size)).shape == grid


def test_pictures_of_any_mode_are_looked_at_as_rgb(folder: Path) -> None:
    model, image = SaliencyModel(source(folder)), picture(56, 42).convert("P")
    assert np.array_equal(model(image), model(image.convert("RGB")))


def test_a_folder_without_picture_settings_is_normalised_as_dinov2(folder: Path, tmp_path: Path) -> None:
    bare = copied(folder, tmp_path)
    (bare / "preprocessor_config.json").unlink()
    assert tuple(SaliencyModel(source(bare))._images.image_mean) == saliency.IMAGENET_MEAN
    assert tuple(SaliencyModel(source(folder))._images.image_mean) == MEAN


def test_a_picture_is_looked_at_once_by_its_samples_and_the_oldest_map_goes(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, runs = SaliencyModel(source(folder)), []
    real = model._received
    monkeypatch.setattr(model, "_received", lambda image: runs.append(image) or real(image))
    monkeypatch.setattr(saliency, "KEPT_MAPS", 2)
    first, second, third = (picture(28, 28, seed=seed) for seed in range(3))
    for image in (first, second, first, first.copy(), second):
        model(image)
    assert len(runs) == 2
    model(third)
    model(first)
    assert len(runs) == 4 and len(model._kept) == 2


def test_a_source_is_loaded_once(folder: Path) -> None:
    assert saliency_model(source(folder)) is saliency_model(source(folder))
    assert saliency_model(source(folder)) is not saliency_model(source(folder, 1))


def copied(folder: Path, into: Path) -> Path:
    return Path(shutil.copytree(folder, into / "copy"))


def used(model: object, **fields: object) -> dict[str, Chain]:
    """A view that holds the mask below a chain: the check must find it there too."""
    table = {"type": "salient_mask", "model": str(model), **fields}
    return {"removed": Chain.model_validate({"steps": [table]})}


def test_bad_models_are_refused_at_the_start(folder: Path, tmp_path: Path, tiny_folder: Path) -> None:
    (tmp_path / "empty").mkdir()
    broken = copied(folder, tmp_path)
    (broken / "model.safetensors").write_bytes(b"not weights")
    cases = [
        (used(tmp_path / "nowhere"), "no such model: .*nowhere.*change `model` of the salient_mask"),
        (used(tmp_path / "empty"), "has no config.json"),
        (used(tiny_folder), "is of type 'qwen2_5_vl'; expected a DINOv2 model"),
        (used(folder), r"has 4 layers, but layers = \[6, 7, 8, 9\].*from 1 to 4; change `layers`"),
        (used(broken, layers=[1]), "weights of the saliency model .* cannot be loaded"),
    ]
    for perturbations, message in cases:
        with pytest.raises(FovealError, match=message):
            check_perturbations(perturbations, problems=[])
    check_perturbations(used(folder, layers=[1, 4]), problems=[])


def test_weights_that_are_not_whole_are_refused(folder: Path, tmp_path: Path) -> None:
    part = copied(folder, tmp_path)
    weights = load_file(part / "model.safetensors")
    del weights["embeddings.position_embeddings"]
    save_file(weights, part / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(FovealError, match="1 tensors are missing, such as 'embeddings.position_embeddings'"):
        saliency_model(source(part))


def test_a_config_that_is_no_json_is_refused(folder: Path, tmp_path: Path) -> None:
    part = copied(folder, tmp_path)
    (part / "config.json").write_text("{")
    with pytest.raises(FovealError, match="saliency model .* cannot be read"):
        saliency_model(source(part))
    (part / "config.json").write_text(json.dumps({"model_type": "nothing_known"}))
    with pytest.raises(FovealError, match="is of type 'nothing_known'; expected a DINOv2 model"):
        saliency_model(source(part))


def test_sources_are_equal_by_what_they_say() -> None:
    one = SalientMask(model="m", layers=(1, 2)).saliency_sources[0]
    assert one == SalientMask(model="m", layers=(1, 2), ratio=0.1).saliency_sources[0]
    assert one != replace(one, layers=(2, 1))
