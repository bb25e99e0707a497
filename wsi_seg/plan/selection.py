"""Which tiles are analysed and which are predicted for them; owns D9: skipping never changes an analysed label.

Takes a placed tissue mask and regions; decides per cell. Knows no pixel of the slide.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_seg.plan.grid import TileGrid
from wsi_seg.plan.roi import CanvasRoi
from wsi_seg.plan.tissue import TissueMask


@dataclass(frozen=True, slots=True)
class TileSelection:
    """Two flags per tile of a grid, kept as packed bits so that a selection compares, hashes and travels cheaply."""

    shape: tuple[int, int]
    """(rows, columns) of the grid."""
    analysed_bits: bytes
    """`np.packbits` of `analysed`."""
    predicted_bits: bytes
    """`np.packbits` of `predicted`."""

    @classmethod
    def of(cls, analysed: NDArray[np.bool_], predicted: NDArray[np.bool_]) -> TileSelection:
        """From two flags, bool (rows, columns)."""
        rows, columns = analysed.shape
        return cls((rows, columns), np.packbits(analysed).tobytes(), np.packbits(predicted).tobytes())

    @property
    def analysed(self) -> NDArray[np.bool_]:
        """Bool (rows, columns): tiles whose cell gets labels."""
        return self._unpack(self.analysed_bits)

    @property
    def predicted(self) -> NDArray[np.bool_]:
        """Bool (rows, columns): tiles that the model sees, those whose weight reaches into an analysed cell."""
        return self._unpack(self.predicted_bits)

    @property
    def n_analysed(self) -> int:
        """Number of analysed tiles."""
        return int(np.count_nonzero(self.analysed))

    @property
    def n_predicted(self) -> int:
        """Number of predicted tiles."""
        return int(np.count_nonzero(self.predicted))

    @property
    def sha256(self) -> str:
        """Hash of shape and flags."""
        return sha256(f"{self.shape}".encode() + self.analysed_bits + self.predicted_bits).hexdigest()

    def to_mapping(self) -> dict[str, Any]:
        """Plain values for JSON; the flags as hexadecimal packed bits."""
        return {
            "shape": list(self.shape),
            "n_analysed": self.n_analysed,
            "n_predicted": self.n_predicted,
            "analysed": self.analysed_bits.hex(),
            "predicted": self.predicted_bits.hex(),
        }

    def _unpack(self, bits: bytes) -> NDArray[np.bool_]:
        n = self.shape[0] * self.shape[1]
        return np.unpackbits(np.frombuffer(bits, np.uint8), count=n).astype(np.bool_).reshape(self.shape)


@dataclass(frozen=True, slots=True)
class Cells:
    """What gets labels: the analysed cells of the tiles that the halo asks for, however large the tiles become."""

    grid: TileGrid
    """The tiles whose cells they are."""
    selection: TileSelection
    """Which of them are analysed."""

    @property
    def analysed(self) -> NDArray[np.bool_]:
        """Bool (rows, columns) of `grid`."""
        return self.selection.analysed

    @property
    def share(self) -> float:
        """Part of the canvas' area in analysed cells, 0 … 1; cells at the edges are smaller than the others."""
        heights, widths = np.diff(self.grid.edges(0)), np.diff(self.grid.edges(1))
        height, width = self.grid.canvas
        return float(heights @ self.analysed @ widths) / (height * width)


def select_larger(grid: TileGrid, cells: Cells) -> TileSelection:
    """The tiles of a grid that does not blend in whose cell an analysed cell begins, ends or lies.

    So larger tiles do not change what is analysed.
    """
    spans = []
    for axis in (0, 1):
        own, theirs = np.array(grid.edges(axis)), np.array(cells.grid.edges(axis))
        spans.append((np.searchsorted(theirs, own[:-1], "right") - 1, np.searchsorted(theirs, own[1:], "left")))
    sums = np.pad(cells.analysed.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
    (y0, y1), (x0, x1) = spans
    met = sums[np.ix_(y1, x1)] - sums[np.ix_(y0, x1)] - sums[np.ix_(y1, x0)] + sums[np.ix_(y0, x0)] > 0
    return TileSelection.of(met, met)


def select_tiles(grid: TileGrid, tissue: TissueMask | None, roi: CanvasRoi | None) -> TileSelection:
    """Tiles to analyse and tiles to predict.

    A tile is analysed when its cell, widened by one mask px, holds tissue, and its cell meets a region. It is predicted
    when its weight reaches into an analysed cell; with `crop` no other tile's does.

    Args:
        grid: the tiles.
        tissue: where tissue is; None: everywhere.
        roi: regions; None: everywhere.
    """
    analysed = np.ones(grid.shape, np.bool_) if tissue is None else _cells_with_tissue(grid, tissue)
    if roi is not None:
        analysed &= _cells_met(grid, roi, analysed)
    return TileSelection.of(analysed, _with_neighbours(analysed) if grid.blends else analysed)


def _cells_with_tissue(grid: TileGrid, tissue: TissueMask) -> NDArray[np.bool_]:
    """Any tissue px per widened cell, from a table of sums: its cost does not depend on the mask px per cell."""
    sums = tissue.sums
    y0, y1 = _mask_spans(grid, tissue, 0)
    x0, x1 = _mask_spans(grid, tissue, 1)
    count = sums[np.ix_(y1, x1)] - sums[np.ix_(y0, x1)] - sums[np.ix_(y1, x0)] + sums[np.ix_(y0, x0)]
    return count > 0


def _mask_spans(grid: TileGrid, tissue: TissueMask, axis: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Per cell along an axis, [start, end) in mask px, one px wider on both sides, inside the mask."""
    edges = (np.array(grid.edges(axis), np.float64) - tissue.origin[axis]) / tissue.step[axis]
    size = tissue.mask.shape[axis]
    start = np.clip(np.floor(edges[:-1]) - 1, 0, size)
    end = np.clip(np.ceil(edges[1:]) + 1, 0, size)
    return start.astype(np.intp), end.astype(np.intp)


def _cells_met(grid: TileGrid, roi: CanvasRoi, candidates: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Candidate cells that meet a region."""
    rows, columns = np.nonzero(candidates)
    y, x = np.array(grid.edges(0), np.float64), np.array(grid.edges(1), np.float64)
    met = np.zeros(candidates.shape, np.bool_)
    met[rows, columns] = roi.meets(np.stack([y[rows], x[columns], y[rows + 1], x[columns + 1]], axis=1))
    return met


def _with_neighbours(flags: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Flags widened by one tile in all eight directions: an overlap of at most half a tile reaches no further."""
    padded = np.pad(flags, 1)
    rows = padded[:-2] | padded[1:-1] | padded[2:]
    return rows[:, :-2] | rows[:, 1:-1] | rows[:, 2:]
