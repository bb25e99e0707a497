"""Small objects and small holes of a label map: connected components by runs and union-find, and what replaces them.

Owns what "small" means so that a finite window decides it exactly (kernels/DESIGN.md, K13); knows no block and no
class name. Labels from the number of classes upwards are "not analysed": they are walls, and never change.
Components of runs: He, Chao, Suzuki 2008, doi:10.1109/TIP.2008.919369.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from wsi_kernels.jit import kernel
from wsi_kernels.layout import LABEL_DTYPES, Labels, expect


def remove_small(labels: Labels, limits: Sequence[int], windows: Sequence[int]) -> Labels:
    """Replace small objects, (h, w) -> a new (h, w).

    An object is an 8-connected component of one class. It is small when it has fewer than `limits[class]` px and fits
    into a square of `windows[class]` px; a limit of 0 leaves the class alone. All small objects are taken out at once,
    and each takes the class that most sides of its px face, ties to the lowest; px of small objects and px that are
    not analysed do not vote, and where nobody votes it becomes class 0. Raises TypeError, ValueError.

    >>> remove_small(np.array([[0, 1, 0, 0], [0, 0, 2, 2]], np.uint8), [0, 2, 2], [2, 2, 2]).tolist()
    [[0, 0, 0, 0], [0, 0, 2, 2]]
    """
    small, limit, window = _checked(labels, limits, windows)
    out = small.copy()
    keys = _candidates(small.dtype, limit)[small]
    runs = _components(keys, *keys.shape, True)
    _replace(small.ravel(), small.shape, runs, keys.ravel(), (limit, window), out.ravel())
    return out


def fill_holes(
    labels: Labels, limits: Sequence[int], windows: Sequence[int], closed: tuple[bool, bool, bool, bool]
) -> Labels:
    """Fill small holes, (h, w) -> a new (h, w).

    A hole of a class is a 4-connected component of the px that are not of the class, which that class encloses: it does
    not touch the canvas' edge and holds no px that is not analysed. It is small when it has fewer than `limits[class]`
    px and fits into a square of `windows[class]` px; a limit of 0 leaves the class alone. Where a px lies in holes of
    several classes, the largest decides, ties to the lowest class.

    `closed`: which sides of the array (top, left, bottom, right) are the canvas' edge. Raises TypeError, ValueError.

    >>> fill_holes(np.array([[1, 1, 1], [1, 0, 1], [1, 1, 1]], np.uint8), [0, 2], [1, 1], (True,) * 4).tolist()
    [[1, 1, 1], [1, 1, 1], [1, 1, 1]]
    """
    holed, limit, window = _checked(labels, limits, windows)
    out = holed.copy()
    largest = np.zeros(holed.size, np.int32)
    present = np.bincount(holed.ravel(), minlength=limit.size)[: limit.size] > 0
    for index in np.flatnonzero(present & (limit > 0)):
        keys = (holed != index).astype(np.uint16)
        runs = _components(keys, *keys.shape, False)
        wanted = (int(index), int(limit[index]), int(window[index]), limit.size)
        _fill(holed.ravel(), holed.shape, runs, wanted, closed, largest, out.ravel())
    return out


def _checked(
    labels: Labels, limits: Sequence[int], windows: Sequence[int]
) -> tuple[Labels, NDArray[np.int64], NDArray[np.int64]]:
    expect("labels", labels, LABEL_DTYPES, ("h", "w"))
    limit, window = np.array(limits, np.int64), np.array(windows, np.int64)
    expect("limits", limit, (np.int64,), ("classes",))
    expect("windows", window, (np.int64,), limit.shape)
    if not 1 <= limit.size <= np.iinfo(labels.dtype).max or min(limit.min(), window.min()) < 0:
        raise ValueError(f"limits {list(limits)}, windows {list(windows)}; one value >= 0 for each class")
    if labels.size > np.iinfo(np.int32).max:
        raise ValueError(f"labels {labels.shape}; at most {np.iinfo(np.int32).max} px at a time")
    rows: Labels = np.ascontiguousarray(labels)  # type: ignore[assignment]
    return rows, limit, window


def _candidates(dtype: np.dtype[np.uint8] | np.dtype[np.uint16], limit: NDArray[np.int64]) -> NDArray[np.uint16]:
    """Key of every label: 1 + the class where it has a limit, 0 elsewhere."""
    keys = np.zeros(np.iinfo(dtype).max + 1, np.uint16)
    keys[: limit.size] = np.where(limit > 0, np.arange(1, limit.size + 1), 0)
    return keys


@kernel
def _components(keys, height, width, diagonal):  # type: ignore[no-untyped-def]
    """Components of equal keys above 0.

    Answers (row, start, end) and the root of every run, and (area, top, left, bottom, right) at the roots.
    """
    flat = keys.ravel()
    n = _count_runs(flat, height, width)
    places = np.empty((3, n), np.int32)
    first = np.empty(height + 1, np.int32)
    _find_runs(flat, height, width, places, first)
    root = np.arange(n).astype(np.int32)
    reach = 1 if diagonal else 0
    for i in range(1, height):
        _join_rows(flat, width, places, root, (first[i - 1], first[i], first[i + 1]), reach)
    boxes = np.zeros((5, n), np.int32)
    for run in range(n):
        root[run] = _root(root, run)
        _add_run(places, run, boxes, root[run])
    return places, root, boxes


@kernel
def _count_runs(keys, height, width):  # type: ignore[no-untyped-def]
    n = 0
    for i in range(height):
        row = keys[i * width : (i + 1) * width]
        last = np.uint16(0)
        for j in range(width):
            n += row[j] != last and row[j] != 0
            last = row[j]
    return n


@kernel
def _find_runs(keys, height, width, places, first):  # type: ignore[no-untyped-def]
    rows, starts, ends = places
    n = 0
    for i in range(height):
        first[i] = n
        row = keys[i * width : (i + 1) * width]
        last = np.uint16(0)
        for j in range(width):
            if row[j] != last:
                if last != 0:
                    ends[n] = j
                    n += 1
                if row[j] != 0:
                    rows[n], starts[n] = i, j
                last = row[j]
        if last != 0:
            ends[n] = width
            n += 1
    first[height] = n


@kernel
def _join_rows(keys, width, places, root, spans, reach):  # type: ignore[no-untyped-def]
    """Unite the runs of one row with those of the row above, both in order of columns."""
    _, _, ends = places
    a, b = spans[0], spans[1]
    while a < spans[1] and b < spans[2]:
        _join(keys, width, places, root, a, b, reach)
        if ends[a] < ends[b]:
            a += 1
        elif ends[b] < ends[a]:
            b += 1
        else:  # both end here: each may still touch the other's successor at a corner
            if b + 1 < spans[2]:
                _join(keys, width, places, root, a, b + 1, reach)
            if a + 1 < spans[1]:
                _join(keys, width, places, root, a + 1, b, reach)
            a += 1
            b += 1


@kernel
def _join(keys, width, places, root, a, b, reach):  # type: ignore[no-untyped-def]
    rows, starts, ends = places
    touch = starts[b] < ends[a] + reach and starts[a] < ends[b] + reach
    if touch and keys[rows[a] * width + starts[a]] == keys[rows[b] * width + starts[b]]:
        one, other = _root(root, a), _root(root, b)
        root[max(one, other)] = min(one, other)


@kernel
def _root(root, run):  # type: ignore[no-untyped-def]
    while root[run] != run:
        root[run] = root[root[run]]
        run = root[run]
    return run


@kernel
def _add_run(places, run, boxes, root):  # type: ignore[no-untyped-def]
    (rows, starts, ends), (area, top, left, bottom, right) = places, boxes
    if area[root] == 0:  # a root is the first of its runs
        top[root], left[root], right[root] = rows[run], starts[run], ends[run]
    area[root] += ends[run] - starts[run]
    bottom[root] = rows[run] + 1
    left[root] = min(left[root], starts[run])
    right[root] = max(right[root], ends[run])


@kernel
def _is_small(boxes, root, limit, window):  # type: ignore[no-untyped-def]
    area, top, left, bottom, right = boxes
    fits = bottom[root] - top[root] <= window and right[root] - left[root] <= window
    return fits and area[root] < limit


@kernel
def _replace(labels, shape, runs, keys, bounds, out):  # type: ignore[no-untyped-def]
    (places, root, boxes), (limits, windows) = runs, bounds
    rows, starts, ends = places
    n, width = root.size, shape[1]
    removed = np.zeros(labels.size, np.uint8)
    following = np.full(n, -1, np.int32)  # the runs of a component as a list, from its root
    last = np.empty(n, np.int32)
    for run in range(n):
        s = rows[run] * width
        label = keys[s + starts[run]] - 1
        if not _is_small(boxes, root[run], limits[label], windows[label]):
            continue
        removed[s + starts[run] : s + ends[run]] = 1
        if root[run] != run:
            following[last[root[run]]] = run
        last[root[run]] = run
    votes = np.empty(limits.size, np.int64)
    for run in range(n):
        if root[run] != run or not removed[rows[run] * width + starts[run]]:
            continue
        votes[:] = 0
        part = run
        while part >= 0:
            _vote(labels, removed, shape, (rows[part], starts[part], ends[part]), votes)
            part = following[part]
        winner = np.argmax(votes)
        part = run
        while part >= 0:
            s = rows[part] * width
            out[s + starts[part] : s + ends[part]] = winner
            part = following[part]


@kernel
def _vote(labels, removed, shape, run, votes):  # type: ignore[no-untyped-def]
    """Count the classes that the sides of a run's px face."""
    (height, width), (i, start, end) = shape, run
    s = i * width
    if start > 0:
        _count(labels, removed, s + start - 1, votes)
    if end < width:
        _count(labels, removed, s + end, votes)
    for j in range(start, end):
        if i > 0:
            _count(labels, removed, s + j - width, votes)
        if i + 1 < height:
            _count(labels, removed, s + j + width, votes)


