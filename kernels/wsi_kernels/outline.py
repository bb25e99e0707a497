"""Outlines of regions of a label map that comes in bands of whole rows: traced along the edges of pixels.

Owns which way a line turns where two pixels of a class touch at a corner, how lines are cut at the borders of bands,
and how a closed line becomes simple rings. Knows no coordinates but corners of pixels, and no polygon.

A line runs clockwise as pixels are shown (y down): the region lies on its right. Where two pixels of a class touch at a
corner only, it stays with the pixel it is at, so that it goes round a 4-connected component. Such a line may pass a
corner twice. Both sides of the pinch are the line's own outside, which a simple curve (the line, a hair's breadth to
its right) cannot reach across itself from two places in turn: pinches nest, and swapping the successors at every pinch
parts the line into simple rings in one way only: one outer ring and holes, or several holes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wsi_kernels.jit import kernel
from wsi_kernels.layout import LABEL_DTYPES, Labels, expect

Points = NDArray[np.int32]
"""Corners of pixels, (n, 2) as (y, x): pixel (i, j) has its upper left corner at (i, j)."""
CLOSED, ABOVE, BELOW = 0, 1, 2
"""Where a line begins or ends: nowhere, at the band's upper border, at its lower border."""


def trace_outlines(
    labels: Labels, above: Labels, wanted: NDArray[np.bool_]
) -> tuple[Points, NDArray[np.bool_], NDArray[np.int32]]:
    """Trace the lines around pixels of wanted classes in a band.

    The sides between the band and the row above belong to the band, those at its lower border do not: the last band of
    a map ends with a row of labels that are not wanted. Lines are cut at borders: a line that ends BELOW in column j
    goes down the right side of the last row's pixel j and goes on in the next band as the line that begins ABOVE in
    column j; one that begins BELOW in column j goes up the left side of that pixel, and goes on from the one that ends
    ABOVE there.

    Args:
        labels: the band, (h, w), h at least 1.
        above: the row of labels above it, (w,); labels that are not wanted above the map.
        wanted: per label whether it is wanted, (256,) or (65536,).

    Returns:
        The corners where lines turn, in the frame of the band, (n, 2); whether two px of the class touch there at the
        corner only, (n,); and the lines, (m, 7): where it begins (CLOSED, ABOVE, BELOW) and in which column, where it
        ends and in which column, the number of its last corner plus one, and (row, column) of a px at its right, row -1
        being the row above. The corners of a line follow those of the line before it.

    Raises TypeError, ValueError.

    >>> wanted = np.arange(256) == 1
    >>> points, pinches, lines = trace_outlines(np.array([[0, 1], [0, 0]], np.uint8), np.zeros(2, np.uint8), wanted)
    >>> points.tolist(), lines.tolist()
    ([[0, 2], [1, 2], [1, 1], [0, 1]], [[0, 0, 0, 0, 4, 0, 1]])
    """
    expect("labels", labels, LABEL_DTYPES, ("h", "w"))
    expect("above", above, (labels.dtype.type,), (labels.shape[1],))
    expect("wanted", wanted, (np.bool_,), (np.iinfo(labels.dtype).max + 1,))
    height, width = labels.shape
    if not height:
        raise ValueError("labels have no rows; a band has at least 1")
    if max(height, width) > np.iinfo(np.int32).max // 2:
        raise ValueError(f"labels {labels.shape}; at most {np.iinfo(np.int32).max // 2} px a side")
    keys = np.zeros((height + 2, width + 2), np.int32)  # 0: not wanted; one px around, so that no step looks outside
    keys[0, 1:-1] = np.where(wanted[above], above.astype(np.int32) + 1, 0)
    np.add(labels, 1, out=keys[1:-1, 1:-1], where=wanted[labels], dtype=np.int32, casting="unsafe")
    points, lines = _trace(keys)
    return points[:, :2], points[:, 2].astype(np.bool_), lines


