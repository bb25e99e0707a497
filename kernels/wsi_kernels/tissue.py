"""Where a thumbnail shows tissue; owns thresholds, knows no slide and no tile.

Meant for stained tissue on bright glass. Errs on the side of too much: a tile analysed for nothing costs time, a tile
left out costs a finding. So coloured pen marks and coverslip edges count as tissue, and so does grey or black ink that
is not as dark as scanner fill. Pixels as dark as scanner fill (black borders, the ground of fluorescence) never do.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wsi_kernels.layout import expect

BLACK = 16
"""Pixels whose brightest channel is below this are scanner fill, not tissue (lossy compression leaves it near 0)."""
CHROMA_BOUNDS = (12, 24)
"""Bounds of the threshold on max - min of RGB; glass stays below the lower, stained tissue mostly above the upper."""
DENSITY_BOUNDS = (0.08, 0.18)
"""Bounds of the threshold on optical density, -log10(darkest channel / glass)."""
GLASS_FLOOR = 200
"""Glass is taken to be at least this bright, so that a slide full of tissue is not its own reference."""
_DENSITY_STEPS = 100


def otsu_threshold(histogram: NDArray[np.int64]) -> int:
    """Threshold 0 … 255 such that "above" and "not above" have the largest variance between them; int64 (256,).

    The lowest of equals; the occupied bin where there is only one, 0 for an empty histogram.
    Raises TypeError, ValueError.
    Source: Otsu 1979, doi:10.1109/TSMC.1979.4310076.

    >>> histogram = np.zeros(256, np.int64)
    >>> histogram[[10, 11, 200]] = 5, 5, 10
    >>> otsu_threshold(histogram)
    11
    """
    expect("histogram", histogram, (np.int64,), (256,))
    if (histogram < 0).any():
        raise ValueError(f"histogram holds {histogram.min()}; counts are 0 or more")
    if (n := int(histogram.sum())) == 0:
        return 0
    total = int(histogram @ np.arange(256))
    low = low_sum = 0
    best, best_scale, threshold = 0, 1, int(np.flatnonzero(histogram)[0])
    for value, count in enumerate(histogram.tolist()):  # in integers, so that equals are equal
        low, low_sum = low + count, low_sum + count * value
        between, scale = (low_sum * n - total * low) ** 2, low * (n - low)
        if scale and between * best_scale > best * scale:
            best, best_scale, threshold = between, scale, value
    return threshold


def tissue_mask(thumbnail: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Tissue of an RGB thumbnail, (h, w, 3) uint8 -> bool (h, w).

    Tissue is more colourful or denser than two Otsu thresholds, each kept in bounds so that bare glass gives none and
    a slide full of tissue is not split; density is relative to the glass, the brightest hundredth of the thumbnail.
    Then a 3 x 3 vote (holes with 5 of 9 set around them close, specks with fewer than 3 of 9 go, lines stay) and a
    dilation by one pixel. Raises TypeError, ValueError.
    """
    expect("thumbnail", thumbnail, (np.uint8,), ("h", "w", 3))
    red, green, blue = (np.ascontiguousarray(thumbnail[:, :, channel]) for channel in range(3))
    brightest, darkest = np.maximum(np.maximum(red, green), blue), np.minimum(np.minimum(red, green), blue)
    lit = brightest >= BLACK
    chroma = brightest - darkest
    density = _density(darkest, lit)
    low, high = (round(bound * _DENSITY_STEPS) for bound in DENSITY_BOUNDS)
    mask = (chroma > _threshold(chroma[lit], *CHROMA_BOUNDS)) | (density > _threshold(density[lit], low, high))
    mask &= lit
    votes = _votes(mask)
    mask = np.where(mask, votes >= 3, votes >= 5)
    return np.asarray(_votes(mask) > 0, np.bool_)


def _density(darkest: NDArray[np.uint8], lit: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Optical density relative to glass in hundredths, uint8 (h, w)."""
    glass = max(GLASS_FLOOR, np.percentile(darkest[lit], 99)) if lit.any() else GLASS_FLOOR
    steps = np.rint(-_DENSITY_STEPS * np.log10(np.maximum(np.arange(256), 1) / glass))
    table: NDArray[np.uint8] = np.clip(steps, 0, 255).astype(np.uint8)
    return table.take(darkest)


def _threshold(values: NDArray[np.uint8], low: int, high: int) -> int:
    histogram = np.bincount(values, minlength=256).astype(np.int64)
    return min(max(otsu_threshold(histogram), low), high)


def _votes(mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Set pixels in each 3 x 3, uint8 (h, w); beyond the border none are set."""
    padded = np.pad(mask.view(np.uint8), 1)
    rows = padded[:-2] + padded[1:-1] + padded[2:]
    votes: NDArray[np.uint8] = rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]
    return votes
