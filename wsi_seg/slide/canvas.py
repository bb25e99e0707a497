"""Canvas pixels of a slide: a stored level read within the slide, padded beyond it, resampled on the global phase.

Owns what a model sees of a slide, in training and at work alike. Knows no plan: where the canvas lies is told by the
few properties of `CanvasGrid`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from wsi_seg.geometry import Box

if TYPE_CHECKING:
    from wsi_seg.slide.protocol import Slide

Rgb = tuple[int, int, int]


class CanvasGrid(Protocol):
    """How the canvas lies on a stored level; `wsi_seg.plan.Scale` is one."""

    @property
    def level(self) -> int:
        """Index of the stored level that is read."""

    @property
    def factor(self) -> tuple[float, float]:
        """Level px per canvas px, (y, x)."""

    @property
    def level_origin(self) -> tuple[int, int]:
        """Level px (y, x) of the canvas' upper left corner."""

    @property
    def is_native(self) -> bool:
        """True when canvas pixels are level pixels."""

    def level_box(self, box: Box) -> Box:
        """Level px that the canvas px of `box` need; may leave the slide."""


def read_canvas(slide: Slide, grid: CanvasGrid, box: Box, fill: Rgb) -> NDArray[np.uint8]:
    """One canvas box as uint8 RGB (h, w, 3), read on its own; `fill` beyond the slide. Raises RegionReadError."""
    area = grid.level_box(box)
    return canvas_pixels(grid, read_level(slide, grid.level, area, fill), area, box)


def read_level(
    slide: Slide, level: int, area: Box, fill: Rgb, out: NDArray[np.uint8] | None = None
) -> NDArray[np.uint8]:
    """Level pixels of `area`; beyond the slide the padding that the model was trained with, not the reader's.

    Raises RegionReadError.
    """
    inside = area.intersect(Box(0, 0, *slide.levels[level].size))
    if inside == area:
        return slide.read_region(area, level, out)
    pixels = np.empty((*area.size, 3), np.uint8) if out is None else out
    if inside.is_empty:
        pixels[:] = fill
        return pixels
    y, x = inside.slices((area.y0, area.x0))
    # Only the margins: writing a colour over rows that are read anyway costs as much as decoding them.
    pixels[: y.start] = pixels[y.stop :] = pixels[y, : x.start] = pixels[y, x.stop :] = fill
    slide.read_region(inside, level, pixels[y, x])
    return pixels


def canvas_pixels(grid: CanvasGrid, pixels: NDArray[np.uint8], area: Box, wanted: Box) -> NDArray[np.uint8]:
    """Level pixels of `area` as the canvas pixels of `wanted`; the same array where canvas and level coincide."""
    if grid.is_native:
        return pixels
    from wsi_kernels import area_resample

    y, x = grid.level_origin
    out: NDArray[np.uint8] = area_resample(
        np.ascontiguousarray(pixels),
        (area.y0 - y, area.x0 - x),
        grid.factor,
        (wanted.y0, wanted.x0, wanted.y1, wanted.x1),
    )
    return out
