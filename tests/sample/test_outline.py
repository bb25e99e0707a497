"""The outline tells tiles apart exactly, and covers the share of the slide it was asked for."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsi_seg.geometry import Box
from wsi_seg.sample.outline import BORDER, INSIDE, OUTSIDE, Outline

RAGGED = np.random.default_rng(5).uniform(-1, 1, (1024, 1024)).astype(np.float32)
SIDES = st.integers(1, 3000)


def outline(size, fraction, seed=0, ragged=RAGGED):
    return Outline(size, fraction, np.random.default_rng(seed), ragged)


def whole_cover(made, size, tile=64):
    rows, columns = (-(-side // tile) * tile for side in size)
    return made.cover(Box(0, 0, rows, columns))


@settings(max_examples=40)
@given(SIDES, SIDES, st.floats(0, 1), st.sampled_from([64, 128, 256, 1024]), st.integers(0, 50))
def test_kind_of_a_tile_is_what_its_pixels_say(height, width, fraction, tile, seed):
    made = outline((height, width), fraction, seed)
    cover = whole_cover(made, (height, width), tile)
    kinds = made.kinds(tile)
    tiles = cover.reshape(kinds.shape[0], tile, kinds.shape[1], tile)
    assert (tiles.max(axis=(1, 3))[kinds == OUTSIDE] == 0).all()
    assert (tiles.min(axis=(1, 3))[kinds == INSIDE] == 1).all()


@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.9])
def test_few_tiles_are_called_border(fraction):
    kinds = outline((20_000, 24_000), fraction).kinds(256)
    assert 0 < (kinds == BORDER).mean() < 0.2
    assert (kinds == INSIDE).mean() == pytest.approx(fraction, abs=0.12)


@pytest.mark.parametrize("fraction", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("size", [(1000, 1000), (2000, 5000)])
def test_tissue_fills_the_fraction_asked_for(size, fraction):
    cover = whole_cover(outline(size, fraction), size)[: size[0], : size[1]]
    assert cover.mean() == pytest.approx(fraction, abs=0.06)


@pytest.mark.parametrize(("fraction", "value"), [(0.0, 0), (1.0, 1)])
def test_no_tissue_and_nothing_but_tissue(fraction, value):
    assert (whole_cover(outline((700, 900), fraction), (700, 900)) == value).all()


def test_cover_of_a_box_is_the_same_part_of_the_whole():
    made = outline((2000, 2000), 0.5)
    whole = whole_cover(made, (2000, 2000))
    for box in (Box(0, 64, 256, 320), Box(1024, 960, 1280, 1472), Box(1984, 1984, 2048, 2048)):
        np.testing.assert_array_equal(made.cover(box), whole[box.slices()])


def test_outline_is_roughened_but_not_moved():
    size = (1500, 1500)
    smooth = whole_cover(outline(size, 0.5, ragged=np.zeros((1024, 1024), np.float32)), size)
    rough = whole_cover(outline(size, 0.5), size)
    assert 0.001 < (np.abs(smooth - rough) > 0.5).mean() < 0.06