@kernel
def _count(labels, removed, at, votes):  # type: ignore[no-untyped-def]
    if not removed[at] and labels[at] < votes.size:
        votes[labels[at]] += 1


@kernel
def _fill(labels, shape, runs, wanted, closed, largest, out):  # type: ignore[no-untyped-def]
    (places, root, boxes), (index, limit, window, n_classes) = runs, wanted
    rows, starts, ends = places
    width = shape[1]
    open_ended = np.zeros(root.size, np.uint8)
    for run in range(root.size):
        if _is_small(boxes, root[run], limit, window):
            s = rows[run] * width
            part = labels[s + starts[run] : s + ends[run]]
            if _at_edge(rows[run], starts[run], ends[run], shape, closed) or part.max() >= n_classes:
                open_ended[root[run]] = 1
    for run in range(root.size):
        area = boxes[0, root[run]]
        if _is_small(boxes, root[run], limit, window) and not open_ended[root[run]]:
            s = rows[run] * width
            for at in range(s + starts[run], s + ends[run]):
                if area > largest[at]:
                    largest[at] = area
                    out[at] = index


@kernel
def _at_edge(i, start, end, shape, closed):  # type: ignore[no-untyped-def]
    top, left, bottom, right = closed
    vertical = (top and i == 0) or (bottom and i + 1 == shape[0])
    return vertical or (left and start == 0) or (right and end == shape[1])
