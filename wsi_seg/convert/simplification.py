"""Outlines with fewer corners, no farther from the exact ones than a bound.

Owns the bound and the check that shapes stay valid. Knows no region.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_seg.convert.selection import Frame


def simplified(shapes: NDArray[Any], frame: Frame, simplify_um: float) -> NDArray[Any]:
    """Shapes in level-0 px with fewer corners, `simplify_um` off at most.

    GEOS drops a ring's first corner by its own distance, whatever it left out beside it before; together that is up to
    twice the tolerance, so where it is more than the tolerance, half of it is used. A shape that would become invalid
    is left as it is.
    """
    import shapely

    if not simplify_um:
        return shapes
    um = np.array([frame.mpp.x / frame.l0_per_px[1], frame.mpp.y / frame.l0_per_px[0]])
    exact = shapely.transform(shapes, lambda points: points * um)
    kept: NDArray[Any] = shapes.copy()
    waiting = np.arange(len(shapes))
    for tolerance in (simplify_um, simplify_um / 2):
        fewer = shapely.simplify(exact[waiting], tolerance, preserve_topology=True)
        near = _deviations(exact[waiting], fewer) <= simplify_um
        back = shapely.transform(fewer, lambda points: points / um)
        sound = near & shapely.is_valid(back)
        kept[waiting[sound]] = back[sound]
        waiting = waiting[~sound]
    return kept


def _deviations(exact: NDArray[Any], fewer: NDArray[Any]) -> NDArray[np.float64]:
    """Largest distance of each shape from what it was made from; infinite where rings were lost."""
    from wsi_kernels import ring_deviations

    off = np.full(len(exact), np.inf)
    whole = [_n_rings(one) == _n_rings(other) for one, other in zip(exact, fewer, strict=True)]
    number = np.flatnonzero(whole)
    if len(number):
        points, stops, shape = _corners(exact[number])
        worst = np.zeros(len(number))
        np.maximum.at(worst, shape, ring_deviations(points, stops, *_corners(fewer[number])[:2]))
        off[number] = worst
    return off


def _n_rings(shape: Any) -> list[int]:
    """Of each of its polygons."""
    return [len(part.interiors) for part in getattr(shape, "geoms", [shape])]


def _corners(shapes: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.intp]]:
    """Corners of all rings, not closed, one past the last of each ring, and the number of its shape."""
    import shapely

    parts, shape = shapely.get_parts(shapes, return_index=True)
    rings, part = shapely.get_rings(parts, return_index=True)
    points, ring = shapely.get_coordinates(rings, return_index=True)
    opened = np.diff(ring, append=-1) == 0
    stops = np.cumsum(np.bincount(ring[opened], minlength=len(rings)))
    return points[opened], stops, shape[part]
