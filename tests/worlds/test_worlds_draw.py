"""Pictures of the worlds: shapes, colours, noise, labels and the contact sheet."""

import math

import numpy as np
import pytest
from PIL import Image

from foveal.worlds import FAMILIES, WorldError, make_problem
from foveal.worlds.cells import COLOURS, SHAPES
from foveal.worlds.draw import COLOUR_VALUES, draw_cells_picture, label_size, shape_coverage
from foveal.worlds.sheet import write_contact_sheet

AXIS = np.arange(56, dtype=np.float32) + 0.5 - 28


def coverage(shape, radius=20.0):
    return shape_coverage(shape, AXIS[None, :], AXIS[:, None], radius)


def test_the_covered_area_is_that_of_the_shape():
    assert coverage("circle").sum() == pytest.approx(math.pi * 18.4**2, rel=0.01)
    assert coverage("square").sum() == pytest.approx(32.0**2, rel=0.01)
    # Between the lines |x| = 0.6 (y + r) and above y = 0.62 r: half base 0.972 r, height 1.62 r.
    assert coverage("triangle").sum() == pytest.approx(0.972 * 1.62 * 20**2, rel=0.02)
    # Ten triangles from the middle to a tip and an inner corner, 36 degrees apart.
    assert coverage("star").sum() == pytest.approx(5 * 21 * 0.45 * 21 * math.sin(math.pi / 5), rel=0.02)


@pytest.mark.parametrize("shape", SHAPES)
def test_edges_are_smooth_and_shapes_stay_in_their_cell(shape):
    cover = shape_coverage(shape, AXIS[None, :] - 5, AXIS[:, None] - 5, 22.0)
    assert ((cover > 0.05) & (cover < 0.95)).sum() > 20
    largest = shape_coverage(shape, AXIS[None, :], AXIS[:, None] + 5, 22.0)
    assert largest[0].max() < 0.6, "at most a tip touches the border"


def test_a_clean_picture_has_the_named_colours_in_the_named_cells():
    cells = [f"{colour} square" for colour in COLOURS]
    rng = np.random.default_rng(0)
    picture = np.asarray(draw_cells_picture(cells, grid=(2, 2), cell_px=56, noise=0.0, rng=rng))
    for i, colour in enumerate(COLOURS):
        assert tuple(picture[28 + 56 * (i // 2), 28 + 56 * (i % 2)]) == COLOUR_VALUES[colour]


def test_what_stands_in_one_cell_does_not_change_another():
    first, second = (
        np.asarray(
            draw_cells_picture(
                [content, "red star"], grid=(1, 2), cell_px=56, noise=1.0, rng=np.random.default_rng(0)
            )
        )
        for content in ("none", "blue circle")
    )
    assert np.array_equal(first[:, 56:], second[:, 56:]) and not np.array_equal(first[:, :56], second[:, :56])


def test_pixel_noise_has_the_stated_deviation():
    def picture(noise):
        rng = np.random.default_rng(0)
        return np.asarray(
            draw_cells_picture(["none"], grid=(1, 1), cell_px=112, noise=noise, rng=rng), dtype=float
        )

    # Clipping at 255 narrows what lies above the bright background, so only the lower half is measured.
    below = (picture(0.5) - picture(0.0)).clip(max=0)
    assert math.sqrt(2 * (below**2).mean()) == pytest.approx(7.0, rel=0.05)


def test_digits_of_labels_are_at_least_twelve_pixels_high():
    assert all(label_size(str(digit))[1] >= 12 for digit in range(10))


@pytest.mark.parametrize("family", ["triangles", "circles"])
def test_drawings_keep_a_margin_so_that_no_label_is_cut(family):
    for i in range(150):
        problem = make_problem(family, split="train", seed=0, index=i, render=False)
        rng = np.random.default_rng(i)
        picture = np.asarray(
            FAMILIES[family].render(problem.meta["scene"], noise=0.0, rng=rng)[0], dtype=float
        )
        border = np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]])
        assert border.std(axis=0).max() < 2, (i, problem.meta["scene"])


def test_the_contact_sheet_shows_every_family(tmp_path):
    path = write_contact_sheet(tmp_path / "new" / "sheet.png", families=list(FAMILIES), n=2)
    sheet = Image.open(path)
    assert sheet.width > 600 and sheet.height > 5 * 250
    one = Image.open(write_contact_sheet(tmp_path / "one.png", families=["counting"], n=1))
    assert one.width < sheet.width and one.height < sheet.height / 4
    with pytest.raises(WorldError, match="at least 1"):
        write_contact_sheet(tmp_path / "none.png", families=["counting"], n=0)
