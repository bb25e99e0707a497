"""Outlines with fewer corners, no farther from the exact ones than a bound.

Owns what happens to rings that no longer fit each other: they stay exact. Knows no region. GEOS's own simplification
keeps topology too, but needs gigabytes and minutes for a tissue with a hundred thousand holes, and drops a ring's first
corner without regard to what it left out beside it: up to twice the tolerance.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_seg.convert.selection import Frame


def simplified(shapes: NDArray[Any], frame: Frame, simplify_um: float) -> NDArray[Any]:
    """Shapes in level-0 px with fewer corners, `simplify_um` off at most; valid where they were, with as many rings."""
    import shapely

    if not simplify_um or not len(shapes):
        return shapes
    um = np.array([frame.mpp.x / frame.l0_per_px[1], frame.mpp.y / frame.l0_per_px[0]])
    parts, shape = shapely.get_parts(shapes, return_index=True)
    rings, part = shapely.get_rings(parts, return_index=True)
    fewer = _simplified_rings(rings, um, simplify_um)
    starts = np.flatnonzero(np.diff(part, prepend=-1))
    made = _polygons(fewer, starts)
    for k in np.flatnonzero(~shapely.is_valid(made)):
        mine = slice(starts[k], starts[k + 1] if k + 1 < len(starts) else len(rings))
        made[k] = _mended(rings[mine], fewer[mine])
    return _whole(made, shape, shapes)


def _simplified_rings(rings: NDArray[Any], um: NDArray[np.float64], simplify_um: float) -> NDArray[Any]:
    import shapely
    from wsi_kernels import kept_corners

    points, ring = shapely.get_coordinates(rings, return_index=True)
    opened = np.diff(ring, append=-1) == 0  # the last corner is the first
    points, ring = points[opened], ring[opened]
    stops = np.cumsum(np.bincount(ring, minlength=len(rings)))
    kept = kept_corners(points * um, stops, simplify_um)
    made: NDArray[Any] = shapely.linearrings(points[kept], indices=ring[kept])
    return made


def _polygons(rings: NDArray[Any], starts: NDArray[np.intp]) -> NDArray[Any]:
    """Polygons of rings, each from a ring of `starts` to the next, the outer one first."""
    import shapely

    points, ring = shapely.get_coordinates(rings, return_index=True)
    ring_offsets = np.concatenate([[0], np.cumsum(np.bincount(ring, minlength=len(rings)))])
    part_offsets = np.append(starts, len(rings))
    made: NDArray[Any] = shapely.from_ragged_array(shapely.GeometryType.POLYGON, points, (ring_offsets, part_offsets))
    return made


def _mended(exact: NDArray[Any], fewer: NDArray[Any]) -> Any:
    """A valid polygon of simplified rings, with exact ones in place of those that do not fit.

    Valid, since simplified rings that are left are simple, meet no other ring, lie in the outer one and in no hole; and
    exact ones fit each other. GEOS takes minutes to say so of a hundred thousand holes.
    """
    import shapely

    rings, is_exact = fewer.copy(), np.zeros(len(fewer), np.bool_)
    while True:
        bad = _unfit(rings) & ~is_exact
        if not bad.any():
            return shapely.Polygon(rings[0], rings[1:])
        rings[bad], is_exact[bad] = exact[bad], True


def _unfit(rings: NDArray[Any]) -> NDArray[np.bool_]:
    """Rings of a polygon that cross themselves, meet another, or lie off the outer ring or inside another hole."""
    import shapely

    bad: NDArray[np.bool_] = ~shapely.is_simple(rings)
    # Of two rings the one with more corners is prepared: comparing then costs what the other one has.
    size = shapely.get_num_coordinates(rings)
    one, other = shapely.STRtree(rings).query(rings)
    larger = (size[one] > size[other]) | ((size[one] == size[other]) & (one < other))
    one, other = one[larger], other[larger]
    shapely.prepare(rings)
    meets = shapely.intersects(rings[one], rings[other])
    bad[one[meets]] = bad[other[meets]] = True
    filled, corner = shapely.polygons(rings), shapely.get_point(rings, 0)
    shapely.prepare(filled)
    # A ring's corners are corners of the exact one: where one of a hole lies off the outer ring, that one is to blame.
    bad[0] |= not shapely.intersects(filled[0], corner[1:]).all()
    holes = (one > 0) & (other > 0)
    one, other = one[holes], other[holes]
    inside = shapely.contains(filled[one], corner[other]) | shapely.contains(filled[other], corner[one])
    bad[one[inside]] = bad[other[inside]] = True
    return bad


def _whole(parts: NDArray[Any], shape: NDArray[np.intp], shapes: NDArray[Any]) -> NDArray[Any]:
    """Shapes of parts; one whose parts no longer fit each other is as it was."""
    import shapely

    starts = np.flatnonzero(np.diff(shape, prepend=-1))
    whole = parts[starts].copy()
    for k in np.flatnonzero(shapely.get_num_geometries(shapes) > 1):
        stop = starts[k + 1] if k + 1 < len(starts) else len(parts)
        several = shapely.multipolygons(parts[starts[k] : stop])
        whole[k] = several if several.is_valid else shapes[k]
    return whole
