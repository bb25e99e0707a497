"""Where a slit from a hole of a polygon meets the rest of it; owns that search, knows no format."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wsi_kernels.jit import kernel
from wsi_kernels.layout import expect


def slit_ends(
    points: NDArray[np.float64], stops: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """For each hole the place at which a level slit, from its uppermost (then leftmost) corner to the left, ends.

    A slit ends at the nearest edge of a ring whose own such corner is farther up (or left), so that slits make a tree
    whose root is the outer ring. Between its ends it lies inside the polygon, where the polygon is valid.

    Args:
        points: corners of the rings as (y, x), the outer ring first, (n, 2), not closed.
        stops: per ring one past its last corner, (r,).

    Returns:
        For each of the r - 1 holes: the corner it begins at, the corner that begins the edge at which it ends, and the
        x there; NaN where a polygon that is not valid has no such edge.

    Raises TypeError, ValueError.

    >>> frame, hole = [[0, 0], [0, 9], [9, 9], [9, 0]], [[3, 4], [5, 4], [5, 6], [3, 6]]
    >>> [found.tolist() for found in slit_ends(np.array(frame + hole, np.float64), np.array([4, 8]))]
    [[4], [3], [0.0]]
    """
    expect("points", points, (np.float64,), ("n", 2))
    expect("stops", stops, (np.int64,), ("r",))
    if not len(stops) or stops[-1] != len(points) or (np.diff(stops, prepend=0) < 3).any():
        raise ValueError(f"stops of rings with 3 corners at least must ascend to {len(points)}")
    starts = np.concatenate([[0], stops[:-1]])
    ring = np.repeat(np.arange(len(stops)), np.diff(stops, prepend=0))
    order = np.lexsort((points[:, 1], points[:, 0], ring))
    corner = order[starts]  # of each ring
    rank = np.empty(len(stops), np.int64)
    rank[0] = -1
    rank[1:][np.lexsort((points[corner[1:], 1], points[corner[1:], 0]))] = np.arange(len(stops) - 1)
    following = np.arange(1, len(points) + 1)
    following[stops - 1] = starts
    low = np.minimum(points[:, 0], points[following, 0])
    high = np.maximum(points[:, 0], points[following, 0])
    step = max(float((high - low).mean()), 1e-9)  # so that an edge lies in two buckets of rows or so
    origin = float(points[:, 0].min())
    buckets = _buckets(low, high, origin, step, int((points[:, 0].max() - origin) / step) + 1)
    edges, xs = _ends(np.ascontiguousarray(points), following, ring, rank, corner, buckets, (origin, step))
    return corner[1:], edges, xs


@kernel
def _buckets(low, high, origin, step, n):  # type: ignore[no-untyped-def]
    """Edges by bucket of rows: where each bucket begins, (n + 1,), and their numbers."""
    begins = np.zeros(n + 2, np.int64)
    for k in range(len(low)):
        for bucket in range(int((low[k] - origin) / step), int((high[k] - origin) / step) + 1):
            begins[bucket + 2] += 1
    for bucket in range(2, n + 2):
        begins[bucket] += begins[bucket - 1]
    edges = np.empty(begins[n + 1], np.int64)
    for k in range(len(low)):
        for bucket in range(int((low[k] - origin) / step), int((high[k] - origin) / step) + 1):
            edges[begins[bucket + 1]] = k
            begins[bucket + 1] += 1
    return begins, edges


@kernel
def _ends(points, following, ring, rank, corner, buckets, grid):  # type: ignore[no-untyped-def]
    begins, numbers = buckets
    origin, step = grid
    edges, xs = np.zeros(len(corner) - 1, np.int64), np.empty(len(corner) - 1, np.float64)
    for hole in range(1, len(corner)):
        y, x = points[corner[hole], 0], points[corner[hole], 1]
        found, nearest = 0, -np.inf
        bucket = int((y - origin) / step)
        for k in numbers[begins[bucket] : begins[bucket + 1]]:
            if rank[ring[k]] >= rank[hole]:
                continue
            ya, yb = points[k, 0], points[following[k], 0]
            if ya == yb or y < min(ya, yb) or y > max(ya, yb):
                continue
            xa, xb = points[k, 1], points[following[k], 1]
            at = xb if y == yb else xa + (y - ya) * (xb - xa) / (yb - ya)
            if at <= x and at > nearest:
                found, nearest = k, at
        edges[hole - 1], xs[hole - 1] = found, nearest
        if nearest == -np.inf:
            xs[hole - 1] = np.nan
    return edges, xs
