"""Halving labels by majority and probabilities by mean; owns the 2 x 2 rules, knows no levels.

Output pixel (i, j) stands for input rows 2i, 2i + 1 and columns 2j, 2j + 1; at an odd end only for those that exist.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wsi_kernels.jit import kernel
from wsi_kernels.layout import LABEL_DTYPES, Labels, expect, flat_input


def halve_majority(labels: Labels, ignore: int, n_classes: int) -> Labels:
    """Most frequent label of each 2 x 2, ties to the lowest index; (h, w) -> (ceil(h / 2), ceil(w / 2)), same dtype.

    `ignore` ("not analysed") loses to any class and results only where there is nothing else. `labels` holds 0 …
    n_classes - 1 and `ignore`, which must not be below n_classes; it may be a view. Raises TypeError, ValueError.

    >>> halve_majority(np.array([[2, 1, 255], [1, 2, 255]], np.uint8), 255, 3).tolist()
    [[1, 255]]
    """
    expect("labels", labels, LABEL_DTYPES, ("h", "w"))
    largest = int(np.iinfo(labels.dtype).max)
    if not 1 <= n_classes <= ignore <= largest:
        raise ValueError(f"{n_classes} classes with ignore {ignore}; rule: 1 <= n_classes <= ignore <= {largest}")
    out = np.empty(((labels.shape[0] + 1) // 2, (labels.shape[1] + 1) // 2), labels.dtype)
    _halve_majority(flat_input(labels), labels.shape, labels.dtype.type(ignore), out)
    return out


@kernel
def _majority(a, b, c, d, ignore):  # type: ignore[no-untyped-def]
    """Sort by a network of minima and maxima, then look for the first longest run; `ignore` is the largest value."""
    a, b = min(a, b), max(a, b)
    c, d = min(c, d), max(c, d)
    a, c = min(a, c), max(a, c)
    b, d = min(b, d), max(b, d)
    b, c = min(b, c), max(b, c)
    late = c if (c == d) & (c != ignore) else a
    middle = b if (b == c) & (b != ignore) else late
    return a if a == b else middle


@kernel
def _halve_majority(source_rows, shape, ignore, out):  # type: ignore[no-untyped-def]
    source, source_strides = source_rows
    height, width = shape
    pairs = width // 2
    nothing = np.full(width, ignore, source.dtype)
    for i in range(out.shape[0]):
        s = 2 * i * source_strides[0]
        upper = source[s : s + width]
        s += source_strides[0]
        lower = source[s : s + width] if 2 * i + 1 < height else nothing
        row = out[i]
        for j in range(pairs):
            row[j] = _majority(upper[2 * j], upper[2 * j + 1], lower[2 * j], lower[2 * j + 1], ignore)
        if pairs < row.size:
            row[pairs] = _majority(upper[width - 1], ignore, lower[width - 1], ignore, ignore)


def halve_mean(probabilities: NDArray[np.uint8], labels: Labels, ignore: int) -> NDArray[np.uint8]:
    """Mean over the pixels of each 2 x 2 whose label is not `ignore`, rounded half up; 0 where there are none.

    (C, h, w) and (h, w) -> (C, ceil(h / 2), ceil(w / 2)) uint8; both may be views. Raises TypeError, ValueError.

    >>> halve_mean(np.array([[[7, 10]]], np.uint8), np.array([[0, 255]], np.uint8), 255).tolist()
    [[[7]]]
    """
    expect("probabilities", probabilities, (np.uint8,), ("C", "h", "w"))
    expect("labels", labels, LABEL_DTYPES, probabilities.shape[1:])
    n_classes, height, width = probabilities.shape
    if not 0 <= ignore <= np.iinfo(labels.dtype).max:
        raise ValueError(f"ignore {ignore}; {labels.dtype} labels hold 0 … {np.iinfo(labels.dtype).max}")
    out = np.empty((n_classes, (height + 1) // 2, (width + 1) // 2), np.uint8)
    _halve_mean(flat_input(probabilities), probabilities.shape, flat_input(labels), labels.dtype.type(ignore), out)
    return out


@kernel
def _halve_mean(source_rows, shape, label_rows, ignore, out):  # type: ignore[no-untyped-def]
    (source, source_strides), (labels, labels_strides) = source_rows, label_rows
    n_classes, height, width = shape
    even = width + width % 2
    keep = np.zeros((2, even), np.uint8)  # per pixel of two rows: 255 where it counts, else 0
    count = np.empty(even // 2, np.uint32)
    values = np.zeros((2, even), np.uint8)
    for i in range(out.shape[1]):
        rows = min(2, height - 2 * i)
        keep[:] = 0
        for r in range(rows):
            s = (2 * i + r) * labels_strides[0]
            _mark(labels[s : s + width], ignore, keep[r])
        _sum_pairs(keep[0], keep[1], count)
        for c in range(n_classes):
            values[:] = 0
            for r in range(rows):
                s = c * source_strides[0] + (2 * i + r) * source_strides[1]
                _mask(source[s : s + width], keep[r], values[r])
            _mean_pairs(values[0], values[1], count, out[c, i])


@kernel
def _mark(labels, ignore, keep):  # type: ignore[no-untyped-def]
    for j in range(labels.size):
        keep[j] = np.uint8(255) if labels[j] != ignore else np.uint8(0)


@kernel
def _mask(values, keep, out):  # type: ignore[no-untyped-def]
    for j in range(values.size):
        out[j] = values[j] & keep[j]


@kernel
def _sum_pairs(upper, lower, out):  # type: ignore[no-untyped-def]
    for j in range(out.size):
        total = np.uint32(upper[2 * j]) + np.uint32(upper[2 * j + 1]) + np.uint32(lower[2 * j])
        out[j] = (total + np.uint32(lower[2 * j + 1])) // np.uint32(255)


@kernel
def _mean_pairs(upper, lower, count, out):  # type: ignore[no-untyped-def]
    for j in range(out.size):
        total = np.uint32(upper[2 * j]) + np.uint32(upper[2 * j + 1]) + np.uint32(lower[2 * j])
        total = np.uint32(total + np.uint32(lower[2 * j + 1]))
        n = count[j]
        by_1, by_2, by_4 = total, (total + np.uint32(1)) >> np.uint32(1), (total + np.uint32(2)) >> np.uint32(2)
        by_3 = np.uint32(np.uint32(total + 1) * np.uint32(43691)) >> np.uint32(17)  # (total + 1) // 3, exact up to 98k
        few = by_1 if n == 1 else by_2
        many = by_3 if n == 3 else by_4
        out[j] = few if n < 3 else many
