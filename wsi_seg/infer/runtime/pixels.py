"""Pixels as a program expects them, for runtimes that do not convert in their graph.

Owns the card's affine map, and the element types that programs take.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

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


def pixel_feed(card: ModelCard, element: str) -> Callable[[NDArray[np.uint8]], NDArray[Any]]:
    """What turns a batch (N, H, W, 3) uint8 RGB into the program's input; `element` as ONNX Runtime names it.

    `tensor(uint8)`: pixels as they are, in layout and channel order of the card; `tensor(float16)`: float32, rounded.
    """
    if element == "tensor(uint8)":
        return lambda batch: _raw(batch, card)
    convert = PixelConversion(card)
    if element == "tensor(float16)":
        return lambda batch: convert(batch).astype(np.float16)
    return convert


def _raw(batch: NDArray[np.uint8], card: ModelCard) -> NDArray[np.uint8]:
    ordered = batch[..., ::-1] if card.channels == "BGR" else batch
    return np.ascontiguousarray(ordered.transpose(0, 3, 1, 2) if card.layout == "NCHW" else ordered)
