"""A thumbnail of a slide of which some parts cannot be read; so that one damaged tile does not end a run.

Owns how the damage is cut out and what stands in for it. Knows no format and no model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from wsi_seg.errors import RegionReadError
from wsi_seg.geometry import Box, align_up

if TYPE_CHECKING:
    from wsi_seg.slide import Slide

STAND_IN = (170, 60, 150)
"""RGB in place of what cannot be read: taken for tissue, so that the tiles there are tried and reported."""
SMALLEST = 256
"""Side, in px of a level, from which an unreadable box without tiles of its own is no longer divided."""


def readable_thumbnail(slide: Slide, longest_side: int) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    """`slide.thumbnail`, and a note where parts of it could not be read and `STAND_IN` fills them.

    Raises RegionReadError where nothing could be read.
    """
    from wsi_seg.slide.thumbnail import area_thumbnail

    try:
        return slide.thumbnail(longest_side), ()
    except RegionReadError:
        reader = _TolerantReader(slide)
        thumbnail = area_thumbnail(slide.levels, reader.read, longest_side)
        if not reader.n_read:
            raise
        if reader.first_lost is None:
            return thumbnail, ()
        one = reader.n_lost == 1
        parts = "1 part of the slide cannot be read and is" if one else f"{reader.n_lost} parts cannot be read and are"
        note = f"{parts} not analysed, the first: {without_folder(reader.first_lost.what, slide)}"
        return thumbnail, (note,)


def without_folder(text: str, slide: Slide) -> str:
    """A text for a result, which is passed on: it says the name of the slide's file, not in which folders it lay."""
    return text if slide.path is None else text.replace(str(slide.path), slide.path.name)


class _TolerantReader:
    """Reads boxes of a slide, dividing what fails until only the damage is left out."""

    def __init__(self, slide: Slide) -> None:
        self._slide = slide
        self.n_read = self.n_lost = 0
        self.first_lost: RegionReadError | None = None

    def read(self, box: Box, level: int) -> NDArray[np.uint8]:
        """As `Slide.read_region`, but never fails."""
        out = np.empty((*box.size, 3), np.uint8)
        self._fill(box, level, out)
        return out

    def _fill(self, box: Box, level: int, out: NDArray[np.uint8]) -> None:
        try:
            self._slide.read_region(box, level, out)
            self.n_read += 1
        except RegionReadError as error:
            halves = _halves(box, self._slide.levels[level].tile or (SMALLEST, SMALLEST))
            for half in halves:
                self._fill(half, level, out[half.slices((box.y0, box.x0))])
            if not halves:
                out[:] = STAND_IN
                self.n_lost += 1
                self.first_lost = self.first_lost or error


def _halves(box: Box, tile: tuple[int, int]) -> tuple[Box, ...]:
    """The box cut in two between tiles, across the axis with more of them; empty where it lies in one tile."""
    y, x = (_middle(*ends, side) for ends, side in zip(((box.y0, box.y1), (box.x0, box.x1)), tile, strict=True))
    tall = box.height * tile[1] >= box.width * tile[0]
    if y is not None and (tall or x is None):
        return Box(box.y0, box.x0, y, box.x1), Box(y, box.x0, box.y1, box.x1)
    if x is not None:
        return Box(box.y0, box.x0, box.y1, x), Box(box.y0, x, box.y1, box.x1)
    return ()


def _middle(start: int, end: int, side: int) -> int | None:
    """A multiple of `side` strictly between start and end, near their middle; None where there is none."""
    first, last = align_up(start + 1, side), (end - 1) // side * side
    if first > last:
        return None
    return min(max(align_up((start + end) // 2, side), first), last)
