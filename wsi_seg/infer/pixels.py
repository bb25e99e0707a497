"""Pixels as a program expects them, for runtimes that do not convert in their graph; owns the card's affine map."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from wsi_kernels import pack_nchw, pack_nhwc

from wsi_seg.card import ModelCard


class PixelConversion:
    """`(pixel / 255 - mean) / std` as one product and one sum per value, in the card's layout and channel order."""

    def __init__(self, card: ModelCard) -> None:
        mean, std = np.array(card.mean), np.array(card.std)
        self._scale = (1 / (255 * std)).astype(np.float32)
        self._shift = (-mean / std).astype(np.float32)
        self._planar, self._reverse = card.layout == "NCHW", card.channels == "BGR"

    def __call__(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(N, H, W, 3) uint8 RGB -> (N, 3, H, W) or (N, H, W, 3) float32, C-contiguous."""
        count, height, width, _ = batch.shape
        shape = (count, 3, height, width) if self._planar else batch.shape
        out = np.empty(shape, np.float32)
        (pack_nchw if self._planar else pack_nhwc)(batch, self._scale, self._shift, self._reverse, out)
        return out
