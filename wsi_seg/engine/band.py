"""Where the tiles of a block become labels: summed in a rolling canvas, or laid side by side where they do not blend.

Owns which rows are complete (DESIGN D4); the sums may lie on the host or on a device. Knows no slide, no model and no
file.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from wsi_kernels import label_probabilities

from wsi_seg.engine.sums import Blend, HostBlend, Sums, Weights
from wsi_seg.geometry import Box

_HOST = HostBlend()


@dataclass(frozen=True, slots=True, eq=False)
class Surface:
    """What a block's sums are turned into, piece by piece."""

    box: Box
    """The block with its margins, canvas px."""
    labels: NDArray[Any]
    """(h, w) of the box, uint8 or uint16."""
    probabilities: NDArray[np.uint8] | None = None
    """(C, h, w) of `stored`, where they are wanted."""
    threshold: float = 0.5
    """For a single channel: class 1 from here."""
    stored: Box | None = None
    """The block, where the box has margins; None: all of the box."""
    blended: NDArray[np.uint16] | None = None
    """(C, h, w) of the box, where post-processing wants probabilities: 0 … 65535, rounded down."""

    @property
    def wants_labels_only(self) -> bool:
        """Whether no probabilities are asked for."""
        return self.probabilities is None and self.blended is None

    def labels_of(self, area: Box) -> NDArray[Any]:
        """The labels (h, w) of the canvas px of `area`, a view."""
        return self.labels[area.slices((self.box.y0, self.box.x0))]

    def paint(self, sums: Sums, area: Box) -> None:
        """Label the canvas px of `area`, inside the block, from their complete sums (C, h, w)."""
        y, x = area.slices((self.box.y0, self.box.x0))
        sums.label(self.threshold, self.labels_of(area))
        if self.blended is not None:
            sums.blended_uint16(self.blended[:, y, x])
        if self.probabilities is not None:
            self._store(sums, area, self.probabilities)

    def _store(self, sums: Sums, area: Box, probabilities: NDArray[np.uint8]) -> None:
        stored = self.stored or self.box
        part = area.intersect(stored)
        if not part.is_empty:
            (y, x), (to_y, to_x) = part.slices((area.y0, area.x0)), part.slices((stored.y0, stored.x0))
            sums.part(y, x).probabilities_uint8(probabilities[:, to_y, to_x])


class Band:
    """A window of `height` rows over a block's canvas that moves down as rows are finished.

    Sums are integers, so the order of additions cannot change a bit.
    """

    def __init__(self, surface: Surface, height: int, n_channels: int, blend: Blend = _HOST) -> None:
        self._surface, self._box = surface, surface.box
        self._sums = blend.zeros((n_channels, min(height, self._box.height), self._box.width))
        self._top = self._box.y0
        self._touched = self._box.y0  # first row below every addition so far

    @property
    def top(self) -> int:
        """First row that is not finished, in canvas px."""
        return self._top

    @property
    def bottom(self) -> int:
        """First row below the window."""
        return self._top + self._sums.shape[1]

    def add(self, tile: NDArray[np.uint16], weights: Weights, y: int, x: int) -> None:
        """Add a weighted, quantised tile (C, H, W) with its corner at canvas (y, x); what lies outside is dropped."""
        self._touch(y + tile.shape[1])
        self._window.add(tile, weights, y - self._top, x - self._box.x0)

    def add_prediction(self, tile: Any, weights: Weights, y: int, x: int) -> bool:
        """As `add`, for float32 probabilities; adds nothing and answers False where one of them is none."""
        self._touch(y + tile.shape[1])
        return self._window.add_prediction(tile, weights, y - self._top, x - self._box.x0)

    @property
    def _window(self) -> Sums:
        """The rows of the window that lie in the block: a value below it must not count, however high the window is."""
        return self._sums.part(slice(0, self._box.y1 - self._top), slice(None))

    def finish(self, until: int) -> None:
        """Label all rows above canvas row `until` and move the window down to it."""
        while self._top < min(until, self._box.y1):
            self._finish_rows(min(until, self._box.y1, self.bottom) - self._top)

    def _touch(self, bottom: int) -> None:
        self._touched = max(self._touched, min(bottom, self.bottom))

    def _finish_rows(self, n: int) -> None:
        self._surface.paint(
            self._sums.part(slice(0, n), slice(None)), Box.at(self._top, self._box.x0, n, self._box.width)
        )
        self._sums.move_up(n, max(self._touched - self._top, n))
        self._top += n


class Mosaic:
    """As `Band`, for tiles that do not blend: each pixel has one tile, so it is labelled as soon as that is there.

    Where labels are all that is wanted, no sums are made at all. The same arithmetic, so the same bits.
    """

    def __init__(self, surface: Surface, tile: int, n_channels: int, blend: Blend = _HOST) -> None:
        self._surface, self._box, self._blend = surface, surface.box, blend
        self._shape = (n_channels, tile, tile)
        self.top = self._box.y0
        """First row that is not finished, in canvas px."""

    def add(self, tile: NDArray[np.uint16], weights: Weights, y: int, x: int) -> None:
        """See `Band.add`."""
        area = self._area(weights, y, x)
        if not area.is_empty:
            sums = self._cleared(area)
            sums.add(tile, weights, y - area.y0, x - area.x0)
            self._surface.paint(sums, area)

    def add_prediction(self, tile: Any, weights: Weights, y: int, x: int) -> bool:
        """See `Band.add_prediction`."""
        area = self._area(weights, y, x)
        if area.is_empty:
            return True
        if self._surface.wants_labels_only and isinstance(tile, np.ndarray):
            owned: NDArray[np.float32] = tile[:, *area.slices((y, x))]
            return label_probabilities(owned, self._surface.threshold, self._surface.labels_of(area))
        sums = self._cleared(area)
        if not sums.add_prediction(tile, weights, y - area.y0, x - area.x0):
            return False
        self._surface.paint(sums, area)
        return True

    def finish(self, until: int) -> None:
        """See `Band.finish`."""
        self.top = max(self.top, min(until, self._box.y1))

    def _area(self, weights: Weights, y: int, x: int) -> Box:
        """Canvas px of the block that a tile at (y, x) owns."""
        rows, columns = (np.flatnonzero(axis) for axis in weights)
        if not rows.size or not columns.size:
            return Box(0, 0, 0, 0)
        owned = Box(int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1).shift(y, x)
        return owned.intersect(self._box)

    @cached_property
    def _sums(self) -> Sums:
        """Memory that only tiles with weights, and those whose probabilities are stored, ask for."""
        return self._blend.zeros(self._shape)

    def _cleared(self, area: Box) -> Sums:
        sums = self._sums.part(slice(0, area.height), slice(0, area.width))
        sums.clear()
        return sums
