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
        self._corners = np.array(corners, np.float64).reshape(-1, 4)

    def read_labels(
        self, box: Box, downsample: tuple[float, float], l0_origin: tuple[float, float] = (0.0, 0.0)
    ) -> NDArray[np.uint8]:
        """Labels of a box, as `Annotation` says."""
        from wsi_kernels import fill_polygons

        labels = np.full(box.size, self._unannotated, np.uint8)
        origin, step = np.array(l0_origin, np.float64), np.array(downsample, np.float64)
        low = np.floor((self._corners[:, :2] - origin) / step)
        high = np.ceil((self._corners[:, 2:] - origin) / step)
        meets = (low < (box.y1, box.x1)).all(axis=1) & (high > (box.y0, box.x0)).all(axis=1)
        for number in np.flatnonzero(meets):
            polygon = self._polygons[number]
            (y0, x0), (y1, x1) = low[number], high[number]
            part = box.intersect(Box(int(y0), int(x0), int(y1), int(x1)))
            rings = [(ring - origin) / step for ring in polygon.rings]
            inside = fill_polygons(rings, (part.y0, part.x0, part.y1, part.x1))
            labels[part.slices((box.y0, box.x0))][inside] = polygon.label
        return labels
