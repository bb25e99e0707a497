"""Tiles made larger or smaller by a fraction, on a grid that repeats; owns the filter and how far it reaches.

A triangle filter: linear interpolation where the tile grows, and as wide as an output pixel where it shrinks (so that
nothing aliases), rows first, then columns; the border is repeated. With scale p/q, outputs p px apart have the same
weights over inputs q px apart, and every sum runs in a fixed order: a pixel has the same bits in every tile whose
origin is a multiple of q, and what lies in a tile beside it in a batch changes nothing.
"""

from __future__ import annotations

from fractions import Fraction
from functools import cache
from math import ceil, floor
from typing import Any

import numpy as np
from numpy.typing import NDArray


def rescaled_pixels(batch: NDArray[np.uint8], scale: Fraction) -> NDArray[np.uint8]:
    """(N, H, W, 3) uint8 -> (N, H * scale, W * scale, 3) uint8, rounded half up.

    >>> rescaled_pixels(np.array([[[[0], [100]]] * 2], np.uint8), Fraction(2))[0, 0, :, 0].tolist()
    [0, 25, 75, 100]
    """
    resampled = _rescaled(batch, scale, (1, 2))
    resampled += 0.5
    pixels: NDArray[np.uint8] = resampled.astype(np.uint8)  # a mean of 0-255: nothing overflows
    return pixels


def rescaled_maps(maps: NDArray[np.float32], scale: Fraction) -> NDArray[np.float32]:
    """(N, C, H, W) float32 -> (N, C, H * scale, W * scale) float32; means, so probabilities stay such."""
    return _rescaled(maps, scale, (2, 3))


def rescaled_length(length: int, scale: Fraction) -> int:
    """Px of an axis after rescaling; ValueError where that is not whole.

    >>> rescaled_length(512, Fraction(5, 4))
    640
    """
    scaled = length * scale
    if scaled.denominator != 1:
        raise ValueError(f"{length} px times {scale} is not a whole number of px")
    return scaled.numerator


def reach_through(scale: Fraction, halo: int) -> int:
    """Context per side, px of the tile, of a prediction made at `scale` by a network whose own halo is `halo` px.

    What an output px is interpolated from, the halo around that, and what those px were interpolated from, worst phase.

    >>> reach_through(Fraction(1), 20), reach_through(Fraction(1, 2), 20), reach_through(Fraction(2), 20)
    (20, 43, 11)
    """
    if scale == 1:
        return halo
    reach = 0
    for index in range(scale.denominator):  # the phases repeat
        low, high = _support(index, 1 / scale)
        low, high = _support(low - halo, scale)[0], _support(high + halo, scale)[1]
        reach = max(reach, index - low, high - index)
    return reach


def _rescaled(values: NDArray[Any], scale: Fraction, axes: tuple[int, int]) -> NDArray[np.float32]:
    for axis in axes:
        values = _along(values, scale, axis)
    result: NDArray[np.float32] = values
    return result


def _along(values: NDArray[Any], scale: Fraction, axis: int) -> NDArray[np.float32]:
    """One axis, tap by tap: as many sweeps over the output as the filter has taps."""
    indices, weights = _taps(values.shape[axis], scale)
    shape = [1] * values.ndim
    shape[axis] = -1
    total: NDArray[np.float32] | None = None
    for index, weight in zip(indices, weights, strict=True):
        part = values.take(index, axis=axis) * weight.reshape(shape)
        total = part if total is None else np.add(total, part, out=total)
    assert total is not None
    return total


@cache
def _taps(length: int, scale: Fraction) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Inputs (taps, outputs) that each output is made of, and their weights, which sum to 1."""
    n = rescaled_length(length, scale)
    phases = [_filter(phase, scale) for phase in range(scale.numerator)]
    width = max(len(weights) for _, weights in phases)
    indices = np.empty((width, n), np.intp)
    weights = np.zeros((width, n), np.float32)
    for phase, (first, values) in enumerate(phases):
        places = np.arange(phase, n, scale.numerator)
        starts = first + (places - phase) // scale.numerator * scale.denominator
        indices[:, places] = np.clip(starts + np.arange(width)[:, None], 0, length - 1)
        weights[: len(values), places] = np.array(values, np.float32)[:, None]
    return indices, weights


def _filter(index: int, scale: Fraction) -> tuple[int, list[float]]:
    """First input and weights of output `index`."""
    low, high = _support(index, scale)
    centre, half_width = _centre(index, scale), max(Fraction(1), 1 / scale)
    weights = [1 - abs(place - centre) / half_width for place in range(low, high + 1)]
    total = sum(weights)
    return low, [float(weight / total) for weight in weights]


def _support(index: int, scale: Fraction) -> tuple[int, int]:
    """First and last input whose weight in output `index` is above 0."""
    centre, half_width = _centre(index, scale), max(Fraction(1), 1 / scale)
    return floor(centre - half_width) + 1, ceil(centre + half_width) - 1


def _centre(index: int, scale: Fraction) -> Fraction:
    """Where the centre of an output lies, in input px counted from the centre of input 0."""
    return (index + Fraction(1, 2)) / scale - Fraction(1, 2)
