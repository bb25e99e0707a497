"""The picture shows the right colours in the right places, at any shape of slide."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.output.making import NA, make_spec
from wsi_seg.card import named_classes
from wsi_seg.geometry import Mpp, PyramidLayout
from wsi_seg.output import overview
from wsi_seg.output.overview import LONGEST_SIDE, OPACITY, overview_level, render_overview, scale_bar_um
from wsi_seg.output.result_spec import Thumbnail
from wsi_seg.output.summary import make_summary

SLIDE = Path(__file__).parents[2] / "../shared/data/slides/cmu-1-small-region/cmu-1-small-region.svs"


def drawn(spec, labels, thumbnail, model="he"):
    values = (*range(len(spec.classes)), spec.not_analysed)
    counts = [int((labels == value).sum()) for value in values]
    counts[0] += spec.layout.size[0] * spec.layout.size[1] - sum(counts)
    summary = make_summary(spec, "ab" * 32, counts, np.ones(spec.tile_grid, np.uint8), model={"name": model})
    return Image.open(io.BytesIO(render_overview(thumbnail, labels, spec, summary)))


def flat_spec(size, n=3, name="slide"):
    one = Mpp(0.5, 0.5)
    classes = named_classes([f"class {i}" for i in range(n)])
    return make_spec(size, mpp=one, l0_mpp=one, l0_offset=(0, 0), classes=classes, name=name)


def test_colours_lie_over_the_slide_where_the_labels_are():
    spec = flat_spec((800, 800))
    labels = np.full((800, 800), NA, np.uint8)
    labels[:400, :400], labels[:400, 400:], labels[400:, 400:] = 0, 1, 2
    grey = Thumbnail(np.full((100, 100, 3), 200, np.uint8), Mpp(4, 4))
    pixels = np.asarray(drawn(spec, labels, grey)).astype(int)
    width = pixels.shape[1]
    # panels side by side: the left one is the slide alone, the right one is coloured
    for value, (y, x) in {0: (0.25, 0.25), 1: (0.25, 0.75), 2: (0.75, 0.75)}.items():
        expected = np.round(200 * (1 - OPACITY) + np.array(spec.classes[value].rgb) * OPACITY)
        panel = (width - 2 * 24 - 16) // 2
        row, column = 24 + 78 + int(y * panel), width // 2 + 8 + int(x * panel)
        np.testing.assert_allclose(pixels[row, column], expected, atol=1)
        assert (pixels[row, column - panel - 16] == 200).all()


def test_only_the_part_of_the_slide_that_the_canvas_covers_is_shown():
    half = Mpp(0.5, 0.5)
    spec = make_spec((400, 400), mpp=half, l0_mpp=half, l0_offset=(400, 400), classes=named_classes(["a", "b"]))
    pixels = np.full((80, 80, 3), 10, np.uint8)
    pixels[40:, 40:] = 210
    page = np.asarray(drawn(spec, np.zeros((400, 400), np.uint8), Thumbnail(pixels, Mpp(5, 5))))
    panel = (page.shape[1] - 2 * 24 - 16) // 2
    left = page[102 : 102 + panel, 24 : 24 + panel]
    assert (left[100:-100, 100:-100] == 210).all()
    assert left[60:-60, 60:-60].min() > 150  # the filter looks a little beyond the edge


@settings(max_examples=8)
@given(
    size=st.tuples(st.integers(1, 3000), st.integers(1, 3000)),
    n=st.integers(2, 40),
    side=st.integers(1, 300),
    name=st.text(max_size=200),
)
def test_any_slide_gives_a_picture_of_bounded_size(size, n, side, name):
    spec = flat_spec(size, n, name)
    labels = np.random.default_rng(0).choice([*range(n), NA], size).astype(np.uint8)[:: max(1, size[0] // 300)]
    scale = max(size) / side
    shape = max(1, round(size[0] / scale)), max(1, round(size[1] / scale))
    thumbnail = Thumbnail(np.full((*shape, 3), 240, np.uint8), Mpp(0.5 * size[0] / shape[0], 0.5 * size[1] / shape[1]))
    page = drawn(spec, labels, thumbnail)
    assert max(page.size) <= LONGEST_SIDE
    assert page.mode == "RGB"


def test_hundreds_of_classes_make_it_longer_not_wrong():
    page = drawn(
        flat_spec((500, 500), 250),
        np.zeros((500, 500), np.uint8),
        Thumbnail(np.zeros((9, 9, 3), np.uint8), Mpp(28, 28)),
    )
    assert page.size[0] <= LONGEST_SIDE < page.size[1] < 2 * LONGEST_SIDE


@pytest.mark.parametrize("value", [0, 128, 255])
def test_what_is_not_analysed_is_hatched_on_any_slide(value):
    spec = flat_spec((800, 800))
    labels = np.full((800, 800), NA, np.uint8)
    thumbnail = Thumbnail(np.full((800, 800, 3), value, np.uint8), Mpp(0.5, 0.5))
    picture = np.asarray(drawn(spec, labels, thumbnail).convert("L"), dtype=int)
    middle = picture[picture.shape[0] // 2, -400:-200]
    assert np.ptp(middle) > 50


def test_equal_results_give_equal_pictures():
    spec = flat_spec((300, 500))
    labels, thumbnail = np.ones((300, 500), np.uint8), Thumbnail(np.full((30, 50, 3), 99, np.uint8), Mpp(5, 5))
    assert drawn(spec, labels, thumbnail).tobytes() == drawn(spec, labels, thumbnail).tobytes()


@given(st.floats(1e-3, 1e9))
def test_scale_bars_are_round_and_fit(width_um):
    length = scale_bar_um(width_um)
    assert length <= width_um / 4 * (1 + 1e-9)
    assert length > width_um / 4 / 2.6
    assert f"{length:.0e}"[0] in "125"


@given(st.tuples(st.integers(1, 200_000), st.integers(1, 200_000)))
def test_the_level_shown_is_fine_enough_and_small(size):
    spec = flat_spec(size)
    height, width = PyramidLayout(size, 256).level_size(overview_level(spec))
    assert max(height, width) < 2 * LONGEST_SIDE
    assert max(height, width) >= min(LONGEST_SIDE, max(size))


@pytest.mark.skipif(not SLIDE.exists(), reason="the slide cmu-1-small-region is not in ../shared/data")
def test_a_real_slide_is_shown_as_it_is():
    import openslide

    with openslide.OpenSlide(SLIDE) as slide:
        width, height = slide.dimensions
        mpp = float(slide.properties["openslide.mpp-x"])
        picture = np.asarray(slide.get_thumbnail((800, 800)).convert("RGB"))
    own = Mpp(mpp, mpp)
    spec = make_spec((height, width), mpp=own, l0_mpp=own, l0_offset=(0, 0), name=SLIDE.stem)
    labels = np.full((height // 4, width // 4), NA, np.uint8)
    thumbnail = Thumbnail(picture, own.scaled(height / picture.shape[0], width / picture.shape[1]))
    page = np.asarray(drawn(spec, labels, thumbnail)).astype(int)
    panel = (page.shape[1] - 2 * 24 - 16) // 2
    left, right = page[120:600, 30 : panel - 10], page[120:600, panel + 60 : -40]
    assert abs(left.mean((0, 1)) - picture[20:460].mean((0, 1))).max() < 25
    assert np.ptp(left, axis=2).max() > 60  # the slide in its colours
    assert np.ptp(right, axis=2).max() <= 1  # nothing analysed: no colour at all


def test_long_names_of_few_classes_are_whole():
    spec = flat_spec((400, 1600), 3)
    names = ["background", "invasive carcinoma of no special type, grade two", "x"]
    long = make_spec((400, 1600), mpp=spec.mpp, l0_mpp=spec.l0_mpp, l0_offset=(0, 0), classes=named_classes(names))
    labels, thumbnail = np.zeros((400, 1600), np.uint8), Thumbnail(np.full((40, 160, 3), 240, np.uint8), Mpp(5, 5))
    summary = make_summary(long, "ab" * 32, [400 * 1600, 0, 0, 0], np.ones(long.tile_grid, np.uint8))
    entries = overview._legend_entries(long, summary)
    arrangement = overview._arrange(long, entries)
    font = overview._font(overview._TEXT_PX)
    room = arrangement.legend_column - overview._SWATCH - overview._GAP
    assert font.getlength("  ".join(entries[1][:2])) <= room
    assert arrangement.legend_columns * arrangement.legend_column <= LONGEST_SIDE
    assert drawn(spec, labels, thumbnail).size[0] <= LONGEST_SIDE


def test_a_tall_slide_has_a_narrow_page_with_panels_as_large():
    tall = drawn(
        flat_spec((3000, 500)),
        np.zeros((300, 50), np.uint8),
        Thumbnail(np.full((90, 15, 3), 90, np.uint8), Mpp(17, 17)),
    )
    assert tall.size[0] < 800
    assert tall.size[1] > 1200
