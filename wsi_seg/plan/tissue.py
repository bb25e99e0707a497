"""Where tissue is, at low resolution: a mask and how it lies on the canvas.

Takes a thumbnail array of the whole slide; knows no slide object. The decision what is tissue is a kernel's.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from wsi_seg.errors import PlanError
from wsi_seg.plan.scale import Scale


@dataclass(frozen=True, eq=False)
class TissueMask:
    """Tissue mask, bool (h, w), of the whole slide, placed on the canvas."""

    mask: NDArray[np.bool_]
    """True where there is tissue."""
    origin: tuple[float, float]
    """Canvas px (y, x) of the mask's upper left corner; negative where the scanned bounds start inside the slide."""
    step: tuple[float, float]
    """Canvas px per mask px, (y, x)."""

    @cached_property
    def sums(self) -> NDArray[np.int64]:
        """Tissue px above and left of every corner of a mask px, int64 (h + 1, w + 1)."""
        sums = np.zeros((self.mask.shape[0] + 1, self.mask.shape[1] + 1), np.int64)
        sums[1:, 1:] = self.mask.cumsum(0, dtype=np.int64).cumsum(1)
        return sums

    @property
    def n_canvas_px(self) -> float:
        """Area of the tissue in canvas px."""
        return float(np.count_nonzero(self.mask)) * self.step[0] * self.step[1]


def place_mask(mask: NDArray[np.bool_], scale: Scale, l0_size: tuple[int, int]) -> TissueMask:
    """A mask bool (h, w) that covers the whole of level 0, `l0_size` (height, width), placed on the canvas.

    Raises:
        PlanError: the mask is empty or not two-dimensional.
    """
    if mask.ndim != 2 or mask.size == 0:
        raise PlanError(f"tissue mask of shape {mask.shape}", rule="(h, w) with at least one px")
    corners = scale.canvas_points(np.array([(0.0, 0.0), l0_size]))
    step = (corners[1] - corners[0]) / np.array(mask.shape)
    return TissueMask(mask, (float(corners[0, 0]), float(corners[0, 1])), (float(step[0]), float(step[1])))


def tissue_from_thumbnail(thumbnail: NDArray[np.uint8], scale: Scale, l0_size: tuple[int, int]) -> TissueMask:
    """Tissue on a thumbnail of the whole slide, uint8 (h, w, 3) RGB, placed on the canvas.

    Raises:
        PlanError: the thumbnail is not an RGB array.
    """
    from wsi_kernels import tissue_mask

    if thumbnail.ndim != 3 or thumbnail.shape[2] != 3 or thumbnail.dtype != np.uint8 or thumbnail.size == 0:
        raise PlanError(f"thumbnail of shape {thumbnail.shape}, {thumbnail.dtype}", rule="(h, w, 3) uint8 RGB")
    return place_mask(tissue_mask(np.ascontiguousarray(thumbnail)), scale, l0_size)
