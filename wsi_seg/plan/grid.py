"""The one global grid of tiles: where each lies, what it owns and how far its weight reaches.

Owns D3 and the boxes of D4. Pure arithmetic on canvas pixels. Knows no pixel, no weight value and no block.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import lcm
from typing import Any

from wsi_seg.errors import GridError
from wsi_seg.geometry import Box, align_up, ceil_div

WINDOWS = ("linear", "cosine", "gaussian", "crop")
"""Ramps of the weight window; `crop` gives each px to the one tile that owns it."""


@dataclass(frozen=True, slots=True)
class TileGrid:
    """Tiles of side `tile`, `stride` apart, over a canvas; tile (i, j) starts at (i, j) * stride - pad.

    Tile origins are multiples of the output stride. Cells partition the canvas; each px has at least overlap / 2 px of
    context on every side inside the tile that owns it, at the slide's edges too, where the tile reaches over them.

    >>> grid = TileGrid((1000, 700), tile=512, overlap=64, output_stride=32)
    >>> grid.shape, grid.stride, grid.pad, grid.tile_box(0, 1), grid.cell(2, 1)
    ((3, 2), 448, 32, Box(y0=-32, x0=416, y1=480, x1=928), Box(y0=896, x0=448, y1=1000, x1=700))
    """

    canvas: tuple[int, int]
    """(height, width) of the canvas."""
    tile: int
    """Side of a tile, a multiple of the output stride."""
    overlap: int
    """Px that neighbours share, even, a multiple of the output stride, at most half a tile."""
    output_stride: int = 1
    """Total down-sampling of the network."""
    window: str = "crop"
    """One of `WINDOWS`."""
    margin: int = 0
    """Px at a tile's outer edge whose prediction has weight 0, at most half the overlap; 0 with `crop`."""

    def __post_init__(self) -> None:
        if min(self.canvas) < 1:
            raise GridError(f"canvas size {self.canvas}", rule="at least 1 x 1 px")
        check_tile(self.tile, self.output_stride)
        check_overlap(self.overlap, self.tile, self.output_stride)
        check_window(self.window)
        if not 0 <= 2 * self.margin <= self.overlap or (self.window == "crop" and self.margin):
            raise GridError(
                f"margin {self.margin} with overlap {self.overlap} and window {self.window!r}",
                rule="0 … overlap / 2, and 0 with crop",
            )

    @property
    def stride(self) -> int:
        """Distance between the origins of neighbours, a multiple of the output stride."""
        return self.tile - self.overlap

    @property
    def pad(self) -> int:
        """Px that the first tile reaches beyond the canvas' upper and left edge."""
        return align_up(self.overlap // 2, self.output_stride)

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns) of tiles: the fewest whose cells cover the canvas."""
        lead = self.pad - self.overlap // 2
        return ceil_div(self.canvas[0] + lead, self.stride), ceil_div(self.canvas[1] + lead, self.stride)

    @property
    def n_tiles(self) -> int:
        """Number of tiles."""
        return self.shape[0] * self.shape[1]

    @property
    def extent(self) -> Box:
        """All pixels of the canvas."""
        return Box(0, 0, *self.canvas)

    @property
    def blends(self) -> bool:
        """True when some px are a weighted sum of several tiles."""
        return self.reach != (self.overlap // 2, self.overlap // 2 + self.stride)

    @property
    def reach(self) -> tuple[int, int]:
        """[start, end) of the px of a tile, along an axis, whose weight is above 0 (an upper bound of it)."""
        if self.window == "crop":
            return self.overlap // 2, self.overlap // 2 + self.stride
        return self.margin, self.tile - self.margin

    def tile_box(self, row: int, column: int) -> Box:
        """Canvas px that a tile is predicted from; may leave the canvas."""
        return Box.at(row * self.stride - self.pad, column * self.stride - self.pad, self.tile, self.tile)

    def cell(self, row: int, column: int) -> Box:
        """Canvas px that a tile owns."""
        return self._part(row, column, self.overlap // 2, self.overlap // 2 + self.stride)

    def support(self, row: int, column: int) -> Box:
        """Canvas px on which a tile's weight is above 0 (an upper bound of it)."""
        return self._part(row, column, *self.reach)

    def tiles_touching(self, box: Box) -> tuple[range, range]:
        """(rows, columns) of the tiles whose support meets a canvas box."""
        return self._span(box, *self.reach)

    def cells_touching(self, box: Box) -> tuple[range, range]:
        """(rows, columns) of the tiles whose cell meets a canvas box."""
        return self._span(box, self.overlap // 2, self.overlap // 2 + self.stride)

    def tiles_owned(self, box: Box) -> tuple[range, range]:
        """(rows, columns) of the tiles whose cell starts in a canvas box: of a partition, one box owns each tile."""
        rows, columns = self.cells_touching(box)
        return _started(rows, box.y0, self._cell_start), _started(columns, box.x0, self._cell_start)

    def edges(self, axis: int) -> list[int]:
        """Where cells start along an axis, and where the last ends: cell i is [edges[i], edges[i + 1])."""
        return [self._cell_start(i) for i in range(self.shape[axis])] + [self.canvas[axis]]

    def to_mapping(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "canvas": list(self.canvas),
            "tile": self.tile,
            "overlap": self.overlap,
            "output_stride": self.output_stride,
            "window": self.window,
            "margin": self.margin,
        }

    def _cell_start(self, index: int) -> int:
        return max(0, index * self.stride - self.pad + self.overlap // 2)

    def _part(self, row: int, column: int, start: int, end: int) -> Box:
        """Px [start, end) of a tile, along both axes, cut at the canvas."""
        y, x = row * self.stride - self.pad, column * self.stride - self.pad
        return Box(y + start, x + start, y + end, x + end).intersect(self.extent)

    def _span(self, box: Box, start: int, end: int) -> tuple[range, range]:
        box = box.intersect(self.extent)
        if box.is_empty:
            return range(0), range(0)
        rows = self._axis_span(box.y0, box.y1, (start, end), self.shape[0])
        return rows, self._axis_span(box.x0, box.x1, (start, end), self.shape[1])

    def _axis_span(self, low: int, high: int, part: tuple[int, int], n: int) -> range:
        """Tiles i with [i * stride - pad + part) meeting [low, high)."""
        first = (low + self.pad - part[1]) // self.stride + 1
        last = ceil_div(high + self.pad - part[0], self.stride) - 1
        return range(max(0, first), min(n - 1, last) + 1)


def overlap_step(output_stride: int) -> int:
    """Overlaps are multiples of this: even, and whole steps of the output stride."""
    return lcm(2, output_stride)


def check_tile(tile: int, output_stride: int) -> None:
    """Raise GridError, with the nearest valid sizes, unless `tile` is a positive multiple of the output stride.

    >>> check_tile(500, 32)
    Traceback (most recent call last):
        ...
    wsi_seg.errors.GridError: tile_size 500 is not divisible by the model's output stride 32; use 480 or 512
    """
    if output_stride < 1:
        raise GridError(f"output stride {output_stride}", rule="at least 1")
    if tile < 1 or tile % output_stride:
        below, above = tile // output_stride * output_stride, align_up(max(tile, 1), output_stride)
        remedy = f"use {below} or {above}" if below > 0 else f"use {above}"
        raise GridError(
            f"tile_size {tile} is not divisible by the model's output stride {output_stride}", remedy=remedy
        )


def check_overlap(overlap: int, tile: int, output_stride: int) -> None:
    """Raise GridError, with the nearest valid values, unless `overlap` fits the tile and the output stride.

    >>> check_overlap(300, 512, 32)
    Traceback (most recent call last):
        ...
    wsi_seg.errors.GridError: overlap 300 with tile_size 512; at most half a tile; use 256 or --tile 640 or more
    """
    step = overlap_step(output_stride)
    largest = tile // 2 // step * step
    if overlap > tile // 2:
        enough = align_up(2 * align_up(overlap, step), output_stride)
        remedy = f"use {largest} or --tile {enough} or more"
        raise GridError(f"overlap {overlap} with tile_size {tile}", rule="at most half a tile", remedy=remedy)
    if overlap < 0 or overlap % step:
        below, above = max(0, overlap // step * step), align_up(max(0, overlap), step)
        near = sorted({value for value in (below, above) if value <= largest})
        rule = f"0 or more, even, and a multiple of the model's output stride {output_stride}"
        raise GridError(f"overlap {overlap}", rule=rule, remedy=f"use {' or '.join(map(str, near))}")


def check_window(window: str) -> None:
    """Raise GridError unless `window` is one of `WINDOWS`."""
    if window not in WINDOWS:
        raise GridError(f"window {window!r}", remedy=f"use one of {', '.join(WINDOWS)}")


def _started(indices: range, low: int, start: Callable[[int], int]) -> range:
    """The indices whose cell starts at or after `low`; only the first of a span can start before."""
    if indices and start(indices.start) < low:
        return indices[1:]
    return indices
