"""Eosin for images that have none: the tissue of H&E painted around annotated nuclei, as training material.

The stained images of DSB 2018 show nuclei on empty glass: no cytoplasm, no collagen, no red cells, no pigment, no ink.
A model that saw nothing else takes their edges for nuclei. Everything is painted in optical density, outside the
nuclei but for a thin veil, from one random stream per image. Knows no file and no model.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from wsi_seg.model.he_stain import HAEMATOXYLIN

Floats = NDArray[np.float64]
PIGMENTS = ((0.45, 0.6, 0.8), (1.0, 0.4, 0.45), (0.7, 0.7, 0.7))
"""Optical density per channel of brown pigment, teal ink and soot."""


def paint(pixels: NDArray[np.uint8], nuclei: NDArray[np.bool_], random: np.random.Generator) -> NDArray[np.uint8]:
    """`pixels` (h, w, 3) at 0.5 um/px with tissue around `nuclei` (h, w). Same size and dtype."""
    shape = nuclei.shape
    outside = 1 - ndimage.gaussian_filter(nuclei.astype(np.float64), 0.7)
    eosin = _unit((random.uniform(0, 0.25), 1.0, random.uniform(0, 0.7)))
    density = -np.log((pixels + 1.0) / 256)
    amount = _cytoplasm(shape, random) * (outside + (1 - outside) * random.uniform(0, 0.5))
    if random.random() < 0.5:
        fibres = _fibres(shape, random)
        grain = 1 - random.uniform(0, 0.6) * _noise(shape, (5, 5), random)
        amount += outside * fibres * grain * random.uniform(0.3, 1.2)
        clear = (1 - fibres) * outside * random.uniform(0, 1)  # clefts: glass between the fibres
        density, amount = density * (1 - 0.9 * clear[..., None]), amount * (1 - 0.9 * clear)
    if random.random() < 0.3:
        amount += outside * _blobs(shape, 7, 0.72, random) * random.uniform(0.3, 1.2)  # red cells
    density += amount[..., None] * eosin
    if random.random() < 0.4:
        haze = outside * _cloud(shape, (30, 10), 0.5, random) * random.uniform(0, 0.4)
        density += haze[..., None] * _unit(HAEMATOXYLIN)
    if random.random() < 0.25:
        size, most = ((3, 0.8), (22, 0.75))[int(random.random() < 0.4)]
        grains = outside * _blobs(shape, size, most, random) * _blobs(shape, 40, 0.5, random)
        density += grains[..., None] * np.array(PIGMENTS[random.integers(3)]) * random.uniform(0.5, 1.8)
    return np.clip(np.exp(-density) * 256 - 1, 0, 255).round().astype(np.uint8)


def _unit(colour: tuple[float, float, float]) -> Floats:
    return np.array(colour) / np.linalg.norm(colour)


def _cytoplasm(shape: tuple[int, int], random: np.random.Generator) -> Floats:
    """Uneven eosin, with and without grain."""
    even = random.uniform(0, 0.2)
    grain = _noise(shape, (2.5, 2.5), random) * random.uniform(0, 0.3)
    return even + random.uniform(0, 0.8) * _cloud(shape, (36, 14, 5), random.uniform(0.2, 0.6), random) * (1 + grain)


def _fibres(shape: tuple[int, int], random: np.random.Generator) -> Floats:
    """Wavy bands of one direction, 0 … 1, with sharp edges."""
    width = random.uniform(4, 12)
    side = int(np.hypot(*shape)) + 8
    bands = _noise((side, side), (width, width * random.uniform(4, 10)), random)
    bands = ndimage.rotate(bands, random.uniform(0, 180), reshape=False, order=1, mode="reflect")
    y, x = ((side - n) // 2 for n in shape)
    waves = [_noise(shape, (25, 25), random) * 10 for _ in range(2)]
    rows, columns = np.indices(shape)
    bands = ndimage.map_coordinates(bands, [rows + y + waves[0], columns + x + waves[1]], order=1, mode="reflect")
    return np.clip((bands - random.uniform(0.35, 0.6)) * random.uniform(4, 12), 0, 1)


def _blobs(shape: tuple[int, int], size: float, threshold: float, random: np.random.Generator) -> Floats:
    """Round patches about `size` px wide where noise is above a threshold, 0 … 1."""
    return np.clip((_noise(shape, (size, size), random) - threshold) * 10, 0, 1)


def _cloud(shape: tuple[int, int], sizes: tuple[float, ...], threshold: float, random: np.random.Generator) -> Floats:
    """Noise of several sizes, what is below a threshold cut off."""
    weights = [0.7**i for i in range(len(sizes))]
    noises = [weight * _noise(shape, (size, size), random) for weight, size in zip(weights, sizes, strict=True)]
    return np.clip((np.sum(noises, axis=0) / sum(weights) - threshold) * random.uniform(1.5, 4), 0, 1.5)


def _noise(shape: tuple[int, int], spacing: tuple[float, float], random: np.random.Generator) -> Floats:
    """Even random numbers 0 … 1 on a grid, cubic between."""
    grid = random.random([int(n / step) + 5 for n, step in zip(shape, spacing, strict=True)])
    start = random.random(2) + 1
    at = [np.arange(n) / step + s for n, step, s in zip(shape, spacing, start, strict=True)]
    return ndimage.map_coordinates(grid, np.meshgrid(*at, indexing="ij"), order=3, mode="reflect")
