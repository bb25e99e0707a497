"""Reads vendor formats through OpenSlide, in reader processes that it may end.

Owns OpenSlide's coordinates, the properties we use and which files belong to a slide. Knows neither the library itself
(`openslide_handle`) nor the life of the processes (`reading_apart`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import isfinite
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsi_seg.errors import SlideOpenError
from wsi_seg.geometry import Box, Level, Mpp, align_up
from wsi_seg.slide.fingerprint import sampled_sha256
from wsi_seg.slide.limits import checked_levels
from wsi_seg.slide.remote import OPENING_BYTES, Remote
from wsi_seg.slide.resolution import plausible_mpp, stored_levels
from wsi_seg.slide.stored import WHITE, Description, StoredSlide

_PIECE = 2048
"""Largest side that is asked of OpenSlide at once; it splits at 4096 px itself, with rounded positions."""
_CELL = 512
"""Smallest side of the cells in which a level with a fractional downsample is read."""
_SUBPIXEL = 1 / 512
"""Offsets below this, in px, vanish in the fixed-point numbers of OpenSlide's renderer."""
READING_BYTES = 3 << 30
"""Memory that reading a piece may take: a tile of 64 Mpx, the largest there may be, is decoded in less."""


class VendorSlide(StoredSlide):
    """A slide that OpenSlide opens."""

    reader = "openslide"

    def __init__(self, path: Path, mpp: Mpp | None = None) -> None:
        """Raises SlideOpenError."""
        self._remote = Remote(path, "openslide", "a slide is of a format that OpenSlide knows, and complete")
        facts = self._remote.open(OPENING_BYTES)
        properties: dict[str, str] = facts["properties"]
        sizes = [(int(height), int(width)) for height, width in facts["sizes"]]
        self._per_px = [float(value) for value in facts["per_px"]]
        levels = stored_levels(*checked_levels(path, sizes, [_tile(properties, n) for n in range(len(sizes))]))
        if not all(isfinite(value) and value > 0 for value in self._per_px):
            raise SlideOpenError(
                f"{path} has levels reduced by {self._per_px}",
                rule="a level is level 0 or smaller",
                remedy="compare the file with its source",
            )
        description = Description(
            vendor=properties.get("openslide.vendor", "unknown"),
            levels=levels,
            mpp=_mpp(properties),
            background=_background(properties),
            bounds=_bounds(properties),
        )
        super().__init__(path, description, mpp)
        self._properties = properties

    def fingerprint(self) -> str:
        """SHA-256 (hex) of sizes and samples of all files that belong to the slide."""
        return sampled_sha256(self.files())

    def files(self) -> list[Path]:
        """See `StoredSlide.files`."""
        return slide_files(self._remote.path, self.vendor, self._properties)

    def close(self) -> None:
        """Close the slide in all reader processes."""
        self._remote.close()

    def _read_inside(self, out: NDArray[np.uint8], box: Box, level: int) -> None:
        for piece, anchor in _pieces(box, self.levels[level], self._per_px[level]):
            out[piece.slices((box.y0, box.x0))] = self._read_piece(piece, anchor, level)

    def _read_piece(self, piece: Box, anchor: tuple[int, int], level: int) -> NDArray[np.uint8]:
        """RGB (h, w, 3) of a piece, read from a corner on and cut."""
        per_px = self._per_px[level]
        l0_corner = round(anchor[1] * per_px), round(anchor[0] * per_px)
        cut = piece.shift(-anchor[0], -anchor[1])
        asked = {
            "l0_corner": l0_corner,
            "level": level,
            "size": (cut.x1, cut.y1),
            "cut": (cut.y0, cut.x0, cut.y1, cut.x1),
            "background": self.background,
        }
        pixels = np.empty((*piece.size, 3), np.uint8)
        try:
            self._remote.read(asked, pixels, READING_BYTES)
        except ValueError as error:
            raise self._unreadable(piece, level, error) from error
        return pixels


def _pieces(box: Box, level: Level, per_px: float) -> Iterator[tuple[Box, tuple[int, int]]]:
    """Cut a box into what is asked of OpenSlide: pieces and the px of the level from which each is read.

    OpenSlide takes level-0 coordinates, whole numbers, and interpolates where they are not whole px of the level. With
    a whole downsample every px can be addressed. With a fractional one the level is read in fixed cells, each from its
    own corner (off by at most half a level-0 px), so that a px has one value however it is asked for.
    """
    exact = abs(per_px - round(per_px)) / per_px * max(level.size) < _SUBPIXEL
    tile = level.tile or (1, 1)
    step_y, step_x = (_PIECE, _PIECE) if exact else (align_up(_CELL, tile[0]), align_up(_CELL, tile[1]))
    start_y, start_x = (box.y0, box.x0) if exact else (box.y0 // step_y * step_y, box.x0 // step_x * step_x)
    for y in range(start_y, box.y1, step_y):
        for x in range(start_x, box.x1, step_x):
            piece = Box.at(y, x, step_y, step_x).intersect(box)
            yield piece, (y, x)


def _tile(properties: Mapping[str, str], level: int) -> tuple[int, int] | None:
    prefix = f"openslide.level[{level}].tile-"
    height, width = properties.get(f"{prefix}height"), properties.get(f"{prefix}width")
    return (int(height), int(width)) if height and width and height.isdigit() and width.isdigit() else None


def _number(properties: Mapping[str, str], key: str) -> float:
    try:
        return float(properties.get(key, "nan"))
    except ValueError:
        return float("nan")


def _mpp(properties: Mapping[str, str]) -> Mpp | None:
    return plausible_mpp(_number(properties, "openslide.mpp-y"), _number(properties, "openslide.mpp-x"))


def _background(properties: Mapping[str, str]) -> tuple[int, int, int]:
    try:
        red, green, blue = bytes.fromhex(properties.get("openslide.background-color", ""))
    except ValueError:
        return WHITE
    return red, green, blue


def _bounds(properties: Mapping[str, str]) -> Box | None:
    values = [_number(properties, f"openslide.bounds-{side}") for side in ("y", "x", "height", "width")]
    return Box.at(*(int(value) for value in values)) if all(map(isfinite, values)) else None


def slide_files(path: Path, vendor: str, properties: Mapping[str, str]) -> list[Path]:
    """All files of the slide: OpenSlide does not list them."""
    if vendor == "mirax":
        return [path, *sorted(file for file in path.with_suffix("").rglob("*") if file.is_file())]
    if vendor == "dicom":
        return _dicom_series(path, properties.get("dicom.SeriesInstanceUID", ""))
    if path.suffix.lower() in (".vms", ".vmu"):
        named = (path.parent / value for key, value in properties.items() if key.startswith("hamamatsu."))
        return [path, *sorted({file for file in named if len(file.name) < 256 and file.is_file()} - {path})]
    return [path]


def _dicom_series(path: Path, series: str) -> list[Path]:
    """Files of the folder that carry the series' UID in their header, explicit little endian as WSI requires."""
    padded = series.encode() + b"\0" * (len(series) % 2)
    element = b"\x20\x00\x0e\x00UI" + len(padded).to_bytes(2, "little") + padded
    found = []
    for file in path.parent.iterdir():
        if file.is_file():
            with file.open("rb") as stream:
                head = stream.read(64 << 10)
            if head[128:132] == b"DICM" and element in head:
                found.append((head, file))
    return [file for _, file in sorted(found)] or [path]