def simple_rings(
    points: Points, pinches: NDArray[np.bool_], stops: NDArray[np.int64]
) -> tuple[Points, NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Part closed lines into simple rings; each begins at its uppermost, then leftmost corner.

    Args:
        points: corners of all lines, (n, 2).
        pinches: where a line may pass twice, (n,).
        stops: per line, one past its last corner, (m,), ascending; the last is n.

    Returns:
        Corners of all rings, (n, 2); per ring one past its last corner, (r,); the line it is of, (r,); and twice its
        area in px, (r,): above 0 for outer rings, below 0 for holes.

    Raises TypeError, ValueError.

    >>> square = np.array([[1, 1], [1, 0], [0, 0], [0, 1]], np.int32)
    >>> points, stops, lines, areas = simple_rings(square, np.zeros(4, np.bool_), np.array([4]))
    >>> points.tolist(), areas.tolist()
    ([[0, 0], [0, 1], [1, 1], [1, 0]], [2])
    """
    expect("points", points, (np.int32,), ("n", 2))
    expect("pinches", pinches, (np.bool_,), (len(points),))
    expect("stops", stops, (np.int64,), ("m",))
    if (stops[-1] if len(stops) else 0) != len(points) or (np.diff(stops, prepend=0) < 1).any():
        raise ValueError(f"stops {stops[:3].tolist()} …; ascending, the last being {len(points)}")
    sizes = np.diff(stops, prepend=0)
    follows = np.arange(1, len(points) + 1)
    follows[stops - 1] = stops - sizes
    at = np.flatnonzero(pinches)
    line = np.searchsorted(stops, at, side="right")
    order = at[np.lexsort((points[at, 1], points[at, 0], line))]
    line = np.searchsorted(stops, order, side="right")
    twice = np.flatnonzero((points[order[1:]] == points[order[:-1]]).all(axis=1) & (line[1:] == line[:-1]))
    a, b = order[twice], order[twice + 1]
    follows[a], follows[b] = follows[b], follows[a]
    return _rings(np.ascontiguousarray(points), follows, stops)  # type: ignore[no-any-return]


@kernel
def _rings(points, follows, stops):  # type: ignore[no-untyped-def]
    n = len(points)
    out, seen = np.empty((n, 2), np.int32), np.zeros(n, np.bool_)
    ends, lines, areas = np.empty(n, np.int64), np.empty(n, np.int64), np.empty(n, np.int64)
    written, n_rings, line = 0, 0, 0
    for start in range(n):
        while start >= stops[line]:
            line += 1
        if seen[start]:
            continue
        first, k = start, start
        while not seen[k]:
            seen[k] = True
            if points[k, 0] < points[first, 0] or (
                points[k, 0] == points[first, 0] and points[k, 1] < points[first, 1]
            ):
                first = k
            k = follows[k]
        area, k = np.int64(0), first
        while True:
            following = follows[k]
            out[written] = points[k]
            written += 1
            area += np.int64(points[k, 1]) * points[following, 0] - np.int64(points[following, 1]) * points[k, 0]
            k = following
            if k == first:
                break
        ends[n_rings], lines[n_rings], areas[n_rings] = written, line, area
        n_rings += 1
    return out, ends[:n_rings].copy(), lines[:n_rings].copy(), areas[:n_rings].copy()


@kernel
def _trace(keys):  # type: ignore[no-untyped-def]
    height, width = keys.shape[0] - 2, keys.shape[1] - 2
    seen = np.zeros(keys.shape, np.bool_)  # px whose upper side is traced
    points, n = np.empty((4096, 3), np.int32), 0
    lines, m = np.empty((256, 7), np.int32), 0
    for j in range(1, width + 1):  # down the right sides of the row above
        if keys[0, j] != 0 and keys[0, j + 1] != keys[0, j]:
            points, n, end, column = _follow(keys, seen, (0, j, 1), points, n)
            lines, m = _add_line(lines, m, (ABOVE, j - 1, end, column, n, -1, j - 1))
    for j in range(1, width + 1):  # up the left sides of the last row
        if keys[height, j] != 0 and keys[height, j - 1] != keys[height, j]:
            points, n, end, column = _follow(keys, seen, (height, j, 3), points, n)
            lines, m = _add_line(lines, m, (BELOW, j - 1, end, column, n, height - 1, j - 1))
    for i in range(1, height + 1):
        for j in range(1, width + 1):
            if keys[i, j] != 0 and keys[i - 1, j] != keys[i, j] and not seen[i, j]:
                points, n, end, column = _follow(keys, seen, (i, j, 0), points, n)
                lines, m = _add_line(lines, m, (CLOSED, 0, end, column, n, i - 1, j - 1))
    return points[:n].copy(), lines[:m].copy()


@kernel
def _add_line(lines, m, line):  # type: ignore[no-untyped-def]
    if m == len(lines):
        longer = np.empty((2 * m, lines.shape[1]), np.int32)
        longer[:m] = lines
        lines = longer
    for k in range(7):
        lines[m, k] = line[k]
    return lines, m + 1


@kernel
def _follow(keys, seen, start, points, n):  # type: ignore[no-untyped-def]
    """Follow a line from a side of a px: 0 its upper side, to the right; 1 right, down; 2 lower, left; 3 left, up."""
    bottom = keys.shape[0] - 2
    i, j, side = start
    key = keys[i, j]
    while True:
        if side == 0:
            seen[i, j] = True
        # the px ahead, on the line's right, and the one beside it, on the line's left
        ahead_i, ahead_j, beside_i, beside_j = i, j, i, j
        if side == 0:
            ahead_j, beside_i, beside_j = j + 1, i - 1, j + 1
        elif side == 1:
            ahead_i, beside_i, beside_j = i + 1, i + 1, j + 1
        elif side == 2:
            ahead_j, beside_i, beside_j = j - 1, i + 1, j - 1
        else:
            ahead_i, beside_i, beside_j = i - 1, i - 1, j - 1
        corner_i = i - 1 if side == 0 or side == 3 else i  # noqa: PLR1714
        corner_j = j if side <= 1 else j - 1
        beside = keys[beside_i, beside_j] == key
        if keys[ahead_i, ahead_j] == key:
            if beside:
                i, j, side = beside_i, beside_j, (side + 3) % 4
                points, n = _add_point(points, n, corner_i, corner_j, 0)
            else:
                i, j = ahead_i, ahead_j
        else:
            side = (side + 1) % 4
            points, n = _add_point(points, n, corner_i, corner_j, 1 if beside else 0)
        if side == 1 and i == bottom:
            return points, n, BELOW, j - 1
        if side == 3 and i == 0:
            return points, n, ABOVE, j - 1
        if i == start[0] and j == start[1] and side == start[2]:
            return points, n, CLOSED, 0


@kernel
def _add_point(points, n, i, j, pinch):  # type: ignore[no-untyped-def]
    if n == len(points):
        longer = np.empty((2 * n, 3), np.int32)
        longer[:n] = points
        points = longer
    points[n, 0], points[n, 1], points[n, 2] = i, j, pinch
    return points, n + 1
