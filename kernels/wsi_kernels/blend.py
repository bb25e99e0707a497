"""Blending tiles into a canvas in integers: quantise once, multiply, add.

Owns the arithmetic whose bound is proven in kernels/DESIGN.md; knows no grid and no class.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wsi_kernels.jit import kernel
from wsi_kernels.layout import expect, flat_input, flat_output
from wsi_kernels.window import UNIT

ONE = 65535
"""Quantised probability 1."""
FULL = UNIT * UNIT
"""Sum of the weights over any pixel; a canvas holds probability x ONE x FULL, at most 4294901760 < 2**32."""
_LOW, _HIGH = np.float32(-1e-3), np.float32(1 + 1e-3)


def quantise(probabilities: NDArray[np.float32], out: NDArray[np.uint16]) -> bool:
    """Write rint(p * 65535), clipped to 0 … 65535, half to even, exactly; both (C, H, W).

    Returns False when any value is NaN, infinite or outside [-0.001, 1.001]; `out` is then unspecified.
    `probabilities` may have any strides (copied when its last axis is not contiguous), `out` needs a contiguous last
    axis. Raises TypeError, ValueError.

    >>> out = np.empty((1, 1, 3), np.uint16)
    >>> quantise(np.array([[[0, 0.5, 1.0005]]], np.float32), out), out.tolist()
    (True, [[[0, 32768, 65535]]])
    """
    expect("probabilities", probabilities, (np.float32,), ("C", "H", "W"))
    expect("out", out, (np.uint16,), probabilities.shape)
    return bool(_quantise(flat_input(probabilities), flat_output("out", out), out.shape))


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
                v = p[j]
                bad |= np.uint32(not (_LOW <= v <= _HIGH))  # true for NaN as well
                v = v if v > np.float32(0) else np.float32(0)
                v = v if v < np.float32(1) else np.float32(1)
                out[j] = np.uint16(np.int32(np.rint(np.float64(v) * 65535.0)))  # 24 + 16 bits: exact in float64
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
    expect("canvas", canvas, (np.uint32,), ("C", "h", "w"))
    expect("tile", tile, (np.uint16,), (canvas.shape[0], "H", "W"))
    n_classes, height, width = tile.shape
    for name, weights, size in (("weights_y", weights_y, height), ("weights_x", weights_x, width)):
        expect(name, weights, (np.uint32,), (size,))
        if size and weights.max() > UNIT:
            raise ValueError(f"{name} reach {weights.max()}; they must lie in 0 … {UNIT}")
    y, x = int(y), int(x)  # a NumPy integer would compile the kernel again
    rows = max(0, -y), min(height, canvas.shape[1] - y)
    columns = max(0, -x), min(width, canvas.shape[2] - x)
    axes = flat_input(weights_y)[0], flat_input(weights_x)[0]
    _accumulate(flat_output("canvas", canvas), flat_input(tile), axes, (n_classes, y, x), rows, columns)


@kernel
def _accumulate(target_rows, source_rows, axis_weights, place, rows, columns):  # type: ignore[no-untyped-def]
    (source, source_strides), (target, target_strides) = source_rows, target_rows
    weights_y, weights_x = axis_weights
    n_classes, y, x = place
    j0, j1 = columns
    while j0 < j1 and weights_x[j0] == 0:
        j0 += 1
    while j0 < j1 and weights_x[j1 - 1] == 0:
        j1 -= 1
    n = j1 - j0
    if n <= 0:
        return
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
