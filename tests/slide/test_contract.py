"""What every reader promises, on slides whose pixels encode their coordinates."""

from __future__ import annotations

import multiprocessing
import pickle
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from wsi_seg.errors import RegionReadError, UsageError
from wsi_seg.geometry import Box
from wsi_seg.slide import Slide

Coded = Callable[[tuple[int, int]], NDArray[np.uint8]]


def expected(slide: Slide, coded: Coded, box: Box, level: int) -> NDArray[np.uint8]:
    """The formula inside the level, the background outside."""
    pixels = np.empty((*box.size, 3), np.uint8)
    pixels[...] = slide.background
    inside = box.intersect(Box(0, 0, *slide.levels[level].size))
    if not inside.is_empty:
        pixels[inside.slices((box.y0, box.x0))] = coded(slide.levels[level].size)[inside.slices()]
    return pixels


@st.composite
def boxes(draw: st.DrawFn, size: tuple[int, int]) -> Box:
    """Boxes of up to 400 px that start up to 150 px off the level."""
    y = draw(st.integers(-150, size[0] + 150))
    x = draw(st.integers(-150, size[1] + 150))
    return Box.at(y, x, draw(st.integers(0, 400)), draw(st.integers(0, 400)))


@pytest.fixture(scope="module")
def spawned() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield pool


class TestEveryReader:
    @given(chosen=st.data())
    @settings(max_examples=25)
    def test_a_region_is_the_formula_at_every_level_and_across_borders(
        self, coded_slide: Slide, coded: Coded, chosen: st.DataObject
    ) -> None:
        level = chosen.draw(st.integers(0, len(coded_slide.levels) - 1))
        box = chosen.draw(boxes(coded_slide.levels[level].size))
        pixels = coded_slide.read_region(box, level)
        assert pixels.dtype == np.uint8
        np.testing.assert_array_equal(pixels, expected(coded_slide, coded, box, level))

    def test_a_whole_level_is_the_formula(self, coded_slide: Slide, coded: Coded) -> None:
        for level, stored in enumerate(coded_slide.levels):
            box = Box(-3, -5, stored.size[0] + 7, stored.size[1] + 2)
            found = coded_slide.read_region(box, level)
            np.testing.assert_array_equal(found, expected(coded_slide, coded, box, level))

    def test_the_caller_owns_the_pixels(self, coded_slide: Slide) -> None:
        box = Box(10, 10, 40, 40)
        first = coded_slide.read_region(box, 0)
        kept = first.copy()
        assert first.flags.writeable
        first[...] = 0
        np.testing.assert_array_equal(coded_slide.read_region(box, 0), kept)

    def test_an_empty_box_gives_no_pixels(self, coded_slide: Slide) -> None:
        assert coded_slide.read_region(Box(5, 5, 5, 9), 0).shape == (0, 4, 3)

    def test_four_threads_read_what_one_reads(self, coded_slide: Slide, coded: Coded) -> None:
        wanted = [(Box.at(37 * i - 40, 53 * i - 40, 150, 170), i % len(coded_slide.levels)) for i in range(24)]
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda item: coded_slide.read_region(*item), wanted))
        for (box, level), pixels in zip(wanted, found, strict=True):
            np.testing.assert_array_equal(pixels, expected(coded_slide, coded, box, level))

    def test_a_pickled_slide_is_the_same_slide(self, coded_slide: Slide, coded: Coded) -> None:
        copy: Slide = pickle.loads(pickle.dumps(coded_slide))
        assert (copy.path, copy.vendor, copy.reader, copy.levels) == (
            coded_slide.path, coded_slide.vendor, coded_slide.reader, coded_slide.levels
        )  # fmt: skip
        assert (copy.mpp, copy.bounds, copy.background) == (coded_slide.mpp, coded_slide.bounds, coded_slide.background)
        assert copy.fingerprint() == coded_slide.fingerprint()
        box = Box(90, 100, 300, 333)
        np.testing.assert_array_equal(copy.read_region(box, 0), expected(coded_slide, coded, box, 0))

    def test_a_spawned_process_reads_it(self, coded_slide: Slide, coded: Coded, spawned: ProcessPoolExecutor) -> None:
        box, last = Box(-9, 60, 200, 250), len(coded_slide.levels) - 1
        found = spawned.submit(coded_slide.read_region, box, last).result(timeout=60)
        np.testing.assert_array_equal(found, expected(coded_slide, coded, box, last))

    def test_it_reads_again_after_close(self, coded_slide: Slide, coded: Coded) -> None:
        coded_slide.close()
        coded_slide.close()
        box = Box(0, 0, 20, 30)
        np.testing.assert_array_equal(coded_slide.read_region(box, 0), expected(coded_slide, coded, box, 0))

    def test_an_unknown_level_is_refused_with_the_levels_there_are(self, coded_slide: Slide) -> None:
        last = len(coded_slide.levels) - 1
        for level in (-1, last + 1):
            with pytest.raises(RegionReadError, match=f"level {level}, .*levels 0 to {last}"):
                coded_slide.read_region(Box(0, 0, 1, 1), level)

    def test_levels_shrink_and_the_first_is_not_reduced(self, coded_slide: Slide) -> None:
        assert coded_slide.levels[0].downsample == (1.0, 1.0)
        sizes = [level.size for level in coded_slide.levels]
        assert sizes == sorted(sizes, reverse=True)
        assert coded_slide.bounds == Box(0, 0, *sizes[0])

    def test_the_thumbnail_is_an_area_average_of_the_whole(self, coded_slide: Slide) -> None:
        thumbnail = coded_slide.thumbnail(100)
        height, width = coded_slide.levels[0].size
        assert thumbnail.shape == (round(height * 100 / width), 100, 3)
        with pytest.raises(UsageError, match="thumbnail of 0 px"):
            coded_slide.thumbnail(0)

    def test_it_satisfies_the_protocol(self, coded_slide: Slide) -> None:
        assert isinstance(coded_slide, Slide)
        assert coded_slide.reader in ("tiff", "openslide", "zarr", "array")
        assert len(coded_slide.fingerprint()) == 64
