"""OpenSlide itself: opens slides and reads regions of them; the only file that knows the library.

Runs in a reader process (`reader_process`), since the library ends the process that gives it a header it cannot bear.
Owns handles, each of which dies for good at its first unreadable tile and is then opened anew, and their cache.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import numpy as np
import openslide
from numpy.typing import NDArray

from wsi_seg.geometry import Box
from wsi_seg.slide.stored import over_background

_KEPT_PROPERTIES = ("openslide.", "hamamatsu.", "dicom.SeriesInstanceUID")
_CACHE_BYTES = 32 << 20
"""Decoded tiles that OpenSlide keeps for all slides of one reader process."""
_KEPT_SLIDES = 2
"""Slides kept open: the one that is read, and the one read before."""


class OpenSlides:
    """Slides held open by name."""

    def __init__(self) -> None:
        self._handles: OrderedDict[str, openslide.OpenSlide] = OrderedDict()
        self._cache = openslide.OpenSlideCache(_CACHE_BYTES)

    def facts(self, name: str, path: str) -> dict[str, Any]:
        """Open a slide, if it is not open, and say what it is. Raises ValueError.

        `properties`: those we use, of which none names a patient; `sizes`: (height, width) of the levels, finest first;
        `per_px`: OpenSlide's downsamples.
        """
        try:
            handle = self._opened(name, path)
            known = handle.properties
            # A damaged header can name a property that has no value.
            properties = {key: known.get(key, "") for key in known if key.startswith(_KEPT_PROPERTIES)}
            sizes = [(int(height), int(width)) for width, height in handle.level_dimensions]
            per_px = [float(value) for value in handle.level_downsamples]
        except (openslide.OpenSlideError, OSError, UnicodeError) as error:
            self.forget(name)
            raise ValueError(str(error)) from error
        return {"properties": properties, "sizes": sizes, "per_px": per_px}

    def read(self, name: str, path: str, asked: Mapping[str, Any]) -> NDArray[np.uint8]:
        """(h, w, 3) uint8 RGB of a region over a background; tried again with a fresh handle. Raises ValueError.

        `asked`: `l0_corner`, `level` and `size` as OpenSlide takes them, x first; `cut`, the box (y0, x0, y1, x1) of
        what is wanted of it; `background`, RGB.
        """
        for attempt in (1, 2):
            try:
                image = self._opened(name, path).read_region(asked["l0_corner"], asked["level"], asked["size"])
                break
            except (openslide.OpenSlideError, OSError, UnicodeError) as error:
                self.forget(name)
                if attempt == 2:
                    raise ValueError(str(error)) from error
        rgba = np.asarray(image)[Box(*asked["cut"]).slices()]
        out = np.empty((*rgba.shape[:2], 3), np.uint8)
        over_background(rgba, tuple(asked["background"]), out)
        return out

    def forget(self, name: str) -> None:
        """Close a slide, if it is open."""
        handle = self._handles.pop(name, None)
        if handle is not None:
            handle.close()

    def _opened(self, name: str, path: str) -> openslide.OpenSlide:
        if name not in self._handles:
            while len(self._handles) >= _KEPT_SLIDES:
                self.forget(next(iter(self._handles)))
            handle = openslide.OpenSlide(path)
            handle.set_cache(self._cache)
            self._handles[name] = handle
        self._handles.move_to_end(name)
        return self._handles[name]
