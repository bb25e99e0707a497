"""A predictor whose answer is a formula: no runtime, and anything about it can be wrong on purpose."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from wsi_seg.card import ModelCard, named_classes
from wsi_seg.errors import PredictorError
from wsi_seg.infer import RuntimeFacts
from wsi_seg.infer.predictor import FixedInput, check_batch

Formula = Callable[[NDArray[np.uint8]], NDArray[np.float32]]

FACTS = RuntimeFacts("formula", "1", "CPU", "fp32")
CARD = ModelCard("analytic", 0.5, named_classes(["a", "b", "c"]), 64, halo=1)


def per_pixel(batch: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Red, green and blue / 255: turns and flips change nothing."""
    return np.ascontiguousarray(batch.transpose(0, 3, 1, 2)).astype(np.float32) / np.float32(255)


def lopsided(batch: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The pixel to the left, the pixel above, and the pixel itself: one channel each. Halo 1."""
    values = per_pixel(batch)
    values[:, 0, :, 1:] = values[:, 0, :, :-1].copy()
    values[:, 1, 1:] = values[:, 1, :-1].copy()
    return values


class AnalyticPredictor:
    """A `Predictor` over a formula on (N, H, W, 3) uint8."""

    def __init__(
        self,
        formula: Formula = per_pixel,
        card: ModelCard = CARD,
        fixed_input: FixedInput = (None, None, None),
        facts: RuntimeFacts = FACTS,
        n_channels: int = 3,
    ) -> None:
        self._formula, self.card, self.fixed_input, self.facts = formula, card, fixed_input, facts
        self.n_channels = n_channels
        self.shapes: list[tuple[int, ...]] = []
        self.closed = 0

    def predict(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        if self.closed:
            raise PredictorError("closed")
        check_batch(batch, self.card, self.fixed_input)
        self.shapes.append(batch.shape)
        return self._formula(batch)[:, : self.n_channels]

    def close(self) -> None:
        self.closed += 1
