"""Reads OME-Zarr images (0.4 and 0.5) and plain RGB Zarr arrays, in reader processes that a chunk may end.

Owns the limits of what a chunk may take and which files make the slide. The library is `zarr_handle`'s.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsi_seg.errors import RegionReadError
from wsi_seg.geometry import Box, Mpp
from wsi_seg.slide.fingerprint import sampled_sha256
from wsi_seg.slide.limits import checked_levels
from wsi_seg.slide.remote import OPENING_BYTES, Remote
from wsi_seg.slide.resolution import plausible_mpp, stored_levels
from wsi_seg.slide.stored import Description, StoredSlide

_N_SAMPLED_FILES = 64
_METADATA = ("zarr.json", ".zattrs", ".zarray", ".zgroup")
_READING_BYTES = 256 << 20
"""Memory that reading may take, beyond the chunks and pixels in hand."""
_CHUNKS_AT_ONCE = 16
"""Zarr decodes four at a time there, each through a few buffers."""
_PIECE = 2048


class ZarrSlide(StoredSlide):
    """An OME-Zarr image, or a bare (h, w, 3) array, in a folder."""

    reader = "zarr"

    def __init__(self, path: Path, mpp: Mpp | None = None) -> None:
        """Raises SlideOpenError."""
        self._root = path
        self._remote = Remote(path, "zarr", "a slide in a folder is an OME-Zarr image, or a Zarr array of uint8 RGB")
        facts = self._remote.open(OPENING_BYTES)
        sizes = [(int(height), int(width)) for height, width in facts["sizes"]]
        chunks: list[tuple[int, int] | None] = [(int(height), int(width)) for height, width in facts["chunks"]]
        stated = None if facts["mpp"] is None else plausible_mpp(*facts["mpp"])
        self._chunk_bytes = int(facts["chunk_bytes"])
        description = Description(facts["vendor"], stored_levels(*checked_levels(path, sizes, chunks)), stated)
        super().__init__(path, description, mpp)

    def fingerprint(self) -> str:
        """SHA-256 (hex) of all metadata, of the names and sizes of all chunks, and of a sample of their content."""
        files = self.files()
        try:
            listing = "\n".join(f"{file.relative_to(self._root).as_posix()} {file.stat().st_size}" for file in files)
        except OSError as error:
            raise self._unlisted(error) from error
        metadata = [file for file in files if file.name in _METADATA]
        chunks = [file for file in files if file.name not in _METADATA]
        sample = chunks[:: max(1, len(chunks) // _N_SAMPLED_FILES)]
        return sampled_sha256([*metadata, *sample], listing.encode())

    def files(self) -> list[Path]:
        """See `StoredSlide.files`."""
        try:
            return sorted(file for file in self._root.rglob("*") if file.is_file())
        except OSError as error:
            raise self._unlisted(error) from error

    def close(self) -> None:
        """Close the slide in all reader processes."""
        self._remote.close()

    def _unlisted(self, error: OSError) -> RegionReadError:
        return RegionReadError(
            f"{self._root} cannot be read: {error.strerror or error}",
            rule="all files of a slide are listed to tell whether it has changed",
            remedy="check the folder and its permissions",
        )

    def _read_inside(self, out: NDArray[np.uint8], box: Box, level: int) -> None:
        side_y, side_x = (max(_PIECE, side) for side in self.levels[level].tile or (1, 1))
        for y in range(box.y0 // side_y * side_y, box.y1, side_y):
            for x in range(box.x0 // side_x * side_x, box.x1, side_x):
                piece = Box.at(y, x, side_y, side_x).intersect(box)
                out[piece.slices((box.y0, box.x0))] = self._read_piece(piece, level)

    def _read_piece(self, piece: Box, level: int) -> NDArray[np.uint8]:
        pixels = np.empty((*piece.size, 3), np.uint8)
        allowed = _READING_BYTES + _CHUNKS_AT_ONCE * self._chunk_bytes + 4 * pixels.nbytes
        try:
            self._remote.read({"level": level, "box": (piece.y0, piece.x0, piece.y1, piece.x1)}, pixels, allowed)
        except ValueError as error:
            raise self._unreadable(piece, level, error) from error
        return pixels
