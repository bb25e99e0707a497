"""The tile grid: cells partition the canvas, weights stay inside supports, spans are what a search by hand finds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wsi_kernels import axis_window

from tests.plan.strategies import grids
from wsi_seg.errors import GridError
from wsi_seg.geometry import Box
from wsi_seg.plan import TileGrid
from wsi_seg.plan.grid import WINDOWS, check_overlap, check_tile, overlap_step

BOXES = st.builds(Box, st.integers(-50, 220), st.integers(-50, 220), st.integers(-50, 220), st.integers(-50, 220))


def tiles(grid: TileGrid) -> list[tuple[int, int]]:
    rows, columns = grid.shape
    return [(row, column) for row in range(rows) for column in range(columns)]


def pairs(spans: tuple[range, range]) -> set[tuple[int, int]]:
    return {(row, column) for row in spans[0] for column in spans[1]}


@given(grids())
def test_cells_partition_the_canvas(grid: TileGrid) -> None:
    owners = np.zeros(grid.canvas, np.int32)
    for tile in tiles(grid):
        cell = grid.cell(*tile)
        assert not cell.is_empty
        assert grid.extent.contains(cell)
        owners[cell.slices()] += 1
    assert (owners == 1).all()


@given(grids())
def test_each_cell_has_half_the_overlap_as_context_on_every_side_also_at_the_edges(grid: TileGrid) -> None:
    for tile in tiles(grid):
        cell, around = grid.cell(*tile), grid.overlap // 2
        context = Box(cell.y0 - around, cell.x0 - around, cell.y1 + around, cell.x1 + around)
        assert grid.tile_box(*tile).contains(context)


@given(grids())
def test_tile_origins_are_multiples_of_the_output_stride(grid: TileGrid) -> None:
    for tile in tiles(grid):
        box = grid.tile_box(*tile)
        assert box.size == (grid.tile, grid.tile)
        assert box.y0 % grid.output_stride == box.x0 % grid.output_stride == 0


@given(grids())
def test_supports_cover_and_hold_the_cells_and_lie_in_the_tiles(grid: TileGrid) -> None:
    for tile in tiles(grid):
        assert grid.support(*tile).contains(grid.cell(*tile))
        assert grid.tile_box(*tile).contains(grid.support(*tile))
        if not grid.blends:
            assert grid.support(*tile) == grid.cell(*tile)


@given(grids())
def test_supports_are_symmetric(grid: TileGrid) -> None:
    start, end = grid.reach
    assert start == grid.tile - end


@settings(max_examples=60)
@given(grids(), st.integers(0, 1))
def test_the_kernels_weights_sum_to_256_and_are_0_outside_the_support(grid: TileGrid, axis: int) -> None:
    total = np.zeros(grid.canvas[axis], np.uint32)
    n = grid.shape[axis]
    for index in range(n):
        window = axis_window(grid.tile, grid.overlap, grid.window, grid.margin, first=index == 0, last=index == n - 1)
        tile = (index, 0) if axis == 0 else (0, index)
        box, support = grid.tile_box(*tile), grid.support(*tile)
        origin, low, high = (box.y0, support.y0, support.y1) if axis == 0 else (box.x0, support.x0, support.x1)
        for offset in range(grid.tile):
            at = origin + offset
            if 0 <= at < grid.canvas[axis]:
                assert window[offset] == 0 or low <= at < high
                total[at] += window[offset]
    assert (total == 256).all()


@given(grids(), BOXES)
def test_spans_are_those_a_search_finds(grid: TileGrid, box: Box) -> None:
    for spans, part in ((grid.tiles_touching(box), grid.support), (grid.cells_touching(box), grid.cell)):
        found = {tile for tile in tiles(grid) if not part(*tile).intersect(box).is_empty}
        assert pairs(spans) == found


@given(grids(), st.integers(8, 80))
def test_blocks_of_any_size_own_each_tile_once(grid: TileGrid, block: int) -> None:
    owned: list[tuple[int, int]] = []
    for y in range(0, grid.canvas[0], block):
        for x in range(0, grid.canvas[1], block):
            box = Box.at(y, x, block, block)
            mine = pairs(grid.tiles_owned(box))
            assert mine <= pairs(grid.cells_touching(box))
            owned += mine
    assert sorted(owned) == tiles(grid)


@given(grids())
def test_edges_are_the_cells(grid: TileGrid) -> None:
    for axis in (0, 1):
        edges = grid.edges(axis)
        for index in range(grid.shape[axis]):
            cell = grid.cell(index, 0) if axis == 0 else grid.cell(0, index)
            span = (cell.y0, cell.y1) if axis == 0 else (cell.x0, cell.x1)
            assert (edges[index], edges[index + 1]) == span


@given(grids())
def test_no_row_or_column_of_tiles_is_idle(grid: TileGrid) -> None:
    last = grid.cell(grid.shape[0] - 1, grid.shape[1] - 1)
    assert (last.y1, last.x1) == grid.canvas
    assert not last.is_empty


def test_only_ramps_reach_into_neighbours() -> None:
    assert TileGrid((99, 99), 32, 8, window="linear").blends
    assert TileGrid((99, 99), 32, 8, window="cosine", margin=3).blends
    assert not TileGrid((99, 99), 32, 8, window="cosine", margin=4).blends
    assert not TileGrid((99, 99), 32, 8, window="crop").blends
    assert not TileGrid((99, 99), 32, 0, window="linear").blends


REFUSED = [
    pytest.param({"tile": 500, "overlap": 64, "output_stride": 32}, "use 480 or 512", id="tile off the output stride"),
    pytest.param({"tile": 10, "overlap": 0, "output_stride": 32}, "use 32$", id="tile below the output stride"),
    pytest.param({"tile": 0, "overlap": 0}, "use 1$", id="no tile"),
    pytest.param({"tile": 512, "overlap": 50, "output_stride": 32}, "use 32 or 64", id="overlap off the output stride"),
    pytest.param({"tile": 512, "overlap": 63}, "use 62 or 64", id="odd overlap"),
    pytest.param({"tile": 96, "overlap": 18, "output_stride": 3}, None, id="odd output stride, even overlap"),
    pytest.param({"tile": 96, "overlap": 15, "output_stride": 3}, "use 12 or 18", id="odd output stride, odd overlap"),
    pytest.param({"tile": 512, "overlap": -2}, "use 0$", id="negative overlap"),
    pytest.param({"tile": 512, "overlap": 300, "output_stride": 32}, "use 256 or --tile 640", id="overlap above half"),
    pytest.param({"tile": 512, "overlap": 64, "window": "box"}, "use one of linear, cosine", id="unknown window"),
    pytest.param({"tile": 512, "overlap": 64, "window": "linear", "margin": 33}, "overlap / 2", id="margin too wide"),
    pytest.param({"tile": 512, "overlap": 64, "window": "crop", "margin": 1}, "0 with crop", id="margin with crop"),
    pytest.param({"tile": 512, "overlap": 64, "output_stride": 0}, "at least 1", id="no output stride"),
]


@pytest.mark.parametrize(("fields", "remedy"), REFUSED)
def test_what_does_not_fit_is_refused_with_what_does(fields: dict[str, object], remedy: str | None) -> None:
    if remedy is None:
        TileGrid((100, 100), **fields)  # type: ignore[arg-type]
        return
    with pytest.raises(GridError, match=remedy):
        TileGrid((100, 100), **fields)  # type: ignore[arg-type]


def test_an_empty_canvas_is_refused() -> None:
    with pytest.raises(GridError, match="at least 1 x 1"):
        TileGrid((0, 10), 32, 0)


@given(st.integers(1, 600), st.integers(1, 64))
def test_the_tile_sizes_offered_are_valid(tile: int, output_stride: int) -> None:
    try:
        check_tile(tile, output_stride)
    except GridError as error:
        for offered in error.remedy.removeprefix("use ").split(" or "):
            check_tile(int(offered), output_stride)


@given(st.integers(-5, 700), st.integers(1, 40), st.integers(1, 32))
def test_the_overlaps_offered_are_valid(overlap: int, tiles_per_stride: int, output_stride: int) -> None:
    tile = tiles_per_stride * output_stride
    try:
        check_overlap(overlap, tile, output_stride)
    except GridError as error:
        near, _, larger = error.remedy.removesuffix(" or more").partition(" or --tile ")
        for offered in near.removeprefix("use ").split(" or "):
            check_overlap(int(offered), tile, output_stride)
        if larger:
            check_tile(int(larger), output_stride)
            step = overlap_step(output_stride)
            check_overlap(-(-overlap // step) * step, int(larger), output_stride)


def test_the_kernels_know_the_same_windows() -> None:
    from wsi_kernels.window import KINDS

    assert set(WINDOWS) == set(KINDS)
