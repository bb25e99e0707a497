"""Reads TIFF slides tile by tile: Aperio SVS, OME-TIFF, generic pyramids, plain TIFFs.

Owns the assembly of a region from tiles, at the speed of the decoder. Knows neither tags nor codecs: the tables say
where tiles are and turn their bytes into pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_seg.errors import SlideOpenError
from wsi_seg.geometry import Box, Level, Mpp, ceil_div
from wsi_seg.slide.byte_file import ByteFile
from wsi_seg.slide.fingerprint import sampled_sha256
from wsi_seg.slide.limits import checked_levels
from wsi_seg.slide.reduced_tiles import ReducedTable, with_reductions
from wsi_seg.slide.resolution import stored_levels
from wsi_seg.slide.stored import Description, StoredSlide, over_background
from wsi_seg.slide.tiff_layout import Place, TiffLayout, TileTable, read_layout

Tables = Sequence[TileTable | ReducedTable]


class TiffSlide(StoredSlide):
    """A TIFF whose pages are plain tiles or strips."""

    reader = "tiff"

    def __init__(
        self, path: Path, mpp: Mpp | None = None, layout: TiffLayout | None = None, decode: str = "exact"
    ) -> None:
        """Open the file.

        Args:
            path: a TIFF.
            mpp: resolution of level 0 as the user gave it.
            layout: the file's directories where they were read already.
            decode: `exact`, or `fast` for levels between the stored ones, see `with_reductions`.

        Raises SlideOpenError.
        """
        layout = layout or read_layout(path)
        if layout.refusal:
            raise SlideOpenError(
                f"{path} cannot be read: {layout.refusal}",
                rule="--reader tiff reads plain tiles",
                remedy="--reader auto",
            )
        self._stored, self._decode = layout.tables, decode
        self._file = ByteFile(path)
        sizes, tiles = [table.size for table in layout.tables], [table.tile for table in layout.tables]
        levels = stored_levels(*checked_levels(path, sizes, list(tiles)))
        self._tables: Tables = self._stored
        if decode == "fast":
            levels, self._tables = self._with_reductions(path, levels)
        bounds = layout.tables[0].scanned
        super().__init__(path, Description(layout.vendor, levels, layout.mpp, bounds=bounds), mpp)

    def _with_reductions(self, path: Path, levels: tuple[Level, ...]) -> tuple[tuple[Level, ...], Tables]:
        try:
            return with_reductions(levels, self._stored, self._file.read)
        except OSError as error:
            raise SlideOpenError(
                f"{path} cannot be read: {error}", rule="its first tiles tell what --decode fast may do",
                remedy="try again, or copy the file",
            ) from error  # fmt: skip

    def fingerprint(self) -> str:
        """SHA-256 (hex) of the tile tables, the file's size and a sample of its bytes."""
        tables = b"".join(table.offsets.tobytes() + table.counts.tobytes() for table in self._stored)
        return sampled_sha256([self._file.path], tables)

    def close(self) -> None:
        """Let go of the descriptor; a later read opens the file again."""
        self._file.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path, self._given_mpp, None, self._decode)

    def _read_inside(self, out: NDArray[np.uint8], box: Box, level: int) -> None:
        table = self._tables[level]
        height, width = table.tile
        columns = range(box.x0 // width, ceil_div(box.x1, width))
        # Plain integers and slices, made once per row: a tile of 256 px is decoded in a tenth of a millisecond.
        across = [_overlap(column * width, width, box.x0, box.x1) for column in columns]
        for row in range(box.y0 // height, ceil_div(box.y1, height)):
            rows = _overlap(row * height, height, box.y0, box.y1)
            for column, place, (part, to) in zip(columns, table.places(row, columns), across, strict=True):
                try:
                    self._paint(out[rows[1], to], table, (row, column), place, (rows[0], part))
                except (ValueError, OSError) as error:
                    raise self._unreadable(box, level, f"tile {row}, {column}: {error}") from error

    def _paint(
        self,
        target: NDArray[np.uint8],
        table: TileTable | ReducedTable,
        at: tuple[int, int],
        place: Place,
        part: tuple[slice, slice],
    ) -> None:
        """Write a part of the tile at (row, column) to `target`; background where none is stored."""
        offsets, counts = place
        if 0 in offsets:
            target[...] = self.background
            return
        if 0 in counts:
            raise ValueError("it has a place in the file and no bytes there")  # not sparse: its encoder failed
        if max(counts) > table.most_bytes(at[0]):
            raise ValueError(f"{max(counts)} bytes are stored for it, more than its pixels could need")
        for plane, (offset, count) in enumerate(zip(offsets, counts, strict=True)):
            pixels = table.pixels(self._file.read(offset, count), *at)[part]
            if len(offsets) > 1:
                target[..., plane] = pixels[..., 0]
            elif pixels.shape[2] == 4:
                over_background(pixels, self.background, target, alpha=table.alpha)
            else:
                target[...] = pixels  # one grey sample spreads over the three channels


def _overlap(start: int, length: int, low: int, high: int) -> tuple[slice, slice]:
    """What [low, high) takes of a tile that begins at `start`, and where in [low, high) that lies."""
    first, last = max(start, low), min(start + length, high)
    return slice(first - start, last - start), slice(first - low, last - low)
