"""Reduces a slide to a small picture by exact area averages; owns that rule, knows no format.

All sums are integers below 2^53 held in float64, so the picture does not depend on block sizes, BLAS or thread counts
(the tissue mask, and with it the plan, is made from it).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from wsi_seg.errors import UsageError
from wsi_seg.geometry import Box, Level, align_up, ceil_div

_BLOCK = 512
"""Side of what is reduced at once, px of the level, before rounding up to whole tiles."""

ReadRegion = Callable[[Box, int], NDArray[np.uint8]]


def thumbnail_size(size: tuple[int, int], longest_side: int) -> tuple[int, int]:
    """(height, width) of a thumbnail of a slide of `size`; never larger than the slide, never empty.

    >>> thumbnail_size((3000, 1000), 600), thumbnail_size((20, 10), 600), thumbnail_size((100_000, 3), 600)
    ((600, 200), (20, 10), (600, 1))
    """
    longest = max(size)
    if longest <= longest_side:
        return size
    height, width = (max(1, (2 * side * longest_side + longest) // (2 * longest)) for side in size)
    return height, width


def area_thumbnail(levels: tuple[Level, ...], read_region: ReadRegion, longest_side: int) -> NDArray[np.uint8]:
    """Thumbnail (h, w, 3) uint8 RGB of the whole slide, `longest_side` px at most.

    Every pixel is the area average, rounded to nearest, over its part of the coarsest level that is at least as large.
    Raises UsageError for a side below 1 and whatever `read_region` raises.
    """
    if longest_side < 1:
        raise UsageError(f"thumbnail of {longest_side} px", rule="the longest side is at least 1 px")
    target = thumbnail_size(levels[0].size, longest_side)
    index = max(i for i, level in enumerate(levels) if i == 0 or _covers(level.size, target))
    level = levels[index]
    sums = np.zeros((*target, 3))
    for box in _blocks(level):
        (rows, by_row), (columns, by_column) = (
            area_weights(box.y0, box.y1, level.size[0], target[0]),
            area_weights(box.x0, box.x1, level.size[1], target[1]),
        )
        pixels = read_region(box, index).astype(np.float64)
        reduced = np.tensordot(by_row, pixels, axes=(1, 0))  # (rows, width, 3)
        sums[rows, columns] += np.einsum("cx,rxk->rck", by_column, reduced, optimize=True)
    area = level.size[0] * level.size[1]
    return ((2 * sums.astype(np.int64) + area) // (2 * area)).astype(np.uint8)


def area_weights(start: int, end: int, size: int, target: int) -> tuple[slice, NDArray[np.float64]]:
    """How px [start, end) of an axis of `size` px spread over an axis of `target` <= `size` px.

    Returns the slice of target px they touch and their weights (target px, px), whole numbers of 1 / `target` px;
    over the whole axis every target px gets `size`.

    >>> where, weights = area_weights(0, 3, 3, 2)
    >>> where, weights.tolist()
    (slice(0, 2, None), [[2.0, 1.0, 0.0], [0.0, 1.0, 2.0]])
    """
    first, last = start * target // size, ceil_div(end * target, size)
    source = np.arange(start, end)
    reduced = np.arange(first, last)[:, None]
    upper = np.minimum((source + 1) * target, (reduced + 1) * size)
    overlap = upper - np.maximum(source * target, reduced * size)
    return slice(first, last), np.maximum(overlap, 0).astype(np.float64)


def _covers(size: tuple[int, int], target: tuple[int, int]) -> bool:
    return size[0] >= target[0] and size[1] >= target[1]


def _blocks(level: Level) -> Iterator[Box]:
    """Boxes of whole tiles that cover the level."""
    step_y, step_x = (align_up(_BLOCK, side) for side in level.tile or (1, 1))
    whole = Box(0, 0, *level.size)
    for y in range(0, level.size[0], step_y):
        for x in range(0, level.size[1], step_x):
            yield Box.at(y, x, step_y, step_x).intersect(whole)
