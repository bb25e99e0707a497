"""Labels that are predicted where somebody looks: the engine's lazy mask as a source of the viewer.

Owns which blocks are in sight and when they are too many. Knows no HTTP.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from wsi_seg.engine.lazy_mask import LazyMask, open_mask
from wsi_seg.engine.live_prediction import LivePrediction
from wsi_seg.errors import CorruptOutputError
from wsi_seg.geometry import Box
from wsi_seg.output.result_spec import ResultSpec
from wsi_seg.viewer.sources import SourceState

if TYPE_CHECKING:
    from wsi_seg.engine.options import RunOptions
    from wsi_seg.slide import Slide

MAX_IN_SIGHT = 64
"""Blocks in sight up to which they are predicted: a whole slide is the work of a run."""


def open_live(slide: Slide, options: RunOptions) -> LiveLabels:
    """Load the model and measure it on the slide; nothing is predicted yet. Raises as a run's preparation does."""
    mask = open_mask(slide, options)
    return LiveLabels(mask, LivePrediction(mask))


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

    @property
    def run(self) -> str:
        """See `LabelSource`."""
        return "live"

    def read(self, level: int, box: Box) -> NDArray[Any]:
        """What is predicted already; the rest is not analysed."""
        return self._mask.read_available(level, box)[0]

    def read_probability(self, _level: int, _box: Box, _channel: int, /) -> NDArray[np.uint8]:
        """None are kept."""
        raise CorruptOutputError("a lazy mask keeps no probabilities", remedy="wsi-seg run --probabilities")

    def state(self) -> SourceState:
        """See `LabelSource`."""
        return SourceState(f"{self.run}-{self._prediction.generation}", finished=False)

    def predict_in(self, l0_box: tuple[float, float, float, float], viewer: str) -> int:
        """Predict the blocks in a box (y0, x0, y1, x1) of level-0 px, those near its middle first.

        What `viewer`, a page, asked for before and is out of sight is dropped. Answers the blocks still to come; -1,
        and nothing is begun, where more than `MAX_IN_SIGHT` are in sight.
        """
        spec = self.spec
        scale_y, scale_x = spec.l0_mpp.y / spec.mpp.y, spec.l0_mpp.x / spec.mpp.x
        y0, x0, y1, x1 = (edge - spec.l0_offset[axis % 2] for axis, edge in enumerate(l0_box))
        box = Box(int(y0 * scale_y), int(x0 * scale_x), int(y1 * scale_y) + 1, int(x1 * scale_x) + 1)
        inside = box.intersect(Box(0, 0, *spec.layout.size))
        if inside.is_empty:
            return 0
        failed = self._prediction.failed
        missing = [block for block in self._mask.missing(0, inside) if block not in failed]
        if len(missing) > MAX_IN_SIGHT:
            self._prediction.wanted([], viewer)
            return -1
        self._prediction.wanted(missing, viewer)
        return len(missing)
