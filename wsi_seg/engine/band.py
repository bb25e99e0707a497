"""The rolling canvas of one block: predictions go in tile by tile, finished rows come out as labels.

Owns the uint32 accumulator (DESIGN D4) and which rows of it are complete. Knows no slide, no model and no file.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from wsi_kernels import accumulate, accumulate_probabilities, label_argmax, label_threshold, probabilities_uint8

from wsi_seg.geometry import Box

Weights = tuple[NDArray[np.uint32], NDArray[np.uint32]]
"""Weights 0 … 256 along y and along x."""


class Band:
    """A window of `height` rows over a block's canvas that moves down as rows are finished.

    Sums are integers, so the order of additions cannot change a bit. `labels` is (h, w) of the whole block, filled from
    the top; `probabilities` is uint8 (C, h, w) of the block, or None.
    """

    def __init__(self, box: Box, height: int, labels: NDArray[np.unsignedinteger], n_channels: int) -> None:
        self.box = box
        self.labels = labels
        self.probabilities: NDArray[np.uint8] | None = None
        self.threshold = 0.5
        self._sums = np.zeros((n_channels, min(height, box.height), box.width), np.uint32)
        self._top = box.y0
        self._touched = box.y0  # first row below every addition so far

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
        accumulate(self._sums, tile, *weights, y - self._top, x - self.box.x0)

    def add_prediction(self, tile: NDArray[np.float32], weights: Weights, y: int, x: int) -> bool:
        """As `add`, for float32 probabilities; adds nothing and answers False where one of them is none."""
        self._touch(y + tile.shape[1])
        return accumulate_probabilities(self._sums, tile, *weights, y - self._top, x - self.box.x0)

    def _touch(self, bottom: int) -> None:
        self._touched = max(self._touched, min(bottom, self.bottom))

    def finish(self, until: int) -> None:
        """Label all rows above canvas row `until` and move the window down to it."""
        while self._top < min(until, self.box.y1):
            self._finish_rows(min(until, self.box.y1, self.bottom) - self._top)

    def _finish_rows(self, n: int) -> None:
        at = self._top - self.box.y0
        done = self._sums[:, :n]
        if len(done) == 1:
            label_threshold(done, self.threshold, self.labels[at : at + n])
        else:
            label_argmax(done, self.labels[at : at + n])
        if self.probabilities is not None:
            probabilities_uint8(done, self.probabilities[:, at : at + n])
        used = max(self._touched - self._top, n)
        for plane in self._sums:
            plane[: used - n] = plane[n:used]
            plane[used - n : used] = 0
        self._top += n
