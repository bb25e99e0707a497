"""The 1-D weight window of a tile: an exact integer partition of 256; owns its shapes, knows no pixel."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

UNIT = 256
"""Sum of the weights that tiles give a pixel along one axis."""
KINDS = ("linear", "cosine", "gaussian", "crop")
"""Ramps that `axis_window` knows."""
_SIGMA = 1 / 8
"""Standard deviation of the Gaussian in tile sizes, as in nnU-Net."""


def axis_window(tile: int, overlap: int, kind: str, margin: int = 0, *, first: bool, last: bool) -> NDArray[np.uint32]:
    """Weights 0 … 256 of the pixels of a tile along one axis, uint32 (tile,).

    Over an overlap the trailing ramp of a tile and the leading ramp of the next sum to 256 in every pixel, so the
    weights of all tiles sum to 256 everywhere. Leading ramps never fall, trailing ramps never rise.

    `overlap` px at each end are ramps. `margin` px at the outer end of each ramp weigh 0, the neighbour's there 256.
    `kind`: `linear`; `cosine` (squared sine); `gaussian` (Gaussians of standard deviation tile / 8 centred in both
    tiles, normalised to sum 1: doi:10.1038/s41592-020-01008-z); `crop` (one owner: 0 in the first overlap // 2 px,
    then 256).
    `first` and `last`: no neighbour before or after, the weight there is 256 up to the tile's end.
    Raises ValueError.

    >>> axis_window(8, 4, "linear", first=False, last=False).tolist()
    [32, 96, 160, 224, 224, 160, 96, 32]
    >>> axis_window(8, 4, "crop", first=True, last=False).tolist()
    [256, 256, 256, 256, 256, 256, 0, 0]
    """
    if tile < 1 or not 0 <= overlap <= tile // 2:
        raise ValueError(f"overlap {overlap} of tile {tile}; it must lie in 0 … tile // 2")
    if margin < 0 or 2 * margin > overlap:
        raise ValueError(f"margin {margin} of overlap {overlap}; it must lie in 0 … overlap / 2")
    if kind not in KINDS:
        raise ValueError(f"window {kind!r}; it must be one of {KINDS}")
    weights = np.full(tile, UNIT, np.uint32)
    leading = _leading(tile, overlap, kind, margin)
    if not first:
        weights[:overlap] = leading
    if not last:
        weights[tile - overlap :] = UNIT - leading
    return weights


def _leading(tile: int, overlap: int, kind: str, margin: int) -> NDArray[np.uint32]:
    """The leading ramp, uint32 (overlap,)."""
    ramp = np.zeros(overlap, np.uint32)
    ramp[overlap - margin :] = UNIT
    if kind == "crop":
        ramp[overlap // 2 :] = UNIT
    else:
        ramp[margin : overlap - margin] = _smooth(overlap - 2 * margin, kind, tile, overlap)
    return ramp


def _smooth(length: int, kind: str, tile: int, overlap: int) -> NDArray[np.uint32]:
    """A ramp of `length` px from the formula's first half and its mirror image, so that ramp + reversed ramp = 256."""
    offset = np.arange((length + 1) // 2) + 0.5  # pixel centres
    if kind == "linear":
        share = offset / length
    elif kind == "cosine":
        share = np.sin(np.pi / 2 * offset / length) ** 2
    else:  # the quotient g / (g + g') of two Gaussians one stride apart is a logistic curve
        stride, sigma = tile - overlap, _SIGMA * tile
        share = 1 / (1 + np.exp(stride * (length / 2 - offset) / sigma**2))
    half = np.rint(UNIT * share).astype(np.uint32)
    return np.concatenate([half, UNIT - half[: length // 2][::-1]])
