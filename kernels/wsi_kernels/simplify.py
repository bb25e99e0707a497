"""Rings with fewer corners: Douglas and Peucker 1973, doi:10.3138/FM57-6770-U75U-7727, ring by ring.

Owns the bound on how far a ring moves. Knows nothing of other rings: whether they still fit is the caller's to see.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wsi_kernels.jit import kernel
from wsi_kernels.layout import expect


def kept_corners(points: NDArray[np.float64], stops: NDArray[np.int64], tolerance: float) -> NDArray[np.bool_]:
    """Which corners of rings stay, (n,), so that each ring stays within `tolerance` of what it was, and the other way.

    A ring's first corner stays, and the one farthest from it. A ring that would keep fewer than 3 corners keeps all.

    Args:
        points: corners of the rings, (n, 2), not closed.
        stops: per ring one past its last corner, (r,).
        tolerance: largest distance of a corner that is left out from the side that replaces it; above 0.

    Raises TypeError, ValueError.

    >>> ring = np.array([[0, 0], [0, 2], [0.1, 3], [0, 4], [4, 4], [4, 0]])
    >>> kept_corners(ring, np.array([6]), 0.2).astype(int).tolist()
    [1, 0, 0, 1, 1, 1]
    """
    expect("points", points, (np.float64,), ("n", 2))
    expect("stops", stops, (np.int64,), ("r",))
    if (stops[-1] if len(stops) else 0) != len(points) or (np.diff(stops, prepend=0) < 3).any():
        raise ValueError(f"stops of rings with 3 corners at least must ascend to {len(points)}")
    if not 0 < tolerance < np.inf:
        raise ValueError(f"tolerance {tolerance}; finite and above 0")
    kept = np.zeros(len(points), np.bool_)
    _simplify(np.ascontiguousarray(points), np.ascontiguousarray(stops), float(tolerance), kept)
    return kept


@kernel
def _simplify(points, stops, tolerance, kept):  # type: ignore[no-untyped-def]
    waiting, start = np.empty((64, 2), np.int64), 0
    for ring in range(len(stops)):
        stop = stops[ring]
        far, farthest = start, -1.0
        for k in range(start, stop):
            away = (points[k, 0] - points[start, 0]) ** 2 + (points[k, 1] - points[start, 1]) ** 2
            if away > farthest:
                far, farthest = k, away
        kept[start], kept[far] = True, True
        n, waiting = _part(points, (start, stop), (start, far), tolerance, kept, waiting)
        more, waiting = _part(points, (start, stop), (far, stop), tolerance, kept, waiting)
        if 2 + n + more < 3:
            kept[start:stop] = True
        start = stop


@kernel
def _part(points, ring, ends, tolerance, kept, waiting):  # type: ignore[no-untyped-def]
    """Keep corners between two that stay; the end of a ring is its beginning. Answers how many."""
    start, stop = ring
    n, depth = 0, 1
    waiting[0, 0], waiting[0, 1] = ends
    while depth:
        depth -= 1
        a, b = waiting[depth]
        worst, farthest = a, tolerance
        for k in range(a + 1, b):
            away = _distance(points[k], points[a], points[b if b < stop else start])
            if away > farthest:
                worst, farthest = k, away
        if worst == a:
            continue
        kept[worst] = True
        n += 1
        if depth + 2 > len(waiting):
            longer = np.empty((2 * len(waiting), 2), np.int64)
            longer[: len(waiting)] = waiting
            waiting = longer
        waiting[depth, 0], waiting[depth, 1] = a, worst
        waiting[depth + 1, 0], waiting[depth + 1, 1] = worst, b
        depth += 2
    return n, waiting


@kernel
def _distance(point, a, b):  # type: ignore[no-untyped-def]
    """Of a point from a segment, which may be a point."""
    along_y, along_x = b[0] - a[0], b[1] - a[1]
    length2 = along_y**2 + along_x**2
    share = 0.0
    if length2 > 0:
        share = ((point[0] - a[0]) * along_y + (point[1] - a[1]) * along_x) / length2
        share = min(1.0, max(0.0, share))
    return np.hypot(point[0] - a[0] - share * along_y, point[1] - a[1] - share * along_x)
