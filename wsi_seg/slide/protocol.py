"""What the rest of the engine may ask of a slide; owns the contract, no implementation."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from wsi_seg.geometry import Box, Level, Mpp


@runtime_checkable
class Slide(Protocol):
    """One opened whole-slide image, read lazily, callable from several threads, pickled by path."""

    @property
    def path(self) -> Path | None:
        """The file or folder it was opened from; None for a slide in memory."""

    @property
    def vendor(self) -> str:
        """Kind of file: `aperio`, `hamamatsu`, `dicom`, `generic-tiff`, `ome-tiff`, `ome-zarr`, `zarr`, `array`, …."""

    @property
    def reader(self) -> str:
        """Which of our readers delivers the pixels: `tiff`, `openslide`, `zarr` or `array`."""

    @property
    def levels(self) -> tuple[Level, ...]:
        """Stored resolutions, finest first; with fast decoding also reductions of them, see `Level.reduction`."""

    @property
    def mpp(self) -> Mpp | None:
        """Resolution of level 0, what the user gave first; None where nobody states a plausible one."""

    @property
    def background(self) -> tuple[int, int, int]:
        """RGB, 0-255, of what was not scanned and of what lies off the slide."""

    @property
    def bounds(self) -> Box:
        """The scanned region in level-0 px; the whole of level 0 where the file does not say."""

    def read_region(self, box: Box, level: int, out: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
        """Pixels of `box`, in px of `level`, as (height, width, 3) uint8 RGB that the caller owns.

        With `out`, of that shape and with contiguous pixels, they are written there and it is returned.

        The box may leave the slide: the background fills. Reading a box whole or in parts gives the same pixels.
        Raises RegionReadError naming the file, the level and the box.
        """

    def thumbnail(self, longest_side: int) -> NDArray[np.uint8]:
        """The whole extent of level 0, reduced by area to `longest_side` px at most, (h, w, 3) uint8 RGB.

        Raises RegionReadError.
        """

    def fingerprint(self) -> str:
        """SHA-256 (hex) of sizes, directories and a sample of the content; the same under another name.

        Raises RegionReadError.
        """

    def close(self) -> None:
        """Let go of every handle; a later read opens them again."""
