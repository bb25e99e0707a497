"""Filling polygons by the even-odd rule; owns which pixel belongs to which side of an edge, knows no file format."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from wsi_kernels.jit import kernel
from wsi_kernels.layout import expect, flat_input

_FAR = 2.0**40


def fill_polygons(rings: Sequence[NDArray[np.float64]], box: tuple[int, int, int, int]) -> NDArray[np.bool_]:
    """Pixels of `box` (y0, x0, y1, x1) whose centre lies in an odd number of rings; bool (h, w).

    Each ring is float64 (n, 2) of (y, x) in the frame of `box`, where pixel (i, j) has its centre at
    (i + 0.5, j + 0.5); closing is implied, direction and order do not matter. A centre exactly on an edge belongs to
    one side only: polygons that share an edge (with the same end points) share no pixel and leave none out.
    Raises TypeError, ValueError.

    >>> fill_polygons([np.array([[0, 0], [0, 2], [2, 2], [2, 0.0]])], (0, 0, 3, 3)).astype(int).tolist()
    [[1, 1, 0], [1, 1, 0], [0, 0, 0]]
    """
    y0, x0, y1, x1 = map(int, box)  # a NumPy integer would compile the kernel again
    for ring in rings:
        expect("ring", ring, (np.float64,), ("n", 2))
        if not (np.abs(ring) < _FAR).all():
            raise ValueError(f"ring reaches {np.abs(ring).max()}; coordinates must be finite and below 2**40")
    inside = np.zeros((max(0, y1 - y0), max(0, x1 - x0)), np.uint8)
    for ring in rings:
        if len(ring):
            _toggle(flat_input(np.ascontiguousarray(ring))[0], y0, x0, inside)
    _fill(inside)
    return inside.view(np.bool_)


@kernel
def _toggle(ring, y0, x0, inside):  # type: ignore[no-untyped-def]
    """Flip, in each row an edge crosses, the first pixel whose centre is at or right of the crossing."""
    height, width = inside.shape
    for k in range(0, ring.size, 2):
        # always from the upper to the lower end: both neighbours of an edge compute the same crossing, bit for bit
        a, b = k, (k + 2) % ring.size
        if ring[a] > ring[b]:
            a, b = b, a
        ya, xa, yb, xb = ring[a], ring[a + 1], ring[b], ring[b + 1]
        start = max(np.ceil(ya - 0.5), np.float64(y0))  # rows whose centre is in [ya, yb); none where ya == yb
        stop = min(np.ceil(yb - 0.5), np.float64(y0 + height))
        for row in range(np.int64(start), np.int64(stop)):
            crossing = xa + (row + 0.5 - ya) * (xb - xa) / (yb - ya)
            column = max(np.int64(np.ceil(crossing - 0.5)) - x0, 0)
            if column < width:
                inside[row - y0, column] ^= 1


@kernel
def _fill(inside):  # type: ignore[no-untyped-def]
    height, width = inside.shape
    for i in range(height):
        row = inside[i]
        state = np.uint8(0)
        for j in range(width):
            state ^= row[j]
            row[j] = state
