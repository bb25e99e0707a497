"""Connected regions of a label map that comes in bands of whole rows, and what is counted of each.

Owns how a region of the bands above goes on in a band, and the sums that add up over bands. A region is a connected
component of one class; classes that are not wanted have none. Knows no file and draws no outline.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from wsi_kernels.jit import kernel
from wsi_kernels.layout import LABEL_DTYPES, Labels, expect

_LABEL, _FIRST, _N_PX, _SUM_Y, _SUM_X, _TOP, _LEFT, _BOTTOM, _RIGHT, _LEVEL, _UPRIGHT, _CHANCE = range(12)
_MOST_PX = np.iinfo(np.int32).max - 1


class Count(IntEnum):
    """Columns of what `count_regions` answers; all are exact whole numbers."""

    LABEL = 0
    FIRST = 1
    """Row-major index of the first px in the whole map."""
    N_PX = 2
    SUM_Y = 3
    SUM_X = 4
    TOP = 5
    LEFT = 6
    BOTTOM = 7
    """One past the last row."""
    RIGHT = 8
    LEVEL_SIDES = 9
    """Sides of px that run along a row, towards px of other regions or none."""
    UPRIGHT_SIDES = 10
    """Sides of px that run along a column."""
    CHANCE = 11
    """Sum of the map of chances."""


def label_regions(
    labels: Labels, above: Labels, above_ids: NDArray[np.int32], wanted: NDArray[np.bool_], diagonal: bool
) -> tuple[NDArray[np.int32], NDArray[np.int32], int]:
    """Number the regions of a band, those of the row above it included.

    Args:
        labels: the band, (h, w).
        above: the row of labels above it, (w,).
        above_ids: ids of its regions, (w,): 0 for none, else 1 … n, each of them present.
        wanted: per label whether it is wanted, (256,) or (65536,).
        diagonal: whether px that touch at a corner only are connected.

    Returns:
        Ids of the band, (h, w), 0 or 1 … N; the id here of each region of the row above, (n + 1,), 0 for 0; and N.

    Raises TypeError, ValueError.

    >>> one, row = np.ones(256, np.bool_), np.array([1, 0, 1], np.uint8)
    >>> one[0] = False
    >>> ids, became, n = label_regions(np.array([[1, 1, 1]], np.uint8), row, np.array([1, 0, 2], np.int32), one, False)
    >>> ids.tolist(), became.tolist(), n
    ([[1, 1, 1]], [0, 1, 1], 1)
    """
    rows, row = _checked(labels, above, wanted)
    expect("above_ids", above_ids, (np.int32,), (labels.shape[1],))
    n_above = int(above_ids.max(initial=0))
    if above_ids.min(initial=0) < 0 or len(np.unique(above_ids[above_ids > 0])) != n_above:
        raise ValueError("above_ids must be 0 or 1 … n, each of them present")
    ids = np.empty(labels.shape, np.int32)
    became, n = _label(rows, row, np.ascontiguousarray(above_ids), n_above, wanted, bool(diagonal), ids)
    return ids, became, int(n)


def count_regions(
    labels: Labels,
    ids: NDArray[np.int32],
    above_ids: NDArray[np.int32],
    n: int,
    y0: int,
    chances: NDArray[np.uint8] | None = None,
) -> NDArray[np.int64]:
    """Sums of the regions of a band, (n + 1, len(Count)); row 0 is meaningless.

    The sides between the band and the row above belong to the band, so the whole map needs a last band of empty rows
    below it. A region that has no px in the band has only sides there, and a TOP beyond any map.

    Args:
        labels: the band, (h, w).
        ids: its regions, (h, w) in 0 … n.
        above_ids: regions of the row above by the same numbers, (w,).
        n: number of regions.
        y0: row of the band's first row in the whole map.
        chances: what is summed of each region, (h, w), or None.

    Raises TypeError, ValueError.
    """
    expect("labels", labels, LABEL_DTYPES, ("h", "w"))
    expect("ids", ids, (np.int32,), labels.shape)
    expect("above_ids", above_ids, (np.int32,), (labels.shape[1],))
    if max(ids.max(initial=0), above_ids.max(initial=0)) > n or min(ids.min(initial=0), above_ids.min(initial=0)) < 0:
        raise ValueError(f"ids leave 0 … {n}")
    if chances is not None:
        expect("chances", chances, (np.uint8,), labels.shape)
    counts = np.zeros((n + 1, len(Count)), np.int64)
    counts[:, [Count.FIRST, Count.TOP, Count.LEFT]] = np.iinfo(np.int64).max
    _count(
        np.ascontiguousarray(labels),
        np.ascontiguousarray(ids),
        np.ascontiguousarray(above_ids),
        int(y0),
        np.zeros((0, 0), np.uint8) if chances is None else np.ascontiguousarray(chances),
        counts,
    )
    return counts


def _checked(labels: Labels, above: Labels, wanted: NDArray[np.bool_]) -> tuple[Labels, Labels]:
    expect("labels", labels, LABEL_DTYPES, ("h", "w"))
    expect("above", above, (labels.dtype.type,), (labels.shape[1],))
    expect("wanted", wanted, (np.bool_,), (np.iinfo(labels.dtype).max + 1,))
    if labels.size + labels.shape[1] > _MOST_PX:
        raise ValueError(f"labels {labels.shape}; at most {_MOST_PX} px at a time")
    rows: Labels = np.ascontiguousarray(labels)  # type: ignore[assignment]
    row: Labels = np.ascontiguousarray(above)  # type: ignore[assignment]
    return rows, row


@kernel
def _label(labels, above, above_ids, n_above, wanted, diagonal, ids):  # type: ignore[no-untyped-def]
    height = labels.shape[0]
    root = np.empty(n_above + 1 + _n_runs(labels, wanted), np.int32)
    for k in range(n_above + 1):
        root[k] = k
    # along the row above itself, a region may touch another of its kind only through the band: nothing to do there
    n = n_above + 1
    row, row_ids = above, above_ids
    for i in range(height):
        upper, upper_ids = row, row_ids
        row, row_ids = labels[i], ids[i]
        n = _label_row(row, row_ids, upper, upper_ids, wanted, diagonal, root, n)
    final = np.zeros(n, np.int32)
    n_regions = 0
    for k in range(1, n):
        r = _root(root, k)
        if final[r] == 0:  # a root is the least of its numbers, so it comes first
            n_regions += 1
            final[r] = n_regions
        final[k] = final[r]
    flat = ids.ravel()
    for k in range(flat.size):
        flat[k] = final[flat[k]]
    return final[: n_above + 1], n_regions


@kernel
def _label_row(row, row_ids, upper, upper_ids, wanted, diagonal, root, n):  # type: ignore[no-untyped-def]
    width = row.size
    for j in range(width):
        label = row[j]
        if not wanted[label]:
            row_ids[j] = 0
            continue
        left = j > 0 and row[j - 1] == label
        up = upper[j] == label and upper_ids[j] > 0
        found = row_ids[j - 1] if left else np.int32(0)
        if up and not (left and upper[j - 1] == label and upper_ids[j - 1] > 0):
            found = _joined(root, found, upper_ids[j])
        if diagonal and not up:
            if j > 0 and not left and upper[j - 1] == label and upper_ids[j - 1] > 0:
                found = _joined(root, found, upper_ids[j - 1])
            if j + 1 < width and upper[j + 1] == label and upper_ids[j + 1] > 0:
                found = _joined(root, found, upper_ids[j + 1])
        if found == 0:
            root[n] = n
            found = np.int32(n)
            n += 1
        row_ids[j] = found
    return n


@kernel
def _n_runs(labels, wanted):  # type: ignore[no-untyped-def]
    n = 0
    for i in range(labels.shape[0]):
        row = labels[i]
        for j in range(row.size):
            n += wanted[row[j]] and (j == 0 or row[j] != row[j - 1])
    return n


@kernel
def _joined(root, a, b):  # type: ignore[no-untyped-def]
    """Unite two regions, of which the first may be none; the lesser number."""
    if a == 0:
        return b
    one, other = _root(root, a), _root(root, b)
    low, high = min(one, other), max(one, other)
    root[high] = low
    return low


@kernel
def _root(root, k):  # type: ignore[no-untyped-def]
    while root[k] != k:
        root[k] = root[root[k]]
        k = root[k]
    return k


@kernel
def _count(labels, ids, above_ids, y0, chances, counts):  # type: ignore[no-untyped-def]
    height, width = ids.shape
    upper = above_ids
    for i in range(height):
        row, y = ids[i], y0 + i
        for j in range(width):
            k = row[j]
            if upper[j] != k:
                counts[k, _LEVEL] += 1
                counts[upper[j], _LEVEL] += 1
            if j > 0 and row[j - 1] != k:
                counts[k, _UPRIGHT] += 1
                counts[row[j - 1], _UPRIGHT] += 1
            if k == 0:
                continue
            region = counts[k]
            if region[_N_PX] == 0:
                region[_LABEL], region[_FIRST], region[_TOP] = labels[i, j], y * width + j, y
            region[_N_PX] += 1
            region[_SUM_Y] += y
            region[_SUM_X] += j
            region[_LEFT] = min(region[_LEFT], j)
            region[_BOTTOM] = y + 1
            region[_RIGHT] = max(region[_RIGHT], j + 1)
            region[_UPRIGHT] += (j == 0) + (j + 1 == width)
            if chances.size:
                region[_CHANCE] += chances[i, j]
        upper = row
