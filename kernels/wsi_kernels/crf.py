"""Mean field of a convolutional CRF: each px listens to those within a radius that look alike, a few times over.

Owns the arithmetic, of which every value is a function of a px' neighbourhood alone (kernels/DESIGN.md, K14): one fixed
order of additions per px, no fused operations, no library exponential. Knows no class name, no threshold and no block.
Teichmann and Cipolla 2018, arXiv:1805.04777; the model is that of Krähenbühl and Koltun 2011, arXiv:1210.5644.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_kernels.jit import kernel
from wsi_kernels.layout import expect

MAX_RADIUS, MAX_WEIGHT = 16, 32.0
FLOOR = np.float32(2.0**-17)
"""Least probability of a class at the start, half a step of the blend: no class is ever impossible."""
_ALIKE = 255  # affinities are stored as 0 … 255
_STRIP = 1024
_TAYLOR = tuple(np.float32(1 / value) for value in (3628800, 362880, 40320, 5040, 720, 120, 24, 6, 2, 1, 1))
"""exp(y) for y in 0 … 1, highest power first; exp(x) is exp(x / 32) ** 32, and x is at most `MAX_WEIGHT`."""


@dataclass(frozen=True, slots=True)
class FieldShape:
    """What the mean field is computed with."""

    radius: int
    """Px along each axis that a px listens to, 1 … 16."""
    iterations: int
    """Steps, at least 1; a px depends on those within `radius * iterations`."""
    colour: float
    """Standard deviation of the Gaussian over the distance of two RGB colours, each channel 0 … 255."""
    weight: float
    """Pull of the neighbours: log odds that a px gains where all around it are alike and of one class, above 0 … 32."""


def mean_field(
    priors: NDArray[np.float32], pixels: NDArray[np.uint8], valid: NDArray[np.bool_], shape: FieldShape
) -> NDArray[np.float32]:
    """Marginals of the classes, float32 (C, h, w), each 0 … 1 with sum 1; 0 where not `valid`.

    In each step Q_c(i) is proportional to prior_c(i) exp(weight sum_j k_ij Q_c(j) / G), summed over the valid px j != i
    within `radius` of i, where k_ij = exp(-|i - j|^2 / 2 s^2) exp(-|colour_i - colour_j|^2 / 2 colour^2) rounded to
    1 / 255, s = radius / 2, and G is the sum of the first factor over a whole window.

    Args:
        priors: (C, h, w) probabilities, at least 0, finite; values below `FLOOR` count as that. At least two classes.
        pixels: RGB (h, w, 3).
        valid: (h, w); px that are not send and receive nothing.
        shape: radius, steps, colour and weight.

    Raises TypeError, ValueError.
    """
    expect("priors", priors, (np.float32,), ("C", "h", "w"))
    n_classes, height, width = priors.shape
    expect("pixels", pixels, (np.uint8,), (height, width, 3))
    expect("valid", valid, (np.bool_,), (height, width))
    _check(n_classes, shape)
    radius = shape.radius
    size = (n_classes, height + 2 * radius, width + 2 * radius)
    taps, nearness, scale = _taps(shape)
    inside = _padded(valid.view(np.uint8), radius)
    alike = np.zeros(len(taps) * inside.size, np.uint8)
    planes = _padded(pixels.transpose(2, 0, 1), radius)
    _affinities(planes, inside, size[1:], taps, nearness, np.float32(0.5 / shape.colour**2), alike)
    start = _padded(np.where(valid, np.maximum(priors, FLOOR), np.float32(0)), radius)
    before, after = start.copy(), np.zeros_like(start)
    _normalise(before, inside, n_classes)
    crowd = np.zeros(inside.size, np.float32)
    _crowds(inside.astype(np.float32), size[1:], taps, alike, crowd)
    for _ in range(shape.iterations):
        _step(start, before, size, (taps, alike, crowd, scale), _TAYLOR, after)
        _normalise(after, inside, n_classes)
        before, after = after, before
    marginals: NDArray[np.float32] = before.reshape(size)[:, radius : radius + height, radius : radius + width]
    return marginals


def _padded(array: NDArray[Any], radius: int) -> NDArray[Any]:
    """Zeros round the last two axes; flat."""
    around = [(0, 0)] * (array.ndim - 2) + [(radius, radius)] * 2
    return np.pad(array, around).ravel()


def _check(n_classes: int, shape: FieldShape) -> None:
    if n_classes < 2:
        raise ValueError(f"priors of {n_classes} class; at least two")
    sound = 1 <= shape.radius <= MAX_RADIUS and shape.iterations >= 1
    if not (sound and 0 < shape.colour < float("inf") and 0 < shape.weight <= MAX_WEIGHT):
        rule = f"radius 1 … {MAX_RADIUS}, iterations at least 1, colour above 0, weight above 0 … {MAX_WEIGHT:g}"
        raise ValueError(f"{shape}; {rule}")


def _taps(shape: FieldShape) -> tuple[NDArray[np.int64], NDArray[np.float32], np.float32]:
    """Offsets (n, 2) of half the window, their nearness 0 … 255, and the weight of a message of unit affinities."""
    reach = range(-shape.radius, shape.radius + 1)
    taps = [(y, x) for y in reach for x in reach if (y, x) > (0, 0)]
    nearness = [exp(-2 * (y * y + x * x) / shape.radius**2) for y, x in taps]
    scale = np.float32(shape.weight / (2 * sum(nearness) * _ALIKE))
    return np.array(taps, np.int64), np.array(nearness, np.float32) * np.float32(_ALIKE), scale


@kernel
def _affinities(pixels, inside, size, taps, nearness, strangeness, alike):  # type: ignore[no-untyped-def]
    """0 … 255 for every px of the padded array and every tap: that px and the one `tap` further on; planes of RGB."""
    radius = -taps[:, 1].min()
    height, width = size
    plane, n = height * width, width - 2 * radius
    for y in range(radius, height - radius):
        s = y * width + radius
        red, green, blue = (
            pixels[s : s + n],
            pixels[plane + s : plane + s + n],
            pixels[2 * plane + s : 2 * plane + s + n],
        )
        here = inside[s : s + n]
        for t in range(len(taps)):
            near = nearness[t]
            o = s + taps[t, 0] * width + taps[t, 1]
            other_red, other_green = pixels[o : o + n], pixels[plane + o : plane + o + n]
            other_blue, there = pixels[2 * plane + o : 2 * plane + o + n], inside[o : o + n]
            out = alike[t * plane + s : t * plane + s + n]
            for x in range(n):
                d_red = np.int32(red[x]) - np.int32(other_red[x])
                d_green = np.int32(green[x]) - np.int32(other_green[x])
                d_blue = np.int32(blue[x]) - np.int32(other_blue[x])
                distance = np.float32(d_red * d_red + d_green * d_green + d_blue * d_blue)
                affinity = near * _decay(distance * strangeness) + np.float32(0.5)
                out[x] = np.uint8(np.int32(affinity)) * (here[x] & there[x])


@kernel
def _decay(x):  # type: ignore[no-untyped-def]
    """exp(-x) for x >= 0, as exp(-x / 16) ** 16; beyond 8, where no affinity is left of it, exp(-8)."""
    y = (x if x < np.float32(8) else np.float32(8)) * np.float32(-1 / 16)
    value = np.float32(1 / 5040)
    value = value * y + np.float32(1 / 720)
    value = value * y + np.float32(1 / 120)
    value = value * y + np.float32(1 / 24)
    value = value * y + np.float32(1 / 6)
    value = value * y + np.float32(1 / 2)
    value = value * y + np.float32(1)
    value = value * y + np.float32(1)
    value = value * value
    value = value * value
    value = value * value
    return value * value


@kernel
def _normalise(q, inside, n_classes):  # type: ignore[no-untyped-def]
    """Make the classes of each valid px sum to 1."""
    n = inside.size
    total = np.empty(_STRIP, np.float32)
    for s in range(0, n, _STRIP):
        m = min(_STRIP, n - s)
        here = inside[s : s + m]
        for x in range(m):
            total[x] = np.float32(0) if here[x] else np.float32(1)
        for c in range(n_classes):
            row = q[c * n + s : c * n + s + m]
            for x in range(m):
                total[x] += row[x]
        for c in range(n_classes):
            row = q[c * n + s : c * n + s + m]
            for x in range(m):
                row[x] = row[x] / total[x]


@kernel
def _step(start, before, size, window, taylor, after):  # type: ignore[no-untyped-def]
    taps, alike, crowd, scale = window
    radius = -taps[:, 1].min()
    n_classes, height, width = size
    plane, n = height * width, width - 2 * radius
    heard, rest = np.empty(n, np.float32), np.empty(n, np.float32)
    for y in range(radius, height - radius):
        s = y * width + radius
        rest[:] = crowd[s : s + n]  # probabilities sum to 1, so class 0 is what the others leave
        for c in range(1, n_classes):
            heard[:] = np.float32(0)
            _listen_row(heard, before[c * plane : c * plane + plane], s, width, taps, alike)
            for x in range(n):
                rest[x] = rest[x] - heard[x]
            at = c * plane + s
            _weigh(heard, start[at : at + n], scale, taylor, after[at : at + n])
        _weigh(rest, start[s : s + n], scale, taylor, after[s : s + n])


@kernel
def _crowds(present, size, taps, alike, crowd):  # type: ignore[no-untyped-def]
    """The sum of the affinities of every px."""
    radius = -taps[:, 1].min()
    height, width = size
    for y in range(radius, height - radius):
        s = y * width + radius
        _listen_row(crowd[s : s + width - 2 * radius], present, s, width, taps, alike)


@kernel
def _listen_row(heard, q, s, width, taps, alike):  # type: ignore[no-untyped-def]
    """Add what every tap says to the px from `s` on."""
    n = heard.size
    for t in range(len(taps)):
        o = taps[t, 0] * width + taps[t, 1]
        k = t * q.size + s
        _listen(heard, (alike[k : k + n], q[s + o : s + o + n]), (alike[k - o : k - o + n], q[s - o : s - o + n]))


@kernel
def _listen(heard, ahead, behind):  # type: ignore[no-untyped-def]
    """Add what the px at a tap, and at the tap opposite, say; for a row."""
    (k, q), (k_opposite, q_opposite) = ahead, behind
    for x in range(heard.size):
        said = np.float32(k[x]) * q[x] + np.float32(k_opposite[x]) * q_opposite[x]
        heard[x] = heard[x] + said


@kernel
def _weigh(heard, start, scale, taylor, out):  # type: ignore[no-untyped-def]
    """Start * exp(scale * heard), by a polynomial and squarings: the same operations for every px of a row."""
    for x in range(heard.size):
        small = heard[x] * scale * np.float32(1 / 32)
        value = taylor[0]
        for n in range(1, 11):
            value = value * small + taylor[n]
        for _ in range(5):
            value = value * value
        out[x] = start[x] * value
