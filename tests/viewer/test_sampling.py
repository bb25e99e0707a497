"""Tiles show the label under the centre of each of their px, and the slide by area, wherever the canvas lies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.output.making import make_spec, naive_halve
from tests.viewer.making import L0_SIZE, SIDE, SQUARES, slide_pixels, square_labels
from wsi_seg.geometry import Box, Level, Mpp
from wsi_seg.output.result_spec import ResultSpec, Thumbnail
from wsi_seg.slide.array_slide import ArraySlide
from wsi_seg.viewer.grid import TILE, ViewBox, ViewGrid
from wsi_seg.viewer.sampling import SlidePicture, SmallPicture, sample_labels, sample_probability
from wsi_seg.viewer.sources import SourceState


@dataclass
class ArrayLabels:
    """A label source in memory."""

    spec: ResultSpec
    levels: list[NDArray[Any]]
    run: str = ""

    @property
    def n_levels(self) -> int:
        return len(self.levels)

    def read(self, level: int, box: Box) -> NDArray[Any]:
        assert Box(0, 0, *self.levels[level].shape).contains(box)
        return self.levels[level][box.slices()]

    def read_probability(self, level: int, box: Box, channel: int, /) -> NDArray[np.uint8]:
        return (self.read(level, box) + channel).astype(np.uint8)

    def state(self) -> SourceState:
        return SourceState("", finished=True)


def source_of(labels: NDArray[Any], **changes: Any) -> ArrayLabels:
    spec = make_spec(labels.shape, **changes)
    levels = [labels]
    while len(levels) < spec.layout.n_levels:
        levels.append(naive_halve(levels[-1], spec.not_analysed, len(spec.classes)))
    return ArrayLabels(spec, levels)


@given(
    st.integers(0, 2**32),
    st.tuples(st.integers(0, 90), st.integers(0, 90)),
    st.tuples(st.sampled_from([0.25, 0.5, 0.6, 1.0]), st.sampled_from([0.25, 0.5, 0.51])),
    st.sampled_from([1, 2, 4, 8]),
    st.tuples(st.integers(0, 40), st.integers(0, 40)),
)
def test_labels_are_those_under_the_centres(seed: int, offset: Any, mpp: Any, downsample: int, corner: Any) -> None:
    rng = np.random.default_rng(seed)
    source = source_of(
        rng.integers(0, 3, (700, 530)).astype(np.uint8), mpp=Mpp(*mpp), l0_mpp=Mpp(0.25, 0.25), l0_offset=offset
    )
    box = Box.at(*corner, 9, 13)
    found = sample_labels(source, ViewBox(box, downsample))
    level = max(n for n in range(source.n_levels) if n == 0 or 2**n * max(mpp) <= downsample * 0.25 * (1 + 1e-6))
    for i in range(9):
        for j in range(13):
            y = ((box.y0 + i + 0.5) * downsample - offset[0]) * 0.25 / mpp[0]
            x = ((box.x0 + j + 0.5) * downsample - offset[1]) * 0.25 / mpp[1]
            if 0 <= y < 700 and 0 <= x < 530:
                assert found[i, j] == source.levels[level][int(y) >> level, int(x) >> level]
            else:
                assert found[i, j] == source.spec.not_analysed


def test_probabilities_come_from_the_same_px() -> None:
    source = source_of(np.arange(600 * 520).reshape(600, 520).astype(np.uint8) % 3, l0_offset=(3.0, 5.0))
    view = ViewBox(Box(10, 20, 60, 50), 4)
    expected = sample_labels(source, view).astype(int) + 1
    expected[sample_labels(source, view) == 255] = 0
    assert (sample_probability(source, view, 1) == np.where(sample_labels(source, view) == 255, 0, expected)).all()


def test_a_pyramid_that_lacks_its_top_is_sampled_from_below() -> None:
    source = source_of(square_labels(2), l0_offset=(0.0, 0.0), mpp=Mpp(0.5, 0.5), l0_mpp=Mpp(0.25, 0.25))
    whole = ViewGrid(L0_SIZE).whole(256)
    full = sample_labels(source, whole)
    source.levels = source.levels[:2]
    assert (sample_labels(source, whole) == full).mean() > 0.99
    assert (sample_labels(source, whole) == 1).any()


@pytest.mark.parametrize("factor", [1, 2, 4])
@pytest.mark.parametrize("downsample", [1, 2, 4, 8, 16])
def test_squares_of_slide_and_labels_are_the_same_px(factor: int, downsample: int) -> None:
    labels = source_of(
        square_labels(factor), l0_offset=(0.0, 0.0), mpp=Mpp(0.25 * factor, 0.25 * factor), l0_mpp=Mpp(0.25, 0.25)
    )
    picture = SlidePicture(ArraySlide(slide_pixels(), mpp=0.25))
    grid = ViewGrid(L0_SIZE)
    seen = np.zeros((L0_SIZE[0] // downsample, L0_SIZE[1] // downsample), bool)
    level = grid.max_level - (downsample - 1).bit_length()
    for row in range(-(-L0_SIZE[0] // downsample // TILE)):
        for column in range(-(-L0_SIZE[1] // downsample // TILE)):
            view = grid.tile(level, row, column)
            dark = picture.read(view)[..., 0] < 128
            assert (dark == (sample_labels(labels, view) == 1)).all()
            seen[view.box.slices()] = dark
    assert seen.sum() == len(SQUARES) * (SIDE // downsample) ** 2


def test_a_picture_of_the_slide_stands_in_for_it_at_its_place() -> None:
    small = slide_pixels()[::8, ::8].copy()
    picture = SmallPicture.of_result(Thumbnail(small, Mpp(2.0, 2.0)), make_spec(l0_mpp=Mpp(0.25, 0.25)))
    view = ViewGrid(L0_SIZE).whole(256)
    assert view.downsample == 8
    assert (picture.read(view) == small).all()
    enlarged = picture.read(ViewBox(Box.at(*SQUARES[1], SIDE, SIDE), 1))
    assert (enlarged[8:-8, 8:-8] < 40).all()
    assert (picture.read(ViewBox(Box.at(2000, 0, 5, 7), 1)) == 255).all()


def test_slides_of_one_level_are_read_once_for_coarse_views() -> None:
    slide = ArraySlide(slide_pixels(), mpp=0.25)
    picture, read = SlidePicture(slide), []
    read_region = slide.read_region
    slide.read_region = lambda box, level, out=None: read.append(box) or read_region(box, level, out)  # type: ignore
    first = picture.read(ViewBox(Box(0, 0, 50, 64), 32))
    n = len(read)
    assert (picture.read(ViewBox(Box(0, 0, 50, 64), 32)) == first).all()
    assert len(read) == n


def test_of_a_slide_of_one_level_no_tile_reads_more_than_a_bounded_part() -> None:
    size, read = (100_000, 90_000), []

    class Large(ArraySlide):
        def read_region(self, box: Box, level: int, out: Any = None) -> NDArray[np.uint8]:
            assert max(box.size) <= 4096 + 2
            read.append(box)
            return np.full((*box.size, 3), (box.y0 // 4096 % 2) * 200, np.uint8)

    slide, grid = Large(np.zeros((8, 8, 3), np.uint8), mpp=0.25), ViewGrid(size)
    slide.levels = (Level(size, (1.0, 1.0)),)
    picture = SlidePicture(slide)
    view = grid.tile(grid.max_level - 5, 1, 1)
    assert view.downsample == 32
    pixels = picture.read(view)
    assert len(read) == 25
    assert pixels.shape == (*view.box.size, 3)
    assert set(pixels[:, 0, 0].tolist()) == {0, 200}


def test_a_slide_read_in_parts_is_the_same_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.random.default_rng(3).integers(0, 256, (700, 900, 3), np.uint8)
    view = ViewBox(Box(3, 5, 171, 220), 4)
    whole = SlidePicture(ArraySlide(pixels, mpp=0.25)).read(view)
    monkeypatch.setattr("wsi_seg.viewer.sampling._READ_SIDE", 128)
    assert (SlidePicture(ArraySlide(pixels, mpp=0.25)).read(view) == whole).all()


def test_agreement_is_counted_in_strips_and_exactly() -> None:
    from wsi_seg.viewer.shown import Shown

    rng = np.random.default_rng(5)
    one, other = (np.where(rng.random((600, 500)) < 0.2, 255, rng.integers(0, 3, (600, 500))) for _ in range(2))
    frames: dict[str, Any] = {"l0_offset": (0.0, 0.0), "mpp": Mpp(0.25, 0.25), "l0_mpp": Mpp(0.25, 0.25)}
    a, b = (
        Shown("", "", (600, 500), None, (0, 0), None, source_of(labels.astype(np.uint8), **frames))
        for labels in (one, other)
    )
    either = (one != 255) | (other != 255)
    same = (one == other) & either
    sides = (one == 255) != (other == 255)
    expected = [same, ~sides & (other == 0) & (one != 0), ~sides & (one == 0) & (other != 0)]
    found = [entry["share"] for entry in a.agreement(b)["shares"]]
    for share, mask in zip(found[:3], expected, strict=True):
        assert share == pytest.approx(mask.sum() / either.sum())
    assert found[4] == pytest.approx(sides.sum() / either.sum())
    assert sum(found) == pytest.approx(1)
