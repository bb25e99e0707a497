"""Labels drawn from polygons; owns which polygon wins and where a pixel's centre is, knows no file format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsi_seg.annotation.protocol import IGNORE
from wsi_seg.geometry import Box


@dataclass(frozen=True, slots=True, eq=False)
class LabelledPolygon:
    """A polygon and the label of what it encloses."""

    label: int
    rings: tuple[NDArray[np.float64], ...]
    """Outer ring, then holes; float64 (n, 2) as (y, x) in level-0 px: inside by the even-odd rule."""


class PolygonAnnotation:
    """Polygons in the order they are painted: later ones cover earlier ones, holes show what is below.

    Holds the coordinates; draws what is asked for. Threads may share it.
    """

    def __init__(self, polygons: Sequence[LabelledPolygon], unannotated: int = IGNORE) -> None:
        self._polygons, self._unannotated = tuple(polygons), unannotated
        corners = [(*p.rings[0].min(axis=0), *p.rings[0].max(axis=0)) for p in self._polygons]
        self._corners = np.ascontiguousarray(np.array(corners, np.float64).reshape(-1, 4).T)

    def read_labels(
        self, box: Box, downsample: tuple[float, float], l0_origin: tuple[float, float] = (0.0, 0.0)
    ) -> NDArray[np.uint8]:
        """Labels of a box, as `Annotation` says."""
        from wsi_kernels import fill_polygons

        labels = np.full(box.size, self._unannotated, np.uint8)
        origin, step = np.array(l0_origin, np.float64), np.array(downsample, np.float64)
        for number in self._near(box, origin, step):
            polygon = self._polygons[number]
            low = np.floor((self._corners[:2, number] - origin) / step).astype(int)
            high = np.ceil((self._corners[2:, number] - origin) / step).astype(int)
            part = box.intersect(Box(*low.tolist(), *high.tolist()))
            if not part.is_empty:
                rings = [(ring - origin) / step for ring in polygon.rings]
                inside = fill_polygons(rings, (part.y0, part.x0, part.y1, part.x1))
                labels[part.slices((box.y0, box.x0))][inside] = polygon.label
        return labels

    def _near(self, box: Box, origin: NDArray[np.float64], step: NDArray[np.float64]) -> NDArray[np.intp]:
        """Numbers, ascending, of the polygons whose corners are within a px of a box; no others share a px with it."""
        y0, x0 = origin + (np.array([box.y0, box.x0]) - 1) * step
        y1, x1 = origin + (np.array([box.y1, box.x1]) + 1) * step
        top, left, bottom, right = self._corners
        return np.flatnonzero((top <= y1) & (left <= x1) & (bottom >= y0) & (right >= x0))
