"""From pyramids to the pixels of a tile: labels by the nearest, slides by area.

Owns which stored level answers and which of its px lies under the centre of a px of the view. Knows no colour.
"""

from __future__ import annotations

from math import ceil, floor
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wsi_seg.geometry import Box
from wsi_seg.output.result_spec import ResultSpec, Thumbnail
from wsi_seg.viewer.grid import ViewBox
from wsi_seg.viewer.sources import LabelSource

if TYPE_CHECKING:
    from wsi_seg.slide import Slide

_EXACT = 1e-6
"""Relative difference below which two scales are the same."""
_MAX_READ_PX = 1 << 26
"""Label px that one tile may take, where the fitting level is not there yet."""
THUMBNAIL_SIDE = 2048
"""Longest side of the picture that the coarsest views are made from, px."""
_READ_SIDE = 4096
"""Of what is read of a slide at once, px."""
_MAX_REDUCTION = 16
"""Px of the slide for one of the view, from which the thumbnail answers if it can."""


def sample_labels(source: LabelSource, view: ViewBox) -> NDArray[Any]:
    """Labels under the centres of the px of a view, (h, w); not analysed beyond the canvas.

    Taken from the coarsest level that is at least as fine as the view: never interpolated.
    Raises CorruptOutputError.
    """
    level = _label_level(source, view)
    spec = source.spec
    labels = np.full(view.box.size, spec.not_analysed, spec.dtype)
    return _placed(spec, level, view, labels, lambda box: source.read(level, box))


def sample_probability(source: LabelSource, view: ViewBox, channel: int) -> NDArray[np.uint8]:
    """Probabilities of a channel under the centres of the px of a view, (h, w) in 1/255; 0 beyond the canvas."""
    level = _label_level(source, view)
    found = np.zeros(view.box.size, np.uint8)
    return _placed(source.spec, level, view, found, lambda box: source.read_probability(level, box, channel))


def _label_level(source: LabelSource, view: ViewBox) -> int:
    """The coarsest level whose px are no larger than those of the view."""
    spec = source.spec
    canvas_px = min(view.downsample * spec.l0_mpp.y / spec.mpp.y, view.downsample * spec.l0_mpp.x / spec.mpp.x)
    fitting = max((n for n in range(spec.layout.n_levels) if 1 << n <= canvas_px * (1 + _EXACT)), default=0)
    level = min(fitting, source.n_levels - 1)
    read_px = view.box.height * view.box.width * (canvas_px / (1 << level)) ** 2
    return level if read_px <= _MAX_READ_PX else fitting


def _placed(spec: ResultSpec, level: int, view: ViewBox, pixels: NDArray[Any], read: Any) -> NDArray[Any]:
    """`pixels` with what is read of a level put where it belongs."""
    rows = _positions(spec, level, 0, (view.box.y0, view.box.y1), view.downsample)
    columns = _positions(spec, level, 1, (view.box.x0, view.box.x1), view.downsample)
    inside_y, inside_x = np.flatnonzero(rows >= 0), np.flatnonzero(columns >= 0)
    if not inside_y.size or not inside_x.size:
        return pixels
    rows, columns = rows[inside_y], columns[inside_x]
    box = Box(int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1)
    found = read(box)[np.ix_(rows - box.y0, columns - box.x0)]
    pixels[inside_y[0] : inside_y[-1] + 1, inside_x[0] : inside_x[-1] + 1] = found
    return pixels


def _positions(spec: ResultSpec, level: int, axis: int, span: tuple[int, int], downsample: int) -> NDArray[np.int64]:
    """Px of a label level under the centre of each px of a span of the view; -1 where there is none."""
    l0_mpp, mpp = ((spec.l0_mpp.y, spec.mpp.y), (spec.l0_mpp.x, spec.mpp.x))[axis]
    l0_centres = (np.arange(*span) + 0.5) * downsample
    centres = (l0_centres - spec.l0_offset[axis]) * (l0_mpp / mpp)
    inside = (centres >= 0) & (centres < spec.layout.size[axis])
    return np.where(inside, np.floor(centres).astype(np.int64) >> level, -1)


