"""Blending tiles into a canvas in integers: quantise once, multiply, add; or label at once what does not blend.

Owns the arithmetic whose bound is proven in kernels/DESIGN.md; knows no grid and no class names.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from wsi_kernels.jit import kernel
from wsi_kernels.layout import LABEL_DTYPES, Labels, expect, flat_input, flat_output
from wsi_kernels.window import UNIT

ONE = 65535
"""Quantised probability 1."""
FULL = UNIT * UNIT
"""Sum of the weights over any pixel; a canvas holds probability x ONE x FULL, at most 4294901760 < 2**32."""
_STRIP = 1024
_LOW, _HIGH = np.float32(-1e-2), np.float32(1 + 1e-2)  # how far bf16, with 8 bits, rounds a probability


def quantise(probabilities: NDArray[np.float32], out: NDArray[np.uint16]) -> bool:
    """Write rint(p * 65535), clipped to 0 … 65535, half to even, exactly; both (C, H, W).

    Returns False when any value is NaN, infinite or outside [-0.01, 1.01]; `out` is then unspecified.
    `probabilities` may have any strides (copied when its last axis is not contiguous), `out` needs a contiguous last
    axis. Raises TypeError, ValueError.

    >>> out = np.empty((1, 1, 3), np.uint16)
    >>> quantise(np.array([[[0, 0.5, 1.0005]]], np.float32), out), out.tolist()
    (True, [[[0, 32768, 65535]]])
    """
    expect("probabilities", probabilities, (np.float32,), ("C", "H", "W"))
    expect("out", out, (np.uint16,), probabilities.shape)
    return bool(_quantise(flat_input(probabilities), flat_output("out", out), out.shape))


@intrinsic
def _level_of(_, v):  # type: ignore[no-untyped-def]
    """Quantised value of one float32 probability: uint32 rint(v * 65535), half to even, 0 … 65535; NaN becomes 0.

    By one rounding of the exact value: a fused multiply-add rounds once, and beside 1.5 * 2^23 the last bit of a
    float32 is 1, so it rounds to whole numbers, which then stand in the lowest bits. Selections instead of branches,
    and nothing wider than 32 bits: else the loops around it are not made of vectors.
    """

    def code(_context, builder, _signature, arguments):  # type: ignore[no-untyped-def]
        real, whole = ir.FloatType(), ir.IntType(32)
        zero, one = ir.Constant(real, 0.0), ir.Constant(real, 1.0)
        (value,) = arguments
        value = builder.select(builder.fcmp_ordered(">", value, zero), value, zero)
        value = builder.select(builder.fcmp_ordered("<", value, one), value, one)
        shifted = builder.fma(value, ir.Constant(real, float(ONE)), ir.Constant(real, float(3 << 22)))
        return builder.sub(builder.bitcast(shifted, whole), ir.Constant(whole, 0x4B400000))

    return (types.uint32(types.float32), code) if v == types.float32 else None


@kernel
def _or_no_probability(bad, v):  # type: ignore[no-untyped-def]
    """`bad`, or 1 for NaN and what lies outside [-0.01, 1.01]; uint32."""
    return np.uint32(bad | np.uint32(not (_LOW <= v <= _HIGH)))


@kernel
def _quantise(source_rows, target_rows, shape):  # type: ignore[no-untyped-def]
    (source, source_strides), (target, target_strides) = source_rows, target_rows
    n_classes, height, width = shape
    bad = np.uint32(0)
    for c in range(n_classes):
        for i in range(height):
            s = c * source_strides[0] + i * source_strides[1]
            t = c * target_strides[0] + i * target_strides[1]
            p, out = source[s : s + width], target[t : t + width]
            for j in range(width):
                bad = _or_no_probability(bad, p[j])
                out[j] = np.uint16(_level_of(p[j]))
    return bad == 0


def are_probabilities(values: NDArray[np.float32]) -> bool:
    """Whether all of (C, h, w) `values` are finite and within [-0.01, 1.01].

    A view with any strides; copied where its last axis is not contiguous. Raises TypeError.

    >>> are_probabilities(np.array([[[0, 1.005]]], np.float32)), are_probabilities(np.array([[[np.nan]]], np.float32))
    (True, False)
    """
    expect("values", values, (np.float32,), ("C", "h", "w"))
    return bool(_are_probabilities(flat_input(values), values.shape))


@kernel
def _are_probabilities(source_rows, shape):  # type: ignore[no-untyped-def]
    source, source_strides = source_rows
    n_classes, height, width = shape
    bad = np.uint32(0)
    for c in range(n_classes):
        for i in range(height):
            s = c * source_strides[0] + i * source_strides[1]
            p = source[s : s + width]
            for j in range(width):
                bad = _or_no_probability(bad, p[j])
    return bad == 0


def accumulate(
    canvas: NDArray[np.uint32],
    tile: NDArray[np.uint16],
    weights_y: NDArray[np.uint32],
    weights_x: NDArray[np.uint32],
    y: int,
    x: int,
) -> None:
    """Add a weighted tile: canvas[c, y + i, x + j] += tile[c, i, j] * weights_y[i] * weights_x[j].

    `canvas` (C, h, w), `tile` (C, H, W) quantised probabilities, weights 0 … 256 of shape (H,) and (W,); (y, x) is the
    tile's upper left pixel in the canvas, what lies outside is dropped. No overflow as long as the weights over a pixel
    sum to at most 65536. Canvas and tile may be views with a contiguous last axis. Raises TypeError, ValueError.

    >>> canvas = np.zeros((1, 1, 2), np.uint32)
    >>> tile, weights_y, weights_x = np.full((1, 1, 2), 3, np.uint16), np.uint32([256]), np.uint32([1, 2])
    >>> accumulate(canvas, tile, weights_y, weights_x, 0, 1)
    >>> canvas.tolist()
    [[[0, 768]]]
    """
    _check_tile("tile", np.uint16, canvas, tile)
    _accumulate(*_placed(canvas, tile, (weights_y, weights_x), y, x))


def accumulate_probabilities(
    canvas: NDArray[np.uint32],
    probabilities: NDArray[np.float32],
    weights_y: NDArray[np.uint32],
    weights_x: NDArray[np.uint32],
    y: int,
    x: int,
) -> bool:
    """`quantise` and `accumulate` in one pass over memory, to the same bits.

    Returns False, and leaves the canvas as it was, when a value that counts (inside the canvas, between the first and
    the last non-zero weight) is NaN, infinite or outside [-0.01, 1.01]. Arguments and errors as of `accumulate`, with
    float32 `probabilities` (C, H, W).

    >>> canvas = np.zeros((1, 1, 2), np.uint32)
    >>> p, weights_y, weights_x = np.full((1, 1, 2), 1, np.float32), np.uint32([256]), np.uint32([1, 2])
    >>> accumulate_probabilities(canvas, p, weights_y, weights_x, 0, 1), canvas.tolist()
    (True, [[[0, 16776960]]])
    """
    _check_tile("probabilities", np.float32, canvas, probabilities)
    placed = _placed(canvas, probabilities, (weights_y, weights_x), y, x)
    if _accumulate_probabilities(*placed, False):
        return True
    # Sums wrap around exactly, so taking the same values away again restores every bit.
    _accumulate_probabilities(*placed, True)
    return False


def _check_tile(name: str, dtype: type, canvas: NDArray[np.uint32], tile: NDArray[Any]) -> None:
    expect("canvas", canvas, (np.uint32,), ("C", "h", "w"))
    expect(name, tile, (dtype,), (canvas.shape[0], "H", "W"))


def _placed(
    canvas: NDArray[np.uint32],
    tile: NDArray[Any],
    weights: tuple[NDArray[np.uint32], NDArray[np.uint32]],
    y: int,
    x: int,
) -> tuple[Any, ...]:
    """Checked arguments of the kernels below: flat arrays, and the rows and columns of the tile that count."""
    n_classes, *sides = tile.shape
    y, x = int(y), int(x)  # a NumPy integer would compile the kernel again
    ranges = []
    for axis, start in ((0, y), (1, x)):
        name, values = ("weights_y", "weights_x")[axis], weights[axis]
        expect(name, values, (np.uint32,), (sides[axis],))
        if values.size and values.max() > UNIT:
            raise ValueError(f"{name} reach {values.max()}; they must lie in 0 … {UNIT}")
        used = np.flatnonzero(values[max(0, -start) : max(0, min(sides[axis], canvas.shape[axis + 1] - start))])
        first = max(0, -start)
        ranges.append((first + int(used[0]), first + int(used[-1]) + 1) if used.size else (0, 0))
    axes = flat_input(weights[0])[0], flat_input(weights[1])[0]
    return flat_output("canvas", canvas), flat_input(tile), axes, (n_classes, y, x), ranges[0], ranges[1]


@kernel
def _accumulate_probabilities(target_rows, source_rows, axis_weights, place, rows, columns, undo):  # type: ignore[no-untyped-def]
    (source, source_strides), (target, target_strides) = source_rows, target_rows
    weights_y, weights_x = axis_weights
    n_classes, y, x = place
    j0, j1 = columns
    n = j1 - j0
    wx = weights_x[j0:j1]
    weights = np.empty(n, np.uint32)
    bad = np.uint32(0)
    for i in range(rows[0], rows[1]):
        wy = weights_y[i]
        for j in range(n):
            weights[j] = np.uint32(wx[j] * wy)
        for c in range(n_classes):
            s = c * source_strides[0] + i * source_strides[1] + j0
            t = c * target_strides[0] + (y + i) * target_strides[1] + x + j0
            p, canvas = source[s : s + n], target[t : t + n]
            if undo:
                for j in range(n):
                    canvas[j] -= np.uint32(_level_of(p[j]) * weights[j])
            else:
                for j in range(n):
                    bad = _or_no_probability(bad, p[j])
                    canvas[j] += np.uint32(_level_of(p[j]) * weights[j])
    return bad == 0


@kernel
def _accumulate(target_rows, source_rows, axis_weights, place, rows, columns):  # type: ignore[no-untyped-def]
    (source, source_strides), (target, target_strides) = source_rows, target_rows
    weights_y, weights_x = axis_weights
    n_classes, y, x = place
    j0, j1 = columns
    n = j1 - j0
    wx = weights_x[j0:j1]
    weights = np.empty(n, np.uint32)
    for i in range(rows[0], rows[1]):
        wy = weights_y[i]
        if wy == 0:
            continue
        for j in range(n):
            weights[j] = np.uint32(wx[j] * wy)
        for c in range(n_classes):
            s = c * source_strides[0] + i * source_strides[1] + j0
            t = c * target_strides[0] + (y + i) * target_strides[1] + x + j0
            tile, canvas = source[s : s + n], target[t : t + n]
            for j in range(n):
                canvas[j] += np.uint32(np.uint32(tile[j]) * weights[j])


def label_probabilities(probabilities: NDArray[np.float32], threshold: float, out: Labels) -> bool:
    """Label px that have one prediction only, to the bits of `accumulate_probabilities` and a label of the sums.

    Args:
        probabilities: (C, h, w); copied where the last axis is not contiguous.
        threshold: for a single channel, see `label_threshold`; for several the largest class is taken, see
            `label_argmax`.
        out: (h, w), may be a view with a contiguous last axis.

    Returns:
        False when any value is NaN, infinite or outside [-0.01, 1.01]; `out` is then unspecified.

    Raises TypeError, ValueError.

    >>> out = np.empty((1, 2), np.uint8)
    >>> label_probabilities(np.array([[[0.5, 0.2]], [[0.5, 0.8]]], np.float32), 0.5, out), out.tolist()
    (True, [[0, 1]])
    """
    expect("probabilities", probabilities, (np.float32,), ("C", "h", "w"))
    n_classes = probabilities.shape[0]
    expect("out", out, LABEL_DTYPES, probabilities.shape[1:])
    if not 1 <= n_classes <= np.iinfo(out.dtype).max:
        raise ValueError(f"{n_classes} classes; {out.dtype} labels hold 1 … {np.iinfo(out.dtype).max}")
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold {threshold}; it must lie in 0 … 1")
    limit = np.uint32(np.rint(threshold * ONE))
    return bool(_label_probabilities(flat_input(probabilities), limit, flat_output("out", out), probabilities.shape))


@kernel
def _label_probabilities(source_rows, limit, target_rows, shape):  # type: ignore[no-untyped-def]
    (source, source_strides), (target, target_strides) = source_rows, target_rows
    n_classes, height, width = shape
    best = np.empty(_STRIP, np.uint32)
    index = np.empty(_STRIP, np.uint32)
    bad = np.uint32(0)
    for i in range(height):
        for x in range(0, width, _STRIP):
            n = min(_STRIP, width - x)
            s = i * source_strides[1] + x
            p = source[s : s + n]
            for j in range(n):
                bad = _or_no_probability(bad, p[j])
                best[j] = _level_of(p[j])
                index[j] = np.uint32(n_classes == 1) & np.uint32(best[j] >= limit)
            for c in range(1, n_classes):
                label = np.uint32(c)
                s = c * source_strides[0] + i * source_strides[1] + x
                p = source[s : s + n]
                for j in range(n):
                    bad = _or_no_probability(bad, p[j])
                    level = _level_of(p[j])
                    above = level > best[j]
                    best[j] = level if above else best[j]
                    index[j] = label if above else index[j]
            t = i * target_strides[0] + x
            labels = target[t : t + n]
            for j in range(n):
                labels[j] = index[j]
    return bad == 0
