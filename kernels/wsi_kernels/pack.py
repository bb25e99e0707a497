"""Packing RGB tiles into the float batch a program expects; owns layout and channel order, knows no card."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wsi_kernels.jit import kernel
from wsi_kernels.layout import Flat, expect, flat_input, flat_output

Floats = NDArray[np.float32]


def pack_nchw(batch: NDArray[np.uint8], scale: Floats, shift: Floats, reverse: bool, out: Floats) -> None:
    """Write pixel * scale + shift; (N, H, W, 3) uint8 -> (N, 3, H, W) float32.

    `scale` and `shift` (3,) are in the order of the *output* channels. `reverse`: output is BGR for RGB input. Product
    and sum are rounded to float32 one after the other. Both arrays may be views (the batch of whole pixel rows, else
    it is copied; `out` with a contiguous last axis). Raises TypeError, ValueError.
    """
    _check(batch, scale, shift)
    n, height, width, _ = batch.shape
    expect("out", out, (np.float32,), (n, 3, height, width))
    _pack_nchw(_pixels(batch), batch.shape, (*scale, *shift), reverse, flat_output("out", out))


def pack_nhwc(batch: NDArray[np.uint8], scale: Floats, shift: Floats, reverse: bool, out: Floats) -> None:
    """Write pixel * scale + shift; (N, H, W, 3) uint8 -> (N, H, W, 3) float32, C-contiguous; else as `pack_nchw`."""
    _check(batch, scale, shift)
    expect("out", out, (np.float32,), batch.shape)
    if not out.flags.c_contiguous:
        raise ValueError(f"out has strides {out.strides} bytes; expected a C-contiguous array")
    flat, _ = flat_output("out", out)
    _pack_nhwc(_pixels(batch), batch.shape, (*scale, *shift), reverse, flat)


def _check(batch: NDArray[np.uint8], scale: Floats, shift: Floats) -> None:
    expect("batch", batch, (np.uint8,), ("N", "H", "W", 3))
    expect("scale", scale, (np.float32,), (3,))
    expect("shift", shift, (np.float32,), (3,))


def _pixels(batch: NDArray[np.uint8]) -> Flat:
    flat, strides = flat_input(batch)
    return (flat, strides) if strides[2] == 3 else flat_input(np.ascontiguousarray(batch))


@kernel
def _pack_nchw(source_rows, shape, affine, reverse, target_rows):  # type: ignore[no-untyped-def]
    (source, source_strides), (target, target_strides) = source_rows, target_rows
    n, height, width, _ = shape
    a0, a1, a2, b0, b1, b2 = affine
    first, last = (2, 0) if reverse else (0, 2)
    for k in range(n):
        for i in range(height):
            s = k * source_strides[0] + i * source_strides[1]
            t = k * target_strides[0] + i * target_strides[2]
            pixels = source[s : s + 3 * width]
            green = target[t + target_strides[1] : t + target_strides[1] + width]
            t0, t2 = t + first * target_strides[1], t + last * target_strides[1]
            red, blue = target[t0 : t0 + width], target[t2 : t2 + width]
            if reverse:
                _deinterleave(pixels, (a2, a1, a0), (b2, b1, b0), red, green, blue)
            else:
                _deinterleave(pixels, (a0, a1, a2), (b0, b1, b2), red, green, blue)


@kernel
def _deinterleave(pixels, scale, shift, red, green, blue):  # type: ignore[no-untyped-def]
    for j in range(red.size):
        red[j] = np.float32(pixels[3 * j]) * scale[0] + shift[0]
        green[j] = np.float32(pixels[3 * j + 1]) * scale[1] + shift[1]
        blue[j] = np.float32(pixels[3 * j + 2]) * scale[2] + shift[2]


@kernel
def _pack_nhwc(source_rows, shape, affine, reverse, target):  # type: ignore[no-untyped-def]
    source, source_strides = source_rows
    n, height, width, _ = shape
    a0, a1, a2, b0, b1, b2 = affine
    for k in range(n):
        for i in range(height):
            s = k * source_strides[0] + i * source_strides[1]
            t = (k * height + i) * 3 * width
            pixels, out = source[s : s + 3 * width], target[t : t + 3 * width]
            if reverse:
                for j in range(width):
                    out[3 * j] = np.float32(pixels[3 * j + 2]) * a0 + b0
                    out[3 * j + 1] = np.float32(pixels[3 * j + 1]) * a1 + b1
                    out[3 * j + 2] = np.float32(pixels[3 * j]) * a2 + b2
            else:
                for j in range(width):
                    out[3 * j] = np.float32(pixels[3 * j]) * a0 + b0
                    out[3 * j + 1] = np.float32(pixels[3 * j + 1]) * a1 + b1
                    out[3 * j + 2] = np.float32(pixels[3 * j + 2]) * a2 + b2
