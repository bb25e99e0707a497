"""What every reader shares: cutting a box at the slide's edge, background, thumbnail, pickling.

Owns the part of the Slide protocol that no format changes. Knows no format and no library. A reader states its
geometry in `Description` and delivers pixels of boxes inside a level.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from wsi_seg.errors import RegionReadError
from wsi_seg.geometry import Box, Level, Mpp
from wsi_seg.slide.thumbnail import area_thumbnail

WHITE = (255, 255, 255)
"""Background where the file names none."""


@dataclass(frozen=True, slots=True)
class Description:
    """What a reader found in a file's directory."""

    vendor: str
    """Kind of file; see `Slide.vendor`."""
    levels: tuple[Level, ...]
    """Stored resolutions and reductions of them, finest first; the first is stored, and there is one."""
    mpp: Mpp | None = None
    """Resolution of level 0 as the file states it, where that is plausible."""
    background: tuple[int, int, int] = WHITE
    """RGB of what was not scanned."""
    bounds: Box | None = None
    """Scanned region in level-0 px; None: the whole of level 0."""


class StoredSlide(ABC):
    """Base of the readers: the Slide protocol over `_read_inside` and `fingerprint`."""

    reader = ""

    def __init__(self, path: Path | None, description: Description, mpp: Mpp | None) -> None:
        """`mpp`: resolution of level 0 as the user gave it, which wins over the file's."""
        self.path = path
        self.vendor = description.vendor
        self.levels = description.levels
        self.background = description.background
        self._given_mpp = mpp
        self.mpp = mpp or description.mpp
        whole = Box(0, 0, *self.levels[0].size)
        self.bounds = description.bounds.intersect(whole) if description.bounds else whole
        if self.bounds.is_empty:
            self.bounds = whole

    def read_region(self, box: Box, level: int, out: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
        """See `Slide.read_region`."""
        if not 0 <= level < len(self.levels):
            raise self._unreadable(box, level, f"the slide has levels 0 to {len(self.levels) - 1}")
        pixels = np.empty((*box.size, 3), np.uint8) if out is None else out
        if pixels.shape != (*box.size, 3) or pixels.dtype != np.uint8:
            raise ValueError(f"out is {pixels.shape} {pixels.dtype}, the box needs {(*box.size, 3)} uint8")
        inside = box.intersect(Box(0, 0, *self.levels[level].size))
        if not inside.contains(box):
            pixels[...] = self.background
        if not inside.is_empty:
            self._read_inside(pixels[inside.slices((box.y0, box.x0))], inside, level)
        return pixels

    def thumbnail(self, longest_side: int) -> NDArray[np.uint8]:
        """See `Slide.thumbnail`; read from the coarsest level that is at least as large."""
        return area_thumbnail(self.levels, self.read_region, longest_side)

    @abstractmethod
    def fingerprint(self) -> str:
        """See `Slide.fingerprint`."""

    def files(self) -> list[Path]:
        """All files that the slide is made of; empty for a slide in memory."""
        return [] if self.path is None else [self.path]

    def close(self) -> None:  # noqa: B027 - a reader without handles has nothing to close
        """See `Slide.close`."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path, self._given_mpp)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.vendor}, {len(self.levels)} levels, {self.levels[0].size} px>"

    @abstractmethod
    def _read_inside(self, out: NDArray[np.uint8], box: Box, level: int) -> None:
        """Write the pixels of `box`, which lies inside the level and is not empty, to `out`, (h, w, 3), any content."""

    def _unreadable(self, box: Box, level: int, why: object) -> RegionReadError:
        where = self.path or f"the slide in memory ({self.vendor})"
        return RegionReadError(
            f"{where}: level {level}, y {box.y0}-{box.y1}, x {box.x0}-{box.x1} cannot be read: {why}",
            rule="stored pixels are complete and undamaged",
            remedy="compare the file with its source; the rest of the slide can still be read",
        )


def over_background(
    rgba: NDArray[np.uint8], background: tuple[int, int, int], out: NDArray[np.uint8], alpha: str = "straight"
) -> None:
    """Lay (h, w, 4) uint8 pixels over a colour and write (h, w, 3) to `out`; rounds to nearest.

    `alpha`: `straight`, `premultiplied` (colours are multiplied by it already) or `ignored`.

    >>> out = np.empty((1, 2, 3), np.uint8)
    >>> over_background(np.array([[[10, 20, 30, 255], [10, 20, 30, 0]]], np.uint8), (255, 255, 255), out)
    >>> out.tolist()
    [[[10, 20, 30], [255, 255, 255]]]
    """
    weight = rgba[..., 3:]
    if alpha == "ignored" or weight.min(initial=255) == 255:
        out[...] = rgba[..., :3]
        return
    weight = weight.astype(np.uint32)
    colours = rgba[..., :3] * (weight if alpha == "straight" else np.uint32(255))
    mixed = (colours + np.asarray(background, np.uint32) * (255 - weight) + 127) // 255
    out[...] = np.minimum(mixed, 255)
