"""Labels that are predicted where somebody looks: the engine's lazy mask as a source of the viewer.

Owns which blocks are in sight and when they are too many. Knows no HTTP.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from wsi_seg.engine.lazy_mask import LazyMask, LivePrediction, open_mask
from wsi_seg.errors import CorruptOutputError
from wsi_seg.geometry import Box
from wsi_seg.output.result_spec import ResultSpec
from wsi_seg.viewer.sources import SourceState

if TYPE_CHECKING:
    from wsi_seg.engine.options import RunOptions
    from wsi_seg.slide import Slide


class LiveLabels:
    """A mask that is predicted where somebody looks."""

    def __init__(self, mask: LazyMask, prediction: LivePrediction) -> None:
        self._mask, self._prediction = mask, prediction

    @property
    def spec(self) -> ResultSpec:
        """See `LabelSource`."""
        return self._mask.spec

    @property
    def n_levels(self) -> int:
        """See `LabelSource`."""
        return self._mask.n_levels

    def read(self, level: int, box: Box) -> NDArray[Any]:
        """What is predicted already; the rest is not analysed."""
        labels: NDArray[Any] = self._prediction.read_available(level, box)[0]
        return labels

    def read_probability(self, level: int, box: Box, channel: int) -> NDArray[np.uint8]:
        """None are kept."""
        raise CorruptOutputError(
            "a mask predicted on demand keeps no probabilities", remedy="wsi-seg run --probabilities"
        )

    def state(self) -> SourceState:
        """See `LabelSource`."""
        return SourceState(str(self._prediction.generation), finished=False)

    def look_at(self, l0_box: tuple[float, float, float, float]) -> int:
        """Predict the blocks in a box (y0, x0, y1, x1) of level-0 px, its middle first; blocks still to come.

        -1 where more blocks are in sight than are predicted on demand.
        """
        raise NotImplementedError(l0_box)


