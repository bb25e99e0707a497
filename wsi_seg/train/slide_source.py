"""An annotated whole slide as a field: pixels read lazily as the engine reads them, labels drawn where they are asked.

Owns how the annotation's grid lies on the canvas, and the index of a slide too large to label whole. Knows no patch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsi_seg.annotation import open_annotation
from wsi_seg.annotation.protocol import IGNORE, Annotation
from wsi_seg.card import named_classes
from wsi_seg.errors import ConfigError, MissingMppError
from wsi_seg.geometry import Box, ceil_div
from wsi_seg.plan.scale import Scale, choose_scale
from wsi_seg.plan.tissue import tissue_from_thumbnail
from wsi_seg.slide import Slide, open_slide
from wsi_seg.slide.canvas import read_canvas
from wsi_seg.train.config import SlideSource, TrainConfig
from wsi_seg.train.fields import FILL, CellIndex, Pair, cell_side, count_cells, cut

_MAX_SAMPLES = 1 << 26
"""Points of a slide whose label is looked up for the index."""
_STRIP_SAMPLES = 1 << 22
_THUMBNAIL_SIDE = 2048


@dataclass(frozen=True, slots=True)
class SlideLabels:
    """What is known about the labels of a slide."""

    annotation: Annotation | None
    """None: nothing is labelled."""
    n_classes: int
    tissue_only: int | None = None
    """Class of what no polygon covers: outside tissue it does not attract patches."""


class SlideField:
    """A slide on the canvas that the engine would choose for the model; pixels and labels are read when asked for.

    Threads may share it.
    """

    def __init__(self, case: str, slide: Slide, scale: Scale, labels: SlideLabels) -> None:
        self._case, self._slide, self._scale, self._labels = case, slide, scale, labels

    @property
    def name(self) -> str:
        """The slide's file name."""
        return self._slide.path.name if self._slide.path else self._case

    @property
    def case(self) -> str:
        """The patient or case."""
        return self._case

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the canvas."""
        return self._scale.canvas_size

    def read(self, box: Box) -> Pair:
        """Pixels and labels of a box. Raises RegionReadError, AnnotationError."""
        return read_canvas(self._slide, self._scale, box, (FILL,) * 3), self.read_labels(box)

    def read_labels(self, box: Box) -> NDArray[np.uint8]:
        """Labels of a box; beyond the canvas, ignored. Raises AnnotationError."""
        inside = box.intersect(Box(0, 0, *self.size))
        if self._labels.annotation is None or inside.is_empty:
            return np.full(box.size, IGNORE, np.uint8)
        labels = self._labels.annotation.read_labels(inside, self._scale.l0_per_px, self._scale.l0_offset)
        return labels if inside == box else cut(labels, box.shift(-inside.y0, -inside.x0), IGNORE)

    def index(self) -> CellIndex:
        """Where which class lies, from labels at evenly spaced points, which are all px of a small slide.

        Raises AnnotationError, RegionReadError.
        """
        side = cell_side(self.size)
        step = min(side, _sample_step(self.size))
        height, width = (ceil_div(length, step) for length in self.size)
        samples_per_cell = side // step
        strip = samples_per_cell * max(1, _STRIP_SAMPLES // (samples_per_cell * width))
        boxes = [Box(y, 0, min(y + strip, height), width) for y in range(0, height, strip)]
        n_classes = self._labels.n_classes
        counts = np.concatenate(
            [count_cells(self._samples(box, step), samples_per_cell, n_classes) for box in boxes], axis=1
        )
        self._forget_glass(counts, side)
        return CellIndex(side, counts, float(step * step))

    def _samples(self, box: Box, step: int) -> NDArray[np.uint8]:
        """Labels of the grid whose px are `step` canvas px; without annotation everything is class 0."""
        if self._labels.annotation is None:
            return np.zeros(box.size, np.uint8)
        y, x = self._scale.l0_per_px
        return self._labels.annotation.read_labels(box, (y * step, x * step), self._scale.l0_offset)

    def _forget_glass(self, counts: NDArray[np.uint32], side: int) -> None:
        """Set to zero, in place, what cells without tissue have of the class that nobody drew."""
        number = 0 if self._labels.annotation is None else self._labels.tissue_only
        if number is None:
            return
        tissue = tissue_from_thumbnail(self._slide.thumbnail(_THUMBNAIL_SIDE), self._scale, self._slide.levels[0].size)
        rows, columns = (
            np.clip((((np.arange(n) + 0.5) * side - origin) / step).astype(np.intp), 0, length - 1)
            for n, origin, step, length in zip(
                counts.shape[1:], tissue.origin, tissue.step, tissue.mask.shape, strict=True
            )
        )
        inside = tissue.mask[np.ix_(rows, columns)]
        if inside.any():
            counts[number][~inside] = 0


def open_field(source: SlideSource, config: TrainConfig, *, labelled: bool) -> SlideField:
    """The field of a slide. Raises SlideError, ConfigError, AnnotationError, PlanError."""
    classes = [entry.name for entry in named_classes(config.classes)]
    if labelled and source.annotation is None:
        raise ConfigError(f"{source.slide} has no annotation", rule="labelled data is needed here")
    if source.unannotated is not None and source.unannotated not in classes:
        raise ConfigError(f"unannotated {source.unannotated!r} of {source.slide}", rule=f"classes are {classes}")
    slide = open_slide(source.slide, mpp=source.mpp)
    if slide.mpp is None:
        raise MissingMppError(
            f"{source.slide} does not state its resolution", rule="training needs um per px", remedy="give `mpp`"
        )
    scale = choose_scale(slide.levels, slide.mpp, slide.bounds, config.mpp)
    annotation = None if source.annotation is None or not labelled else _annotation(source, slide, classes)
    unannotated = None if source.unannotated is None else classes.index(source.unannotated)
    labels = SlideLabels(annotation, len(classes), unannotated)
    return SlideField(source.case or source.slide.stem, slide, scale, labels)


def _annotation(source: SlideSource, slide: Slide, classes: list[str]) -> Annotation:
    assert source.annotation is not None
    return open_annotation(
        source.annotation,
        classes,
        source.names,
        IGNORE if source.unannotated is None else classes.index(source.unannotated),
        slide.levels[0].size,
        (float(slide.bounds.y0), float(slide.bounds.x0)),
    )


def _sample_step(size: tuple[int, int]) -> int:
    """Canvas px between the points of a slide whose label is looked up for the index, a power of two."""
    step = 1
    while ceil_div(size[0], step) * ceil_div(size[1], step) > _MAX_SAMPLES:
        step *= 2
    return step
