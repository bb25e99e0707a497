"""Regions of a map that comes in strips: numbered strip by strip, joined across borders, done when nothing goes on.

Owns what is kept of a region between strips: its sums, and whatever a listener adds. Memory follows the regions that
touch the border, never the map. Knows no shape and no format.

A region is done in the strip after its last row, and regions come ordered by their last row, then by their first px:
the same order for strips of any height.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_seg.convert.strips import Strip

Ids = NDArray[np.int32]


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """What a strip does to regions; numbers are those of this strip, 1 … n."""

    ids: Ids
    """Regions of the strip, (h, w), 0 for none."""
    above: NDArray[Any]
    """Labels of the row above it, (w,)."""
    above_ids: Ids
    """Regions of that row, (w,)."""
    became: Ids
    """Number here of each region that was open before, (m + 1,), 0 for 0."""
    counts: NDArray[np.int64]
    """Sums from the first row to here, (n + 1, len(Count))."""
    done: NDArray[np.intp]
    """Regions that end here, in their order."""
    still_open: NDArray[np.intp]
    """Regions that may go on; number k + 1 of the next strip's `became` is the k-th of them."""


class RegionStream:
    """Connected components of a map's classes.

    Args:
        width: of the map, px.
        wanted: per label whether its regions are wanted, (256,) or (65536,).
        diagonal: whether px that touch at a corner only are connected.
    """

    def __init__(self, width: int, wanted: NDArray[np.bool_], diagonal: bool) -> None:
        self._wanted, self._diagonal = wanted, diagonal
        dtype = np.uint8 if len(wanted) == 256 else np.uint16
        # above the map lies what nobody wants
        self._above: NDArray[Any] = np.full(width, len(wanted) - 1, dtype)
        self._above_ids = np.zeros(width, np.int32)
        self._counts = _no_counts(0)

    def add(self, strip: Strip) -> Step:
        """Take the next strip; the one that ends the map has to end with a row that is not wanted."""
        from wsi_kernels import Count, count_regions, label_regions

        above, open_ids = self._above, self._above_ids
        ids, became, n = label_regions(strip.labels, above, open_ids, self._wanted, self._diagonal)
        above_ids = became[open_ids]
        counts = count_regions(strip.labels, ids, above_ids, n, strip.y0, strip.chances)
        _add(counts, became[1:], self._counts[1:])
        last = np.zeros(n + 1, np.bool_)
        last[ids[-1]] = True
        last[0] = False
        ended = np.flatnonzero(~last[1:]) + 1
        order = np.lexsort((counts[ended, Count.FIRST], counts[ended, Count.BOTTOM]))
        still_open = np.flatnonzero(last)
        renumbered = np.zeros(n + 1, np.int32)
        renumbered[still_open] = np.arange(1, len(still_open) + 1)
        self._above, self._above_ids = strip.labels[-1].copy(), renumbered[ids[-1]]
        self._counts = np.concatenate([_no_counts(0), counts[still_open]])
        return Step(ids, above, above_ids, became, counts, ended[order], still_open)


def _no_counts(n: int) -> NDArray[np.int64]:
    from wsi_kernels import Count

    return np.zeros((n + 1, len(Count)), np.int64)


def _add(counts: NDArray[np.int64], numbers: Ids, more: NDArray[np.int64]) -> None:
    """Add the sums of earlier strips, (m, len(Count)), to those of the regions they became, (m,)."""
    from wsi_kernels import Count

    for column in (Count.N_PX, Count.SUM_Y, Count.SUM_X, Count.LEVEL_SIDES, Count.UPRIGHT_SIDES, Count.CHANCE):
        np.add.at(counts[:, column], numbers, more[:, column])
    for column in (Count.FIRST, Count.TOP, Count.LEFT):
        np.minimum.at(counts[:, column], numbers, more[:, column])
    for column in (Count.LABEL, Count.BOTTOM, Count.RIGHT):
        np.maximum.at(counts[:, column], numbers, more[:, column])
