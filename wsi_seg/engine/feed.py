"""Canvas pixels for one block, read from top to bottom so that the file's own tiles are decoded once.

Owns the reading order and the rolling buffer of decoded rows. Knows no model and no block: a feed is given columns and
is asked for rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from wsi_seg.geometry import Box, align_up
from wsi_seg.slide.canvas import Rgb, canvas_pixels, read_level

if TYPE_CHECKING:
    from wsi_seg.engine.stages import StageClock
    from wsi_seg.plan import Scale
    from wsi_seg.slide import Slide


class RowFeed:
    """Rows of the canvas between two columns, for ascending requests.

    Keeps the level rows that the next request may share with the last one, and reads down to the next row of the file's
    own tiles, so that overlapping tile rows cost one decode. Not for several threads.
    """

    def __init__(self, slide: Slide, scale: Scale, columns: tuple[int, int], fill: Rgb, clock: StageClock) -> None:
        self._slide, self._scale, self._fill, self._clock = slide, scale, fill, clock
        self._columns = columns
        self._row_step = _row_step(slide, scale.level)
        self._bottom = slide.levels[scale.level].size[0]
        self._buffer = np.empty((0, 0, 3), np.uint8)
        self._held = Box(0, 0, 0, 0)  # what the buffer's first rows hold, in level px

    @property
    def left(self) -> int:
        """First canvas column that `rows` delivers."""
        return self._columns[0]

    @property
    def right(self) -> int:
        """First canvas column beyond those that `rows` delivers."""
        return self._columns[1]

    def rows(self, y0: int, y1: int) -> NDArray[np.uint8]:
        """Canvas rows [y0, y1) as uint8 RGB (y1 - y0, width, 3), a view that the next call overwrites.

        Rows and columns may leave the slide; `fill` stands there. Raises RegionReadError.
        """
        wanted = Box(y0, self._columns[0], y1, self._columns[1])
        area = self._scale.level_box(wanted)
        with self._clock.stage("decode"):
            self._hold(area)
        with self._clock.stage("resample"):
            return canvas_pixels(self._scale, self._buffer[: area.height], area, wanted)

    def _hold(self, area: Box) -> None:
        """Make the buffer begin with the level rows of `area`."""
        kept = self._keep(area)
        top = area.y0 + kept
        if area.y1 > top:
            # Past the slide's last row there is nothing to align to.
            end = max(area.y1, min(align_up(area.y1, self._row_step), self._bottom))
            self._reserve(end - area.y0, area.width)
            read_level(
                self._slide,
                self._scale.level,
                Box(top, area.x0, end, area.x1),
                self._fill,
                self._buffer[kept : end - area.y0],
            )
            self._held = Box(area.y0, area.x0, end, area.x1)

    def _keep(self, area: Box) -> int:
        """Move the rows that `area` shares with the buffer to its top; answer how many there are."""
        held = self._held
        kept = held.y1 - area.y0 if held.y0 <= area.y0 < held.y1 else 0
        if kept and area.y0 > held.y0:
            shift = area.y0 - held.y0
            self._buffer[:kept] = self._buffer[shift : shift + kept]
        self._held = Box(area.y0, area.x0, area.y0 + kept, area.x1)
        return kept

    def _reserve(self, n_rows: int, width: int) -> None:
        """Room for `n_rows`; what the buffer holds stays."""
        if self._buffer.shape[0] < n_rows or self._buffer.shape[1] != width:
            kept = self._held.height
            larger = np.empty((n_rows + self._row_step, width, 3), np.uint8)
            if kept:
                larger[:kept] = self._buffer[:kept]
            self._buffer = larger


def _row_step(slide: Slide, level: int) -> int:
    tile = slide.levels[level].tile
    return tile[0] if tile is not None and tile[0] <= 1024 else 1
