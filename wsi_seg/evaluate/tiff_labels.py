"""Label values of a single-channel TIFF, read by box, and what our own TIFF results say of themselves; owns tifffile.

Reads and decodes only the tiles or strips that a box touches, and keeps those of the last box: a walk in row-major
order decodes each tile about once. Knows no class and no slide.
"""

from __future__ import annotations

from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from wsi_seg.annotation.tiff_result import result_spec
from wsi_seg.errors import EvaluationError, WsiSegError
from wsi_seg.geometry import Box, Mpp

_UM_PER_UNIT = {2: 25_400.0, 3: 10_000.0}
_PLAUSIBLE_UM = (0.02, 100.0)
"""Resolutions that a slide or its label map can have; 72 dpi is a default of image programs, not a measurement."""


class TiffLabels:
    """The first level of a TIFF of integers, one channel."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = Lock()
        self._kept: dict[int, NDArray[np.integer]] = {}
        try:
            # the directory is read here, and no file stays open: tiles are read by their offsets
            with tifffile.TiffFile(path) as file:
                self._page: Any = file.pages.first
                self._tiles = list(zip(self._page.dataoffsets, self._page.databytecounts, strict=True))
                self.spec = result_spec(self._page)
                """What a TIFF result of ours says of classes and place; empty for other files."""
            if self._page.samplesperpixel != 1 or self._page.ndim != 2 or self._page.dtype.kind not in "bui":
                raise EvaluationError(
                    f"{path} holds {self._page.axes} {self._page.shape} of {self._page.dtype}",
                    rule="a label map has one channel of whole numbers",
                )
        except WsiSegError:
            raise
        except Exception as error:  # tifffile raises many kinds for a damaged file
            raise EvaluationError(f"{path} cannot be read as a TIFF: {error}") from error

    @property
    def size(self) -> tuple[int, int]:
        """(height, width), px."""
        height, width = self._page.shape
        return height, width

    @property
    def mpp(self) -> Mpp | None:
        """From the resolution tags, where they are plausible."""
        try:
            per_unit = _UM_PER_UNIT[int(self._page.resolutionunit)]
            x, y = (per_unit / value for value in self._page.resolution)
        except (KeyError, ValueError, ZeroDivisionError, TypeError):
            return None
        low, high = _PLAUSIBLE_UM
        return Mpp(y, x) if low <= y <= high and low <= x <= high else None

    def read(self, box: Box) -> NDArray[np.integer]:
        """Values of a box inside the map, (h, w) of the file's dtype. Raises EvaluationError."""
        found = np.zeros(box.size, self._page.dtype)
        height, width = self._tile
        with self._lock:
            tiles = {}
            for row in range(box.y0 // height, -(-box.y1 // height)):
                for column in range(box.x0 // width, -(-box.x1 // width)):
                    index = row * -(-self.size[1] // width) + column
                    tiles[index] = self._decoded(index)
                    place = Box.at(row * height, column * width, *tiles[index].shape)
                    part = place.intersect(box)
                    found[part.slices((box.y0, box.x0))] = tiles[index][part.slices((place.y0, place.x0))]
            self._kept = tiles
        return found

    @property
    def _tile(self) -> tuple[int, int]:
        page = self._page
        return (
            (page.tilelength, page.tilewidth) if page.is_tiled else (min(page.rowsperstrip, self.size[0]), self.size[1])
        )

    def _decoded(self, index: int) -> NDArray[np.integer]:
        if index in self._kept:
            return self._kept[index]
        page, (offset, n_bytes) = self._page, self._tiles[index]
        if not n_bytes:  # a tile that was never written
            return np.zeros(self._tile, page.dtype)
        try:
            with self._path.open("rb") as file:
                file.seek(offset)
                tile, _, shape = page.decode(file.read(n_bytes), index)
            return np.asarray(tile).reshape(np.asarray(tile).shape[-3:-1])[: shape[-3], : shape[-2]]
        except Exception as error:  # tifffile and its codecs raise many kinds
            raise EvaluationError(f"tile {index} of {self._path} cannot be decoded: {error}") from error
