"""Skipping: a cell with tissue or a region is analysed, and everything that weighs on it is predicted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tests.plan.strategies import grids, scale
from wsi_seg.errors import PlanError
from wsi_seg.geometry import Box, Level, Mpp
from wsi_seg.plan import (
    CanvasRoi,
    TileGrid,
    TileSelection,
    TissueMask,
    choose_scale,
    place_mask,
    select_tiles,
    tissue_from_thumbnail,
)
from wsi_seg.plan.selection import Cells, select_larger

SLIDES = Path(__file__).resolve().parents[3] / "shared" / "data" / "slides"
MASKS = arrays(np.bool_, st.tuples(st.integers(1, 12), st.integers(1, 12)))


def covering(mask: np.ndarray, grid: TileGrid) -> TissueMask:
    return place_mask(mask, scale(size=grid.canvas), grid.canvas)


def square(y0: float, x0: float, y1: float, x1: float) -> CanvasRoi:
    return CanvasRoi(((np.array([(y0, x0), (y0, x1), (y1, x1), (y1, x0)], np.float64),),))


@settings(max_examples=60)
@given(grids(), MASKS)
def test_predicted_are_exactly_the_tiles_that_weigh_on_an_analysed_cell(grid: TileGrid, mask: np.ndarray) -> None:
    selection = select_tiles(grid, covering(mask, grid), None)
    analysed, predicted = selection.analysed, selection.predicted
    wanted = np.zeros(grid.shape, np.bool_)
    for row, column in np.argwhere(analysed):
        rows, columns = grid.tiles_touching(grid.cell(row, column))
        wanted[rows.start : rows.stop, columns.start : columns.stop] = True
    assert (predicted == wanted).all()
    assert not (analysed & ~predicted).any()


@settings(max_examples=60)
@given(grids(), MASKS)
def test_a_cell_is_analysed_when_tissue_is_in_it_or_one_mask_px_beside(grid: TileGrid, mask: np.ndarray) -> None:
    analysed = select_tiles(grid, covering(mask, grid), None).analysed
    step = np.array(grid.canvas) / mask.shape
    for row, column in np.ndindex(*grid.shape):
        cell = grid.cell(row, column)
        low, high = np.array([cell.y0, cell.x0]) / step, np.array([cell.y1, cell.x1]) / step
        # Mask px (i, j) is [i, i + 1) x [j, j + 1); it lies within `gap` px of the cell, or it does not.
        near, far = (
            any(((at + 1 + gap > low) & (at - gap < high)).all() for at in np.argwhere(mask)) for gap in (0, 2.001)
        )
        assert analysed[row, column] >= near
        assert analysed[row, column] <= far


@given(grids())
def test_without_a_mask_or_regions_everything_is_analysed(grid: TileGrid) -> None:
    selection = select_tiles(grid, None, None)
    assert selection.n_analysed == selection.n_predicted == grid.n_tiles


@given(grids())
def test_without_tissue_nothing_is(grid: TileGrid) -> None:
    selection = select_tiles(grid, covering(np.zeros((3, 5), np.bool_), grid), None)
    assert selection.n_analysed == selection.n_predicted == 0


@settings(max_examples=60)
@given(grids(), st.tuples(*[st.floats(0, 100)] * 2), st.tuples(*[st.floats(0.5, 60)] * 2))
def test_cells_that_share_an_area_with_a_region_are_analysed(
    grid: TileGrid, corner: tuple[float, float], size: tuple[float, float]
) -> None:
    y0, x0, y1, x1 = *corner, corner[0] + size[0], corner[1] + size[1]
    analysed = select_tiles(grid, None, square(y0, x0, y1, x1)).analysed
    for row, column in np.ndindex(*grid.shape):
        cell = grid.cell(row, column)
        shares = cell.y0 < y1 and cell.y1 > y0 and cell.x0 < x1 and cell.x1 > x0
        touches = cell.y0 <= y1 and cell.y1 >= y0 and cell.x0 <= x1 and cell.x1 >= x0
        assert shares <= analysed[row, column] <= touches


def test_tissue_and_region_have_both_to_be_met() -> None:
    grid = TileGrid((64, 64), 16, 0)
    mask = np.zeros((64, 64), np.bool_)
    mask[8, :] = True
    analysed = select_tiles(grid, covering(mask, grid), square(0, 40, 64, 60)).analysed
    assert np.argwhere(analysed).tolist() == [[0, 2], [0, 3]]


def test_a_hole_in_a_region_is_not_analysed() -> None:
    outer, hole = square(0, 0, 160, 160).polygons[0], square(20, 20, 140, 140).polygons[0]
    grid = TileGrid((160, 160), 16, 0)
    analysed = select_tiles(grid, None, CanvasRoi(((*outer, *hole),))).analysed
    assert not analysed[2:8, 2:8].any()
    assert analysed[0].all()
    assert analysed[:, 9].all()


def test_a_mask_of_the_whole_slide_lies_right_on_a_canvas_that_is_part_of_it() -> None:
    levels = (Level((4000, 8000), (1.0, 1.0)),)
    placed = choose_scale(levels, Mpp(0.25, 0.25), Box(1000, 2000, 3000, 6000), 0.5)
    mask = np.zeros((40, 80), np.bool_)
    mask[20, 30] = True  # level-0 px y 2000 … 2100, x 3000 … 3100: canvas px y 500 … 550, x 500 … 550
    tissue = place_mask(mask, placed, (4000, 8000))
    assert (tissue.origin, tissue.step) == ((-500.0, -1000.0), (50.0, 50.0))
    assert tissue.n_canvas_px == 2500
    analysed = select_tiles(TileGrid(placed.canvas_size, 100, 0), tissue, None).analysed
    assert np.argwhere(analysed).tolist() == [[y, x] for y in (4, 5) for x in (4, 5)]


@given(grids(), st.randoms(use_true_random=False))
def test_a_selection_keeps_its_flags_and_hashes_by_them(grid: TileGrid, random: object) -> None:
    rng = np.random.default_rng(random.randrange(2**32))  # type: ignore[attr-defined]
    analysed, predicted = rng.random((2, *grid.shape)) < 0.5
    selection = TileSelection.of(analysed, predicted)
    assert (selection.analysed == analysed).all()
    assert (selection.predicted == predicted).all()
    assert (selection.n_analysed, selection.n_predicted) == (analysed.sum(), predicted.sum())
    assert selection == TileSelection.of(analysed.copy(), predicted.copy())
    analysed[0, 0] ^= True
    assert selection.sha256 != TileSelection.of(analysed, predicted).sha256


def test_a_thumbnail_that_is_no_rgb_image_is_refused() -> None:
    for thumbnail in (np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((0, 4, 3), np.uint8)):
        with pytest.raises(PlanError, match=r"\(h, w, 3\) uint8"):
            tissue_from_thumbnail(thumbnail, scale(), (10, 10))
    with pytest.raises(PlanError, match="tissue mask of shape"):
        place_mask(np.zeros((0, 3), np.bool_), scale(), (10, 10))


def test_stained_tissue_on_glass_is_found_and_bare_glass_is_not() -> None:
    thumbnail = np.full((60, 90, 3), 243, np.uint8)
    thumbnail[20:40, 30:60] = (190, 110, 170)
    grid = TileGrid((6000, 9000), 500, 0)
    analysed = select_tiles(grid, tissue_from_thumbnail(thumbnail, scale(size=grid.canvas), grid.canvas), None).analysed
    assert analysed[4:8, 6:12].all()
    assert not analysed[:3].any()
    assert not analysed[9:].any()
    assert not analysed[:, :5].any()
    assert not analysed[:, 13:].any()


def test_a_real_slide_is_neither_all_tissue_nor_none() -> None:
    path = SLIDES / "tcga-cr-7395" / "tcga-cr-7395-01a-01-ts1.svs"
    if not path.exists():
        pytest.skip(f"{path.name} is not in ../shared/data")
    import openslide

    with openslide.OpenSlide(path) as slide:
        size = slide.dimensions[::-1]
        thumbnail = np.array(slide.get_thumbnail((1024, 1024)).convert("RGB"))
    placed = choose_scale((Level(size, (1.0, 1.0)),), Mpp(0.5, 0.5), Box(0, 0, *size), 0.5)
    grid = TileGrid(placed.canvas_size, 256, 64, window="linear")
    selection = select_tiles(grid, tissue_from_thumbnail(thumbnail, placed, size), None)
    assert 0.1 * grid.n_tiles < selection.n_analysed < 0.95 * grid.n_tiles
    assert selection.n_analysed < selection.n_predicted


@given(st.data())
def test_larger_tiles_are_those_that_share_a_px_with_an_analysed_cell(data):
    canvas = data.draw(st.tuples(st.integers(1, 400), st.integers(1, 400)))
    small = TileGrid(canvas, 64, 16, window="crop")
    large = TileGrid(canvas, data.draw(st.sampled_from([80, 96, 128, 144, 200])), 16, window="crop")
    flags = data.draw(arrays(np.bool_, small.shape))
    painted = np.zeros(canvas, np.bool_)
    for key in np.ndindex(small.shape):
        painted[small.cell(*key).slices()] = flags[key]
    met = select_larger(large, Cells(small, TileSelection.of(flags, flags))).analysed
    for key in np.ndindex(large.shape):
        assert met[key] == painted[large.cell(*key).slices()].any()
