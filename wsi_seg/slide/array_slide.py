"""A slide held in memory: for tests, notebooks and pictures that are not files.

Owns nothing but the arrays; every format is somebody else's.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_seg.errors import SlideOpenError
from wsi_seg.geometry import Box, Mpp
from wsi_seg.slide.resolution import as_mpp, stored_levels
from wsi_seg.slide.stored import WHITE, Description, StoredSlide


class ArraySlide(StoredSlide):
    """A slide over (h, w, 3) uint8 RGB arrays, finest level first; the arrays are kept, not copied.

    >>> slide = ArraySlide(np.zeros((40, 30, 3), np.uint8), mpp=0.5)
    >>> slide.mpp, slide.read_region(Box(38, 0, 42, 1), 0)[:, 0, 0].tolist()
    (Mpp(y=0.5, x=0.5), [0, 0, 255, 255])
    """

    reader = "array"

    def __init__(
        self,
        *levels: NDArray[np.uint8],
        mpp: Mpp | float | None = None,
        background: tuple[int, int, int] = WHITE,
    ) -> None:
        """Raises SlideOpenError when an array is not (h, w, 3) uint8 or is empty, UsageError for an absurd `mpp`."""
        if not levels:
            raise SlideOpenError("a slide of no arrays", rule="at least one level")
        for pixels in levels:
            if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8 or not pixels.size:
                raise SlideOpenError(
                    f"an array of shape {pixels.shape} and type {pixels.dtype}", rule="a slide is (h, w, 3) uint8 RGB"
                )
        stored = stored_levels([(int(pixels.shape[0]), int(pixels.shape[1])) for pixels in levels])
        super().__init__(None, Description("array", stored, background=background), as_mpp(mpp))
        self._pixels = levels

    def fingerprint(self) -> str:
        """SHA-256 (hex) of all pixels and their shapes."""
        digest = hashlib.sha256()
        for pixels in self._pixels:
            digest.update(repr(pixels.shape).encode())
            digest.update(np.ascontiguousarray(pixels).data)
        return digest.hexdigest()

    def _read_inside(self, out: NDArray[np.uint8], box: Box, level: int) -> None:
        out[...] = self._pixels[level][box.slices()]

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (self._pixels, self._given_mpp, self.background)


def _rebuild(levels: tuple[NDArray[np.uint8], ...], mpp: Mpp | None, background: tuple[int, int, int]) -> ArraySlide:
    return ArraySlide(*levels, mpp=mpp, background=background)
