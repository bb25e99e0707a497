"""A reference on the grid of its prediction: nearest pixel, whatever the two resolutions and places are.

Owns the arithmetic between the two frames. Where both maps know their place in the slide, that decides; a reference
that does not covers the whole slide, as in training, or the same field of view as a prediction that knows no slide.
Annotations are in level-0 px of the slide.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from wsi_seg.annotation.protocol import Annotation
from wsi_seg.annotation.raster import covering_ratio
from wsi_seg.errors import EvaluationError
from wsi_seg.evaluate.label_map import Frame, LabelMap, Values
from wsi_seg.geometry import Box, Mpp

MAX_READ_PX = 1 << 25
"""Largest box read from a reference that is finer than the prediction; more is read in parts."""
_SAME_SCALE = 0.05
"""Resolutions that differ by less are the same: vendors round them."""


class Aligned(Protocol):
    """A reference in px of the prediction."""

    def read(self, box: Box) -> tuple[Values, NDArray[np.bool_] | None]:
        """Values of a box of the prediction, (h, w), and where the reference ends (True outside), None for nowhere."""


class AlignedMap:
    """A label map on the prediction's grid: px y is read from row floor((y + 0.5) * scale + shift)."""

    def __init__(self, reference: LabelMap, scale: tuple[float, float], shift: tuple[float, float]) -> None:
        self._map, self._scale, self._shift = reference, scale, shift

    def read(self, box: Box) -> tuple[Values, NDArray[np.bool_] | None]:
        """See `Aligned`."""
        rows, columns = self._indices(0, box.y0, box.y1), self._indices(1, box.x0, box.x1)
        height, width = self._map.size
        off_rows, off_columns = (rows < 0) | (rows >= height), (columns < 0) | (columns >= width)
        rows, columns = rows.clip(0, height - 1), columns.clip(0, width - 1)
        outside = off_rows[:, None] | off_columns if off_rows.any() or off_columns.any() else None
        return self._picked(rows, columns), outside

    def _indices(self, axis: int, start: int, stop: int) -> NDArray[np.int64]:
        centres = (np.arange(start, stop) + 0.5) * self._scale[axis] + self._shift[axis]
        # a centre that falls on a border but for rounding belongs to the px after it
        indices: NDArray[np.int64] = np.floor(centres + 1e-6).astype(np.int64)
        return indices

    def _picked(self, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> Values:
        hull = Box(int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1)
        if hull.height * hull.width > MAX_READ_PX and max(len(rows), len(columns)) > 1:
            axis = 0 if len(rows) >= len(columns) else 1
            first, second = np.array_split(rows if axis == 0 else columns, 2)
            parts = [self._picked(p, columns) if axis == 0 else self._picked(rows, p) for p in (first, second)]
            return np.concatenate(parts, axis=axis)
        return self._map.read(hull)[np.ix_(rows - hull.y0, columns - hull.x0)]


class AlignedAnnotation:
    """Polygons on the prediction's grid, as class indices."""

    def __init__(self, annotation: Annotation, predicted: LabelMap) -> None:
        self._annotation = annotation
        frame = predicted.frame
        self._downsample = frame.downsample if frame else (1.0, 1.0)
        self._corner = frame.offset if frame else (0.0, 0.0)

    def read(self, box: Box) -> tuple[Values, NDArray[np.bool_] | None]:
        """See `Aligned`."""
        labels: Values = self._annotation.read_labels(box, self._downsample, self._corner)
        return labels, None


def align(predicted: LabelMap, reference: LabelMap, name: str) -> AlignedMap:
    """The reference on the prediction's grid; `name` is the slide's, for errors. Raises EvaluationError."""
    here, there = predicted.frame, reference.frame
    if here is not None and there is None and (per_px := covering_ratio(reference.size, here.l0_size)):
        stated = reference.mpp
        l0_mpp = Mpp(stated.y / per_px[0], stated.x / per_px[1]) if stated else here.l0_mpp
        there = Frame(l0_mpp, (0.0, 0.0), per_px, here.l0_size, here.l0_bounds)
    if here is None or there is None:
        return AlignedMap(reference, _scale_of_sizes(predicted, reference, name), (0.0, 0.0))
    for a, b in ((here.l0_mpp.y, there.l0_mpp.y), (here.l0_mpp.x, there.l0_mpp.x)):
        if abs(a / b - 1) > _SAME_SCALE:
            raise EvaluationError(
                f"{name}: the prediction is of a slide of {a:.4g} um/px, the reference of one of {b:.4g}",
                rule="both belong to the same slide",
            )
    scale = here.downsample[0] / there.downsample[0], here.downsample[1] / there.downsample[1]
    shift = tuple((a - b) / d for a, b, d in zip(here.offset, there.offset, there.downsample, strict=True))
    return AlignedMap(reference, scale, (shift[0], shift[1]))


def _scale_of_sizes(predicted: LabelMap, reference: LabelMap, name: str) -> tuple[float, float]:
    """Reference px per predicted px (y, x), the same field of view taken for granted and checked where it can be."""
    (height, width), (ref_height, ref_width) = predicted.size, reference.size
    scale = ref_height / height, ref_width / width
    sizes = f"{name}: prediction {width} x {height} px, reference {ref_width} x {ref_height} px"
    if abs(ref_height - height * scale[1]) > 1 + scale[1] and abs(ref_width - width * scale[0]) > 1 + scale[0]:
        raise EvaluationError(
            sizes,
            rule="a reference that does not state its place in the slide covers the same field of view",
            remedy="compare masks of the same image; rotated and cropped ones do not fit",
        )
    if predicted.mpp and reference.mpp:
        stated = predicted.mpp.y / reference.mpp.y, predicted.mpp.x / reference.mpp.x
        slack = 1 + _SAME_SCALE, 2 / min(height, width, ref_height, ref_width)
        if any(max(a / b, b / a) > slack[0] + slack[1] for a, b in zip(scale, stated, strict=True)):
            raise EvaluationError(
                f"{sizes}, at {predicted.mpp.y:.4g} and {reference.mpp.y:.4g} um/px",
                rule="both cover the same field of view",
            )
    return scale
