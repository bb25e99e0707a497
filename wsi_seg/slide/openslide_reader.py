"""Reads vendor formats through OpenSlide; the only file that knows it.

Owns OpenSlide's handles (one per process and thread; a handle dies for good at its first unreadable tile and is then
opened anew), its coordinates and its transparency. Knows no other reader.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from math import isnan
from pathlib import Path
from weakref import WeakSet

import numpy as np
import openslide
from numpy.typing import NDArray

from wsi_seg.errors import SlideOpenError
from wsi_seg.geometry import Box, Level, Mpp, align_up
from wsi_seg.slide.fingerprint import sampled_sha256
from wsi_seg.slide.resolution import plausible_mpp, stored_levels
from wsi_seg.slide.stored import WHITE, Description, StoredSlide, over_background

_PIECE = 2048
"""Largest side that is asked of OpenSlide at once; it splits at 4096 px itself, with rounded positions."""
_CELL = 512
"""Smallest side of the cells in which a level with a fractional downsample is read."""
_SUBPIXEL = 1 / 512
"""Offsets below this, in px, vanish in the fixed-point numbers of OpenSlide's renderer."""
_KEPT_PROPERTIES = ("openslide.", "hamamatsu.", "dicom.SeriesInstanceUID")
_CACHE_BYTES = 64 << 20
"""Decoded tiles kept by OpenSlide for all handles of one slide in one process."""


class VendorSlide(StoredSlide):
    """A slide that OpenSlide opens."""

    reader = "openslide"

    def __init__(self, path: Path, mpp: Mpp | None = None) -> None:
        """Raises SlideOpenError."""
        self._handles = _Handles(path)
        properties, sizes, self._per_px = self._handles.facts()
        levels = stored_levels(sizes, [_tile(properties, level) for level in range(len(sizes))])
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
        path = self._handles.path
        return sampled_sha256(_files(path, self.vendor, self._properties))

    def close(self) -> None:
        """Close the handles of all threads of this process."""
        self._handles.close()

    def _read_inside(self, out: NDArray[np.uint8], box: Box, level: int) -> None:
        for piece, anchor in _pieces(box, self.levels[level], self._per_px[level]):
            rgba = self._read_piece(piece, anchor, level)
            over_background(rgba, self.background, out[piece.slices((box.y0, box.x0))])

    def _read_piece(self, piece: Box, anchor: tuple[int, int], level: int) -> NDArray[np.uint8]:
        """RGBA (h, w, 4) of a piece, read from a corner on and cut; tried again with a fresh handle."""
        per_px = self._per_px[level]
        l0_x, l0_y = round(anchor[1] * per_px), round(anchor[0] * per_px)
        size = (piece.x1 - anchor[1], piece.y1 - anchor[0])
        try:
            image = self._handles.read((l0_x, l0_y), level, size)
        except ValueError as error:
            raise self._unreadable(piece, level, error) from error
        return image[piece.slices(anchor)]


class _Handles:
    """OpenSlide handles of one file, one per process and thread, opened when needed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._local = threading.local()
        self._lock = threading.Lock()
        self._start()

    def opened(self) -> openslide.OpenSlide:
        """The handle of this thread. Raises SlideOpenError."""
        if self._pid != os.getpid():
            self._start()
        now = self._pid, self._generation
        generation, handle = getattr(self._local, "handle", (None, None))
        if handle is None or generation != now:
            handle = self._open()
            self._local.handle = now, handle
        return handle

    def facts(self) -> tuple[dict[str, str], list[tuple[int, int]], tuple[float, ...]]:
        """Properties we use, (height, width) of the levels and OpenSlide's downsamples. Raises SlideOpenError."""
        handle = self.opened()
        try:
            known = handle.properties
            # A damaged header can name a property that has no value. Whatever names a patient is not kept.
            properties = {key: known.get(key, "") for key in known if key.startswith(_KEPT_PROPERTIES)}
            sizes = [(int(height), int(width)) for width, height in handle.level_dimensions]
            per_px = tuple(float(value) for value in handle.level_downsamples)
        except openslide.OpenSlideError as error:
            raise self._unopenable(error) from error
        if not sizes or min(min(size) for size in sizes) < 1:
            raise SlideOpenError(f"{self.path} has levels of {sizes} px", rule="a slide has at least one, not empty")
        return properties, sizes, per_px

    def read(self, l0_corner: tuple[int, int], level: int, size: tuple[int, int]) -> NDArray[np.uint8]:
        """RGBA (h, w, 4) of one region in OpenSlide's own (x, y) order. Raises ValueError after a second try."""
        for attempt in (1, 2):
            try:
                return np.asarray(self.opened().read_region(l0_corner, level, size))
            except (openslide.OpenSlideError, SlideOpenError) as error:
                self._drop()
                if attempt == 2:
                    raise ValueError(str(error)) from error
        raise AssertionError("two attempts return or raise")

    def close(self) -> None:
        """Close all handles of this process."""
        with self._lock:
            self._generation += 1
            for handle in list(self._open_handles):
                handle.close()
            self._open_handles.clear()

    def _start(self) -> None:
        """Forget everything: a new object, or a forked child whose parent's handles are not its own."""
        self._pid, self._generation = os.getpid(), 0
        self._inherited = getattr(self, "_open_handles", None)
        self._open_handles: WeakSet[openslide.OpenSlide] = WeakSet()
        self._cache = openslide.OpenSlideCache(_CACHE_BYTES)

    def _open(self) -> openslide.OpenSlide:
        try:
            handle = openslide.OpenSlide(os.fspath(self.path))
            handle.set_cache(self._cache)
        except (openslide.OpenSlideError, OSError, UnicodeError) as error:
            raise self._unopenable(error) from error
        with self._lock:
            self._open_handles.add(handle)
        return handle

    def _unopenable(self, error: Exception) -> SlideOpenError:
        return SlideOpenError(
            f"{self.path} cannot be opened: {error}",
            remedy="check that the copy is complete, or convert it to a tiled TIFF or OME-TIFF",
        )

    def _drop(self) -> None:
        _, handle = getattr(self._local, "handle", (None, None))
        self._local.handle = (None, None)
        # Closing a handle twice is an error, and one that is closed may live on in the traceback of an error kept.
        with self._lock:
            if handle is not None and handle in self._open_handles:
                self._open_handles.discard(handle)
                handle.close()


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
    return (int(height), int(width)) if height and width else None


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
    return Box.at(*(int(value) for value in values)) if not any(map(isnan, values)) else None


def _files(path: Path, vendor: str, properties: Mapping[str, str]) -> list[Path]:
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
