"""Levels made by reduced decoding: nearly the pixels of an area average, in the same places, and nothing else."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from wsi_kernels import area_resample

from tests.slide.test_contract import boxes
from wsi_seg.errors import RegionReadError, UsageError
from wsi_seg.geometry import Box
from wsi_seg.slide import Slide, open_slide
from wsi_seg.slide.tile_codec import JPEG, TileCodec, jpeg_prefix

Pixels = NDArray[np.uint8]
LARGEST = {2: 20, 4: 10, 8: 5}
"""Grey levels from the area average, by reduction: a real slide of 4:4:4 has 19, 9 and 4, `tissue` 3, 2 and 2."""
PSNR = 51.0
"""Peak signal to noise, dB; the slide has 54 to 59, `tissue` 52 to 54. Colours of 4:2:2 have 37, 1/8 of `tissue` 39."""


def written(path: Path, pixels: Pixels, steps: Sequence[int] = (1,), **options: Any) -> Path:
    """A pyramid of JPEG tiles of 128 px whose levels are every n-th px."""
    asked = {"tile": (128, 128), "compression": "jpeg", "compressionargs": {"level": 90}, "photometric": "rgb"}
    asked |= {"metadata": None} | options
    with tifffile.TiffWriter(path) as tiff:
        for step in steps:
            tiff.write(pixels[::step, ::step], subfiletype=int(step > 1), **asked)
    return path


def whole(slide: Slide, level: int) -> Pixels:
    return slide.read_region(Box(0, 0, *slide.levels[level].size), level)


def averaged(slide: Slide, reduction: int) -> Pixels:
    """Level 0 by area, of the size of the level of that reduction; background beyond the end."""
    height, width = (round(side / reduction) for side in slide.levels[0].size)
    pixels = slide.read_region(Box(0, 0, height * reduction, width * reduction), 0)
    reduced: Pixels = area_resample(pixels, (0, 0), (float(reduction),) * 2, (0, 0, height, width))
    return reduced


def assert_close(found: Pixels, expected: Pixels, reduction: int) -> None:
    difference = np.abs(found.astype(int) - expected)
    assert difference.max() <= LARGEST[reduction]
    assert 10 * np.log10(255**2 / np.square(difference).mean()) >= PSNR


@pytest.fixture(scope="module")
def fast(tmp_path_factory: pytest.TempPathFactory, tissue: Pixels) -> Slide:
    """Sides that are no multiples of 8, nor of the tiles."""
    path = written(tmp_path_factory.mktemp("fast") / "s.tif", tissue[:587, :777], subsampling=(2, 2))
    return open_slide(path, decode="fast")


@pytest.mark.parametrize("subsampling", [(1, 1), (2, 2), None])
def test_pixels_are_nearly_the_area_average(
    tmp_path: Path, tissue: Pixels, subsampling: tuple[int, int] | None
) -> None:
    options = {"subsampling": subsampling} if subsampling else {"photometric": "minisblack"}
    pixels = tissue[:587, :777] if subsampling else tissue[:587, :777, 0]
    slide = open_slide(written(tmp_path / "s.tif", pixels, **options), decode="fast")
    assert [level.reduction for level in slide.levels] == [1, 2, 4, 8]
    assert [level.tile for level in slide.levels] == [(128, 128), (64, 64), (32, 32), (16, 16)]
    for index, level in enumerate(slide.levels[1:], start=1):
        assert level.downsample == (level.reduction, level.reduction)
        found, expected = whole(slide, index), averaged(slide, level.reduction)
        assert_close(found, expected, level.reduction)
        # Tiles that are cut are averaged, so that what pads them never shows: 587 and 777 end in the middle of a px.
        np.testing.assert_array_equal(found[-1], expected[-1])
        np.testing.assert_array_equal(found[:, -1], expected[:, -1])


def test_rgb_tiles_without_an_adobe_marker_keep_their_colours(slides_folder: Path) -> None:
    """Aperio's, 4:4:4; read as YCbCr they differ by up to 200 grey levels."""
    slide = open_slide(slides_folder / "cmu-1-small-region" / "cmu-1-small-region.svs", decode="fast")
    assert slide.vendor == "aperio"
    for index, level in enumerate(slide.levels[1:], start=1):
        assert_close(whole(slide, index), averaged(slide, level.reduction), level.reduction)


@given(chosen=st.data())
@settings(max_examples=25)
def test_a_box_read_whole_or_in_parts_is_the_same(fast: Slide, chosen: st.DataObject) -> None:
    index = chosen.draw(st.integers(1, 3))
    box = chosen.draw(boxes(fast.levels[index].size))
    pixels, inside = fast.read_region(box, index), box.intersect(Box(0, 0, *fast.levels[index].size))
    expected = np.full((*box.size, 3), 255, np.uint8)
    if not inside.is_empty:
        expected[inside.slices((box.y0, box.x0))] = whole(fast, index)[inside.slices()]
    np.testing.assert_array_equal(pixels, expected)


def test_a_pickled_slide_has_the_same_levels_and_pixels(fast: Slide) -> None:
    copy: Slide = pickle.loads(pickle.dumps(fast))
    assert copy.levels == fast.levels
    assert copy.fingerprint() == fast.fingerprint()
    np.testing.assert_array_equal(whole(copy, 2), whole(fast, 2))


