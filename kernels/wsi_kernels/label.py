"""From a blended canvas to labels, 8-bit probabilities and counts; owns rounding and ties, knows no class names."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wsi_kernels.blend import FULL, ONE
from wsi_kernels.jit import kernel
from wsi_kernels.layout import LABEL_DTYPES, Labels, expect, flat_input, flat_output

_STRIP = 1024
_COUNTED_AT_ONCE = 1024
_COMPARED_ONE_BY_ONE = 8  # so many classes, a vector of px at a time, are faster than tables


def label_argmax(canvas: NDArray[np.uint32], out: Labels) -> None:
    """Write the index of the largest class of each pixel, ties to the lowest; canvas (C, h, w), out (h, w).

    Both may be views with a contiguous last axis. Raises TypeError, ValueError.
    """
    expect("canvas", canvas, (np.uint32,), ("C", "h", "w"))
    n_classes = canvas.shape[0]
    expect("out", out, LABEL_DTYPES, canvas.shape[1:])
    if not 1 <= n_classes <= np.iinfo(out.dtype).max:
        raise ValueError(f"canvas has {n_classes} classes; {out.dtype} labels hold 1 … {np.iinfo(out.dtype).max}")
    _label_argmax(flat_input(canvas), flat_output("out", out), canvas.shape)


@kernel
def _label_argmax(source_rows, target_rows, shape):  # type: ignore[no-untyped-def]
    (source, source_strides), (target, target_strides) = source_rows, target_rows
    n_classes, height, width = shape
    best = np.empty(_STRIP, np.uint32)  # strips keep the running maximum in the first cache level
    index = np.empty(_STRIP, np.uint32)  # as wide as the maximum: a narrow one halves the vectors
    for i in range(height):
        for x in range(0, width, _STRIP):
            n = min(_STRIP, width - x)
            s = i * source_strides[1] + x
            values = source[s : s + n]
            for j in range(n):
                best[j] = values[j]
                index[j] = np.uint32(0)
            for c in range(1, n_classes):
                label = np.uint32(c)
                s = c * source_strides[0] + i * source_strides[1] + x
                values = source[s : s + n]
                for j in range(n):
                    above = values[j] > best[j]
                    best[j] = values[j] if above else best[j]
                    index[j] = label if above else index[j]
            t = i * target_strides[0] + x
            labels = target[t : t + n]
            for j in range(n):
                labels[j] = index[j]


def label_threshold(canvas: NDArray[np.uint32], threshold: float, out: Labels) -> None:
    """Write 1 where the probability is at least `threshold`, else 0; canvas (1, h, w), out (h, w).

    The threshold is quantised as a probability is: 1 where canvas >= rint(threshold * 65535) * 65536. So a constant
    p >= threshold always gives 1, and p < threshold - 1/65535 always 0. Raises TypeError, ValueError.
    """
    expect("canvas", canvas, (np.uint32,), (1, "h", "w"))
    expect("out", out, LABEL_DTYPES, canvas.shape[1:])
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold {threshold}; it must lie in 0 … 1")
    limit = np.uint32(int(np.rint(threshold * ONE)) * FULL)
    _label_threshold(flat_input(canvas[0]), limit, flat_output("out", out), out.shape)


@kernel
def _label_threshold(source_rows, limit, target_rows, shape):  # type: ignore[no-untyped-def]
    (source, source_strides), (target, target_strides) = source_rows, target_rows
    height, width = shape
    for i in range(height):
        s, t = i * source_strides[0], i * target_strides[0]
        values, labels = source[s : s + width], target[t : t + width]
        for j in range(width):
            labels[j] = values[j] >= limit


def probabilities_uint8(canvas: NDArray[np.uint32], out: NDArray[np.uint8]) -> None:
    """Write probabilities in 0 … 255, the exact quotient rounded half up; both (C, h, w).

    Both may be views with a contiguous last axis. Raises TypeError, ValueError.
    """
    expect("canvas", canvas, (np.uint32,), ("C", "h", "w"))
    expect("out", out, (np.uint8,), canvas.shape)
    _probabilities_uint8(flat_input(canvas), flat_output("out", out), canvas.shape)


@kernel
def _probabilities_uint8(source_rows, target_rows, shape):  # type: ignore[no-untyped-def]
    (source, source_strides), (target, target_strides) = source_rows, target_rows
    n_classes, height, width = shape
    for c in range(n_classes):
        for i in range(height):
            s = c * source_strides[0] + i * source_strides[1]
            t = c * target_strides[0] + i * target_strides[1]
            values, out = source[s : s + width], target[t : t + width]
            for j in range(width):
                # value / (257 * 65536) half up is ((value + 32768) // 65536 + 128) // 257, and that last quotient
                # equals the product below for all 65536 arguments (tested one by one); everything fits 32 bits
                whole = np.uint32(values[j] + np.uint32(32768)) >> np.uint32(16)
                out[j] = np.uint32(whole * np.uint32(255) + np.uint32(32895)) >> np.uint32(16)


def count_labels(labels: Labels, n: int) -> NDArray[np.int64]:
    """Pixels per label 0 … n - 1, int64 (n,); labels of n and above (such as "not analysed") are not counted.

    `labels` (h, w) may be a view. Raises TypeError, ValueError.

    >>> count_labels(np.array([[0, 2, 2, 255]], np.uint8), 3).tolist()
    [1, 0, 2]
    """
    expect("labels", labels, LABEL_DTYPES, ("h", "w"))
    if n < 1:
        raise ValueError(f"n {n}; it must be at least 1")
    counts: NDArray[np.int64] = _count_labels(flat_input(labels), labels.shape, n)
    return counts


@kernel
def _count_labels(source_rows, shape, n):  # type: ignore[no-untyped-def]
    source, source_strides = source_rows
    height, width = shape
    # four tables: neighbours are mostly equal, and adding to one counter four times in a row waits for memory each time
    counts = np.zeros((4, n + 1), np.int64)
    a, b, c, d = counts[0], counts[1], counts[2], counts[3]
    for i in range(height):
        s = i * source_strides[0]
        row = source[s : s + width]
        for x in range(0, width, _COUNTED_AT_ONCE):
            strip = row[x : x + _COUNTED_AT_ONCE]
            m = len(strip)
            first = strip[0]
            differing = first ^ first
            for j in range(m):
                differing |= strip[j] ^ first
            if differing == 0:  # most of a label map
                a[min(np.uint32(first), np.uint32(n))] += m
            elif n <= _COMPARED_ONE_BY_ONE:
                for label in range(n):
                    found = np.uint32(0)
                    for j in range(m):
                        found += np.uint32(np.uint32(strip[j]) == np.uint32(label))
                    a[label] += found
            else:
                for j in range(0, m - 3, 4):
                    a[min(np.uint32(strip[j]), np.uint32(n))] += 1
                    b[min(np.uint32(strip[j + 1]), np.uint32(n))] += 1
                    c[min(np.uint32(strip[j + 2]), np.uint32(n))] += 1
                    d[min(np.uint32(strip[j + 3]), np.uint32(n))] += 1
                for j in range(m - m % 4, m):
                    a[min(np.uint32(strip[j]), np.uint32(n))] += 1
    return counts.sum(axis=0)[:n]