class SlidePicture:
    """A slide, read and reduced to the px of views."""

    def __init__(self, slide: Slide) -> None:
        self.slide = slide
        self._lock, self._small = Lock(), None  # made when it is first needed

    _small: SmallPicture | None

    def read(self, view: ViewBox) -> NDArray[np.uint8]:
        """Area averages, (h, w, 3) uint8 RGB. Raises RegionReadError."""
        index = max(
            n
            for n, level in enumerate(self.slide.levels)
            if n == 0 or max(level.downsample) <= view.downsample * (1 + _EXACT)
        )
        exact = [view.downsample / step for step in self.slide.levels[index].downsample]
        if exact[0] * exact[1] > _MAX_REDUCTION and self._thumbnail_serves(view):
            return self._thumbnail().read(view)
        side = max(1, int(_READ_SIDE / max(exact)))
        if max(view.box.size) <= side:
            return self._read(view.box, index, exact)
        # A slide that has no coarser level: the px under one tile would fill the memory.
        pixels = np.empty((*view.box.size, 3), np.uint8)
        for y in range(view.box.y0, view.box.y1, side):
            for x in range(view.box.x0, view.box.x1, side):
                part = Box.at(y, x, side, side).intersect(view.box)
                pixels[part.slices((view.box.y0, view.box.x0))] = self._read(part, index, exact)
        return pixels

    def _read(self, part: Box, index: int, exact: list[float]) -> NDArray[np.uint8]:
        """Px of the view, of `exact` px (y, x) of a level each, (h, w, 3) uint8 RGB."""
        y0, x0, y1, x1 = (edge * exact[n % 2] for n, edge in enumerate((part.y0, part.x0, part.y1, part.x1)))
        box = Box(floor(y0 + _EXACT), floor(x0 + _EXACT), ceil(y1 - _EXACT), ceil(x1 - _EXACT))
        pixels = self.slide.read_region(box, index)
        if box.size == part.size:
            return pixels
        return _reduced(Image.fromarray(pixels), (x0 - box.x0, y0 - box.y0, x1 - box.x0, y1 - box.y0), part.size)

    def _thumbnail_serves(self, view: ViewBox) -> bool:
        """Whether the px of a thumbnail are no larger than those of the view."""
        return max(self.slide.levels[0].size) <= THUMBNAIL_SIDE * view.downsample

    def _thumbnail(self) -> SmallPicture:
        with self._lock:
            if self._small is None:
                self._small = SmallPicture(self.slide.thumbnail(THUMBNAIL_SIDE), self.slide.levels[0].size)
            return self._small


class SmallPicture:
    """A picture of the whole of level 0, which is all there is of a slide that is not here."""

    def __init__(self, pixels: NDArray[np.uint8], l0_size: tuple[float, float]) -> None:
        """`pixels` (h, w, 3) uint8 RGB cover `l0_size` level-0 px (height, width)."""
        self._image = Image.fromarray(pixels)
        self._per_l0 = pixels.shape[0] / l0_size[0], pixels.shape[1] / l0_size[1]

    @classmethod
    def of_result(cls, thumbnail: Thumbnail, spec: ResultSpec) -> SmallPicture:
        """What a result keeps of its slide."""
        height, width = thumbnail.pixels.shape[:2]
        l0_size = height * thumbnail.mpp.y / spec.l0_mpp.y, width * thumbnail.mpp.x / spec.l0_mpp.x
        return cls(thumbnail.pixels, l0_size)

    def read(self, view: ViewBox) -> NDArray[np.uint8]:
        """Area averages; where the view is finer, the picture enlarged, (h, w, 3) uint8 RGB."""
        step_y, step_x = (scale * view.downsample for scale in self._per_l0)
        exact = view.box.x0 * step_x, view.box.y0 * step_y, view.box.x1 * step_x, view.box.y1 * step_y
        if exact[0] >= self._image.width or exact[1] >= self._image.height:
            return np.full((*view.box.size, 3), 255, np.uint8)
        return _reduced(self._image, exact, view.box.size)


Picture = SlidePicture | SmallPicture


def _reduced(image: Image.Image, box: tuple[float, float, float, float], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Area averages of a part (x0, y0, x1, y1) of a picture, at (height, width); enlarged parts are smooth."""
    x0, y0, x1, y1 = box[0], box[1], min(box[2], image.width), min(box[3], image.height)
    smaller = (x1 - x0) * (y1 - y0) >= size[0] * size[1]
    resampling = Image.Resampling.BOX if smaller else Image.Resampling.BILINEAR
    return np.asarray(image.resize((size[1], size[0]), resampling, box=(x0, y0, x1, y1)))