def test_what_is_stored_stays_as_it_is(fast: Slide) -> None:
    assert fast.path is not None
    exact = open_slide(fast.path)
    assert [level for level in fast.levels if level.reduction == 1] == list(exact.levels)
    assert fast.fingerprint() == exact.fingerprint()
    np.testing.assert_array_equal(whole(fast, 0), whole(exact, 0))
    np.testing.assert_array_equal(fast.thumbnail(60), exact.thumbnail(60))  # tissue is looked for in it


def test_reductions_fill_the_gaps_between_stored_levels(tmp_path: Path, tissue: Pixels) -> None:
    slide = open_slide(written(tmp_path / "s.tif", tissue, (1, 4, 8)), decode="fast")
    found = [(level.downsample[0], level.reduction) for level in slide.levels]
    assert found == [(1, 1), (2, 2), (4, 1), (8, 1), (16, 2), (32, 4), (64, 8)]


def test_a_tile_that_is_not_stored_is_background(tmp_path: Path, tissue: Pixels) -> None:
    from tests.slide.test_tiff import patch_tags

    path = written(tmp_path / "s.tif", tissue)
    for column in range(7):
        patch_tags(path, {"TileOffsets": 0, "TileByteCounts": 0}, column)
    slide = open_slide(path, decode="fast")
    assert slide.bounds == Box(128, 0, 600, 800)
    assert (whole(slide, 1)[:64] == 255).all()
    assert_close(whole(slide, 1)[64:], averaged(slide, 2)[64:], 2)


NOT_OFFERED = {
    "strips": {"tile": None, "rowsperstrip": 64},
    "4:2:2": {"subsampling": (2, 1)},
    "4:1:1": {"subsampling": (4, 1)},
    "deflate": {"compression": "zlib", "compressionargs": None},
    "planar": {"compression": "zlib", "compressionargs": None, "planarconfig": "separate"},
}


@pytest.mark.parametrize("kind", NOT_OFFERED)
def test_not_of_strips_planes_uneven_colours_and_other_compressions(tmp_path: Path, tissue: Pixels, kind: str) -> None:
    pixels = tissue.transpose(2, 0, 1) if kind == "planar" else tissue
    path = tmp_path / "s.tif"
    options = {"tile": (128, 128), "compression": "jpeg", "photometric": "rgb", "metadata": None}
    tifffile.imwrite(path, pixels, **(options | NOT_OFFERED[kind]))
    slide = open_slide(path, reader="tiff", decode="fast")
    assert [level.reduction for level in slide.levels] == [1]


def test_not_through_other_readers(fast: Slide) -> None:
    assert fast.path is not None
    slide = open_slide(fast.path, reader="openslide", decode="fast")
    assert [level.reduction for level in slide.levels] == [1]


@pytest.mark.parametrize("side", [64, 127, 121])
def test_a_tile_of_another_size_is_unreadable_in_both_modes(side: int) -> None:
    """The decoder would make 64 x 64 px of each of them: of half the size, or of one that is rounded up."""
    payload = simplejpeg.encode_jpeg(np.zeros((side, side, 3), np.uint8), 90)
    for reduction, size in ((1, 128), (2, 64), (8, 16)):
        codec = TileCodec(JPEG, 3, jpeg_prefix=jpeg_prefix(None, is_ycbcr=True), reduction=reduction)
        with pytest.raises(ValueError, match=f"decodes to {side} x {side} px instead of 128 x 128"):
            codec.decode(payload, (size, size))


def test_the_last_tile_is_not_taken_for_another_reduction_of_it(tissue: Pixels) -> None:
    """64 x 64 px of a tile of 128 px are remembered; asked for as a whole tile of 64 px, it is another answer."""
    payload = simplejpeg.encode_jpeg(np.ascontiguousarray(tissue[:128, :128]), 90)
    half = TileCodec(JPEG, 3, jpeg_prefix=jpeg_prefix(None, is_ycbcr=True), reduction=2)
    assert half.decode(payload, (64, 64)).shape == (64, 64, 3)
    with pytest.raises(ValueError, match=r"128 x 128 px instead of 64 x 64|buffer"):
        TileCodec(JPEG, 3, jpeg_prefix=half.jpeg_prefix).decode(payload, (64, 64))


def test_a_cut_off_tile_is_unreadable(tmp_path: Path, tissue: Pixels) -> None:
    from tests.slide.test_tiff import patch_tile

    path = written(tmp_path / "s.tif", tissue)
    patch_tile(path, 0, lambda payload: payload[: len(payload) // 2].ljust(len(payload), b"\0"))
    slide = open_slide(path, decode="fast")
    for level in range(1, 4):
        with pytest.raises(RegionReadError, match=f"level {level}, .*its end is missing"):
            slide.read_region(Box(0, 0, 8, 8), level)


def test_an_unknown_way_is_refused(fast: Slide) -> None:
    assert fast.path is not None
    with pytest.raises(UsageError, match="decode 'quick'"):
        open_slide(fast.path, decode="quick")
