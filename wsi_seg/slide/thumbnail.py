"""Reduces a slide to a small picture by area averages; owns which level and which blocks are read, knows no format.

The averages are the kernel's, on a global phase: the picture, from which the tissue mask and with it the plan is made,
does not depend on the blocks in which it is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from wsi_seg.errors import UsageError
from wsi_seg.geometry import Box, Level

_BLOCK_SIDE = 4096
"""Side of what is read at once, px of the level, where the file's own tiles are no wider."""
_MAX_FACTOR = 128
"""Largest reduction in one step; beyond, a larger picture is reduced again."""

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

    Every pixel is the area average, rounded to nearest, over its part of the coarsest stored level that is at least as
    large: what is taken for tissue does not depend on how tiles are decoded.
    Raises UsageError for a side below 1 and whatever `read_region` raises.
    """
    if longest_side < 1:
        raise UsageError(f"thumbnail of {longest_side} px", rule="the longest side is at least 1 px")
    target = thumbnail_size(levels[0].size, longest_side)
    index = max(i for i, level in enumerate(levels) if i == 0 or (level.reduction == 1 and _covers(level.size, target)))
    picture = _reduced(levels[index], lambda box: read_region(box, index), _within_reach(levels[index].size, target))
    while picture.shape[:2] != target:
        stored, larger = Level((picture.shape[0], picture.shape[1]), (1.0, 1.0)), picture
        picture = _reduced(stored, lambda box: larger[box.slices()], _within_reach(stored.size, target))  # noqa: B023
    return picture


def _covers(size: tuple[int, int], target: tuple[int, int]) -> bool:
    return size[0] >= target[0] and size[1] >= target[1]


def _within_reach(size: tuple[int, int], target: tuple[int, int]) -> tuple[int, int]:
    """The target, or the smallest size to which one step reduces."""
    height, width = (max(goal, -(-side // _MAX_FACTOR)) for side, goal in zip(size, target, strict=True))
    return height, width


def _reduced(level: Level, read: Callable[[Box], NDArray[np.uint8]], target: tuple[int, int]) -> NDArray[np.uint8]:
    """A level reduced to `target` (height, width), block by block."""
    from wsi_kernels import area_resample, area_source_box

    factor = level.size[0] / target[0], level.size[1] / target[1]
    picture = np.empty((*target, 3), np.uint8)
    for block in _blocks(target, factor, level.tile or (1, 1)):
        out_box = (block.y0, block.x0, block.y1, block.x1)
        # The last footprint ends on the level's edge but for rounding.
        source = Box(*area_source_box(out_box, factor))
        picture[block.slices()] = area_resample(read(source), (source.y0, source.x0), factor, out_box)
    return picture


def _blocks(target: tuple[int, int], factor: tuple[float, float], tile: tuple[int, int]) -> Iterator[Box]:
    """Boxes of the thumbnail, each made from a block of the level of bounded size; wide strips are read whole."""
    width = max(_BLOCK_SIDE, tile[1])
    height = max(_BLOCK_SIDE * _BLOCK_SIDE // width, tile[0])
    step_y, step_x = max(1, int(height / factor[0])), max(1, int(width / factor[1]))
    for y in range(0, target[0], step_y):
        for x in range(0, target[1], step_x):
            yield Box.at(y, x, step_y, step_x).intersect(Box(0, 0, *target))
