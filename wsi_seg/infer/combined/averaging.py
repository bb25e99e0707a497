"""The weighted mean of several predictions of the same tiles; owns how it is summed.

Summed in float64 and rounded once, so that the order of equal shares moves no bit in practice and the mean of equal
predictions is that prediction. What is no probability in one of them is NaN in the mean, and never averaged away.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wsi_seg.infer.predictor import RANGE_TOLERANCE


class Mean:
    """Adds up predictions of one shape (N, C, H, W)."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._sum = np.zeros(shape)
        self._shares = 0.0

    def add(self, prediction: NDArray[np.float32], share: float) -> None:
        """Count a prediction, any strides, with weight `share` > 0."""
        low, high = float(prediction.min()), float(prediction.max())
        if not (low >= -RANGE_TOLERANCE and high <= 1 + RANGE_TOLERANCE):  # true for NaN as well
            sound = (prediction >= -RANGE_TOLERANCE) & (prediction <= 1 + RANGE_TOLERANCE)
            prediction = np.where(sound, prediction, np.float32(np.nan))
        self._sum += prediction if share == 1 else prediction * np.float64(share)
        self._shares += share

    def result(self) -> NDArray[np.float32]:
        """The mean, float32, C-contiguous, the caller's own."""
        if self._shares != 1:
            self._sum /= self._shares
        mean: NDArray[np.float32] = self._sum.astype(np.float32)
        return mean
