"""The salient mask: which squares a saliency map hides, against loops."""

import math

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from PIL import Image
from pydantic import ValidationError

from foveal.keys import generator
from foveal.perturbations.chain import Chain, RandomChoice
from foveal.perturbations.salient import SalientMask, most_salient, spread
from foveal.spec import FovealError
from foveal.types import PerturbationContext


def picture(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(1, 255, (height, width, 3), dtype=np.uint8))


def masked(mask: SalientMask, image: Image.Image, saliency: np.ndarray, *, patch: int = 14) -> np.ndarray:
    context = PerturbationContext(patch=patch, merge=2, saliency={mask.saliency_sources[0]: saliency})
    return np.asarray(mask(image, rng=generator(0), context=context))


def test_the_most_salient_squares_are_hidden_by_hand() -> None:
    saliency = np.array([[0.1, 0.5, 0.2], [0.4, 0.3, 0.6]])
    found = masked(SalientMask(model="m", ratio=0.5, patch=10), image := picture(30, 20), saliency)
    expected = np.asarray(image).copy()
    expected[:10, 10:20] = expected[10:, :10] = expected[10:, 20:] = 0
    assert np.array_equal(found, expected)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 9), st.integers(1, 9), st.floats(0, 1), st.integers(1, 4), st.integers(0, 1000))
def test_the_hidden_squares_equal_a_loop_that_takes_the_largest_one_by_one(
    rows, columns, ratio, levels, seed
):
    saliency = np.random.default_rng(seed).integers(0, levels, (rows, columns)) / levels
    left = {(r, c): saliency[r, c] for r in range(rows) for c in range(columns)}
    expected = np.zeros((rows, columns), dtype=bool)
    for _ in range(math.floor(ratio * rows * columns + 1e-9)):
        best = max(left, key=lambda place: (left[place], -place[0], -place[1]))
        expected[best] = True
        del left[best]
    assert np.array_equal(most_salient(saliency, ratio=ratio), expected)


@pytest.mark.parametrize(("ratio", "count"), [(0.0, 0), (0.29, 29), (0.6, 60), (0.999, 99), (1.0, 100)])
def test_any_ratio_hides_the_floor_of_its_share_of_all_squares(ratio: float, count: int) -> None:
    assert most_salient(np.random.default_rng(0).random((10, 10)), ratio=ratio).sum() == count


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 40), st.integers(1, 40), st.integers(1, 12))
def test_a_map_is_spread_over_squares_as_a_loop_over_cells_does(rows, columns, width, height, side):
    cells = np.random.default_rng(rows).random((rows, columns))
    found = spread(cells, (width, height), side=side)
    for r in range(-(-height // side)):
        for c in range(-(-width // side)):
            top, bottom = r * side, min((r + 1) * side, height)
            left, right = c * side, min((c + 1) * side, width)
            total = 0.0
            for i in range(rows):
                for j in range(columns):
                    tall = min(bottom, (i + 1) * height / rows) - max(top, i * height / rows)
                    wide = min(right, (j + 1) * width / columns) - max(left, j * width / columns)
                    total += max(tall, 0) * max(wide, 0) * cells[i, j]
            assert found[r, c] == pytest.approx(total / ((bottom - top) * (right - left)), abs=1e-12)


def test_squares_that_are_the_cells_keep_their_values_exactly() -> None:
    cells = np.random.default_rng(0).random((37, 23)).astype(np.float32)
    assert np.array_equal(spread(cells, (23 * 14, 37 * 14), side=14), cells.astype(np.float64))


@pytest.mark.parametrize(("patch", "side"), [("model", 16), ("token", 32), (8, 8)])
def test_squares_have_the_side_that_was_asked_for(patch: int | str, side: int) -> None:
    saliency = np.random.default_rng(2).random((6, 8))
    found = masked(SalientMask(model="m", patch=patch, ratio=0.5), picture(128, 96), saliency, patch=16)
    squares = (found == 0).all(-1).reshape(96 // side, side, 128 // side, side).mean((1, 3))
    assert set(np.unique(squares)) == {0.0, 1.0}
    assert squares.sum() == squares.size // 2


def test_each_mask_takes_the_map_of_its_own_model() -> None:
    first, second = SalientMask(model="a", patch=10, ratio=0.5), SalientMask(model="b", patch=10, ratio=0.5)
    chain = Chain(steps=(first, RandomChoice(options=(second,)), first))
    assert [source.model for source in chain.saliency_sources] == ["a", "b"]
    left, right = np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]])
    maps = dict(zip(chain.saliency_sources, (left, right), strict=True))
    image = picture(20, 10)
    found = chain(image, rng=generator(0), context=PerturbationContext(saliency=maps))
    assert (np.asarray(found) == 0).all()
    assert (
        np.asarray(first(image, rng=generator(0), context=PerturbationContext(saliency=maps)))[:, 10:] > 0
    ).all()


def test_without_a_map_it_says_where_one_comes_from() -> None:
    with pytest.raises(FovealError, match="no saliency map of 'm'.*call foveal.data.views.perturb"):
        SalientMask(model="m")(picture(9, 9), rng=generator(0), context=PerturbationContext())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "model"),
        ({"model": "m", "layers": (0, 1)}, "expected layers counted from 1, each once"),
        ({"model": "m", "layers": (2, 2)}, "expected layers counted from 1, each once"),
        ({"model": "m", "layers": ()}, "at least 1 item"),
        ({"model": "m", "ratio": 1.1}, "less than or equal to 1"),
    ],
)
def test_settings_that_cannot_work_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        SalientMask.model_validate(fields)
