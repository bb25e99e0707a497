"""Resampling by area on a global phase; owns the footprint of an output pixel, knows no slide and no level.

Output pixel (Y, X) is the mean of the level pixels in [Y fy, (Y + 1) fy) x [X fx, (X + 1) fx), each weighted by the
part of it inside. Footprints follow from the global indices alone and every sum runs in a fixed order, so a pixel comes
out bit for bit the same from whichever cut it is computed.
"""

from __future__ import annotations

from math import ceil, floor, isfinite

import numpy as np
from numpy.typing import NDArray

from wsi_kernels.jit import kernel
from wsi_kernels.layout import expect, flat_input

Bounds = tuple[int, int, int, int]
"""(y0, x0, y1, x1), half-open."""
_SNAP = 1e-6
"""A footprint's end this close to a level pixel's edge lies on it, in px: factors carry rounding errors."""
_FACTORS = (1 / 256, 256.0)


def area_source_box(out_box: Bounds, factor: tuple[float, float]) -> Bounds:
    """Level px that `area_resample` needs for `out_box` (canvas px); `factor` is level px per canvas px, (y, x).

    Raises ValueError.

    >>> area_source_box((1, 1, 3, 3), (2.0, 1.5))
    (2, 1, 6, 5)
    """
    _check(out_box, factor)
    y0, y1 = _span(out_box[0], out_box[2], factor[0])
    x0, x1 = _span(out_box[1], out_box[3], factor[1])
    return y0, x0, y1, x1


def area_resample(
    source: NDArray[np.uint8], source_origin: tuple[int, int], factor: tuple[float, float], out_box: Bounds
) -> NDArray[np.uint8]:
    """Area means of an RGB region, rounded half up; (h, w, 3) uint8 -> (oh, ow, 3) uint8.

    `source` holds level px from `source_origin` (y, x) on and must cover `area_source_box(out_box, factor)`; it may
    be a view. `factor` is level px per canvas px, (y, x), 1/256 … 256; below 1 it enlarges. `out_box` is in canvas px.
    The sums are float32: exact where the factors are powers of two, else, before rounding, off by at most
    255 * (fy + fx + 8) / 2**24. Raises TypeError, ValueError.

    >>> source = np.array([[[0] * 3, [1] * 3, [9] * 3]], np.uint8)
    >>> area_resample(source, (0, 0), (1, 1.5), (0, 0, 1, 2))[0, :, 0].tolist()
    [0, 6]
    """
    expect("source", source, (np.uint8,), ("h", "w", 3))
    needed = area_source_box(out_box, factor)
    y, x = source_origin
    height, width = source.shape[:2]
    if needed[0] < y or needed[1] < x or needed[2] > y + height or needed[3] > x + width:
        covered = (y, x, y + height, x + width)
        raise ValueError(f"source covers level px {covered}, but out_box {out_box} at factor {factor} needs {needed}")
    if factor == (1, 1):
        return source[needed[0] - y : needed[2] - y, needed[1] - x : needed[3] - x].copy()
    out = np.empty((max(0, out_box[2] - out_box[0]), max(0, out_box[3] - out_box[1]), 3), np.uint8)
    if out.size:
        rows = _footprints(out_box[0], out_box[2], factor[0])
        starts, weights = _footprints(out_box[1], out_box[3], factor[1])
        columns = (3 * starts[:, None] + np.arange(3, dtype=np.uint32)).reshape(-1), np.repeat(weights, 3, axis=1)
        region = source[needed[0] - y : needed[2] - y, needed[1] - x : needed[3] - x]
        flat, (stride, pixel) = flat_input(region)
        if pixel != 3:
            flat, (stride, _) = flat_input(np.ascontiguousarray(region))
        size = region.shape[0], 3 * region.shape[1]
        _area_resample(flat, stride, size, rows, columns, out.reshape(len(out), -1))
    return out


def _check(out_box: Bounds, factor: tuple[float, float]) -> None:
    low, high = _FACTORS
    if not all(isfinite(f) and low <= f <= high for f in factor):
        raise ValueError(f"factor {factor}; both must lie in {low} … {high}")
    if max(abs(edge) for edge in out_box) > 2**31:
        raise ValueError(f"out_box {out_box}; px must lie within ±2**31")


def _edge(index: int, factor: float) -> float:
    """Start of the footprint of output pixel `index`, level px."""
    edge = index * factor
    return float(round(edge)) if abs(edge - round(edge)) < _SNAP else edge


def _span(start: int, stop: int, factor: float) -> tuple[int, int]:
    """Level px [first, end) under output pixels [start, stop)."""
    first = floor(_edge(start, factor))
    return first, max(first, ceil(_edge(stop, factor))) if stop > start else first


def _footprints(start: int, stop: int, factor: float) -> tuple[NDArray[np.uint32], NDArray[np.float32]]:
    """First level px of each output pixel, relative to the span, and the weights (taps, n) that sum to 1.

    Taps beyond a footprint weigh exactly 0: adding them changes no bit, so their number may depend on the cut.
    """
    edges = np.array([_edge(index, factor) for index in range(start, stop + 1)])
    low, high = edges[:-1, None], edges[1:, None]
    first = np.floor(low)
    pixel = first + np.arange(ceil(factor) + 1)
    inside = np.clip(np.minimum(high, pixel + 1) - np.maximum(low, pixel), 0, None)
    weights = np.ascontiguousarray((inside / (high - low)).T, np.float32)
    weights = weights[: np.flatnonzero(weights.any(axis=1))[-1] + 1]
    return (first[:, 0] - first[0, 0]).astype(np.uint32), weights


@kernel
def _area_resample(source, stride, size, rows, columns, out):  # type: ignore[no-untyped-def]
    height, width = size
    row_starts, row_weights = rows
    starts, weights = columns
    n = out.shape[1]
    column_sums = np.zeros(width + 3 * weights.shape[0], np.float32)  # zeros at the end for taps of weight 0
    sums = np.empty(n, np.float32)
    for i in range(out.shape[0]):
        column_sums[:] = 0
        for tap in range(row_weights.shape[0]):
            weight = row_weights[tap, i]
            r = np.int64(row_starts[i]) + tap
            if weight > 0 and r < height:
                _add_row(source[r * stride : r * stride + width], weight, column_sums)
        sums[:] = 0
        for tap in range(weights.shape[0]):
            _add_taps(column_sums[3 * tap :], starts, weights[tap], sums)
        row = out[i]
        for k in range(n):
            row[k] = np.uint8(np.int32(sums[k] + np.float32(0.5)))


@kernel
def _add_row(pixels, weight, sums):  # type: ignore[no-untyped-def]
    for k in range(pixels.size):
        sums[k] += np.float32(pixels[k]) * weight


@kernel
def _add_taps(columns, starts, weights, sums):  # type: ignore[no-untyped-def]
    for k in range(sums.size):
        sums[k] += columns[starts[k]] * weights[k]
