"""An annotated whole slide as a field: pixels read lazily as the engine reads them, labels drawn where they are asked.

Owns how the annotation's grid lies on the canvas, and the index of a slide too large to label whole. Knows no patch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from wsi_seg.annotation import open_annotation
from wsi_seg.annotation.protocol import IGNORE, Annotation
from wsi_seg.card import named_classes
from wsi_seg.errors import ConfigError, MissingMppError
from wsi_seg.geometry import Box, ceil_div
from wsi_seg.plan.scale import Scale, choose_scale
from wsi_seg.plan.tissue import TissueMask, tissue_from_thumbnail
from wsi_seg.slide import Slide, open_slide
from wsi_seg.slide.canvas import read_canvas
from wsi_seg.train.config import SlideSource, TrainConfig
from wsi_seg.train.source.fields import FILL, CellIndex, Pair, cell_side, count_cells, cut

_MAX_SAMPLES = 1 << 26
"""Points of a slide whose label is looked up for the index."""
_STRIP_SAMPLES = 1 << 22
_THUMBNAIL_SIDE = 2048
_UNDRAWN = 254
"""What annotations answer where no polygon lies, to be told from a polygon that says `ignore`."""


@dataclass(frozen=True, slots=True)
class SlideLabels:
    """What is known about the labels of a slide."""

    annotation: Annotation | None
    """None: nothing is labelled."""
    n_classes: int
    unannotated: int = IGNORE
    """Label of tissue that no polygon covers."""
    glass: int = IGNORE
    """Label of glass that no polygon covers, where a patch shows it; it attracts no patch and counts in no score."""

    @property
    def fills(self) -> bool:
        """Whether anything is said of what no polygon covers; the annotation then answers `_UNDRAWN` there."""
        return (self.unannotated, self.glass) != (IGNORE, IGNORE)


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
        """Pixels and labels of a box, glass that nobody drew included. Raises RegionReadError, AnnotationError."""
        return read_canvas(self._slide, self._scale, box, (FILL,) * 3), self._read_labels(box, self._labels.glass)

    def read_labels(self, box: Box) -> NDArray[np.uint8]:
        """Labels of a box that count: glass that nobody drew is ignored. Raises AnnotationError, RegionReadError."""
        return self._read_labels(box, IGNORE)

    def _read_labels(self, box: Box, glass: int) -> NDArray[np.uint8]:
        """Labels of a box; beyond the canvas, ignored."""
        inside = box.intersect(Box(0, 0, *self.size))
        if self._labels.annotation is None or inside.is_empty:
            return np.full(box.size, IGNORE, np.uint8)
        labels = self._drawn(self._labels.annotation, inside, 1, glass)
        return labels if inside == box else cut(labels, box.shift(-inside.y0, -inside.x0), IGNORE)

    def _drawn(self, annotation: Annotation, box: Box, step: int, glass: int) -> NDArray[np.uint8]:
        """Labels of a box of the grid whose px are `step` canvas px."""
        y, x = self._scale.l0_per_px
        labels = annotation.read_labels(box, (y * step, x * step), self._scale.l0_offset)
        if self._labels.fills and (undrawn := labels == _UNDRAWN).any():
            others = np.where(self._tissue(box, step), self._labels.unannotated, glass).astype(np.uint8)
            labels[undrawn] = others[undrawn]
        return labels

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
        return CellIndex(side, counts, float(step * step))

    def _samples(self, box: Box, step: int) -> NDArray[np.uint8]:
        """Labels that count, of the grid whose px are `step` canvas px; without annotation all tissue is class 0."""
        if self._labels.annotation is None:
            return np.where(self._tissue(box, step), 0, IGNORE).astype(np.uint8)
        return self._drawn(self._labels.annotation, box, step, IGNORE)

    def _tissue(self, box: Box, step: int) -> NDArray[np.bool_]:
        """Where there is tissue in a box of the grid whose px are `step` canvas px, bool (h, w)."""
        mask = self._tissue_mask
        rows, columns = (
            np.clip(np.floor(((np.arange(*span) + 0.5) * step - origin) / mask_step).astype(np.intp), 0, length - 1)
            for span, origin, mask_step, length in zip(
                ((box.y0, box.y1), (box.x0, box.x1)), mask.origin, mask.step, mask.mask.shape, strict=True
            )
        )
        return mask.mask[np.ix_(rows, columns)]

    @cached_property
    def _tissue_mask(self) -> TissueMask:
        """Everything, where no tissue is found."""
        found = tissue_from_thumbnail(self._slide.thumbnail(_THUMBNAIL_SIDE), self._scale, self._slide.levels[0].size)
        return found if found.mask.any() else replace(found, mask=np.ones_like(found.mask))


def open_field(source: SlideSource, config: TrainConfig, *, labelled: bool) -> SlideField:
    """The field of a slide. Raises SlideError, ConfigError, AnnotationError, PlanError."""
    classes = [entry.name for entry in named_classes(config.classes)]
    if labelled and source.annotation is None:
        raise ConfigError(f"{source.slide} has no annotation", rule="labelled data is needed here")
    slide = open_slide(source.slide, mpp=source.mpp)
    if slide.mpp is None:
        raise MissingMppError(
            f"{source.slide} does not state its resolution", rule="training needs um per px", remedy="give `mpp`"
        )
    scale = choose_scale(slide.levels, slide.mpp, slide.bounds, config.mpp)
    labels = SlideLabels(None, len(classes), *_undrawn(source, classes))
    if source.annotation is not None and labelled:
        labels = replace(labels, annotation=_annotation(source, slide, classes, _UNDRAWN if labels.fills else IGNORE))
    return SlideField(source.case or source.slide.stem, slide, scale, labels)


def _undrawn(source: SlideSource, classes: list[str]) -> tuple[int, int]:
    """Labels of tissue and of glass that no polygon covers. Raises ConfigError."""
    labels = {"ignore": IGNORE, None: IGNORE} | {name: index for index, name in enumerate(classes)}
    glass = source.unannotated if source.glass is None else source.glass
    for key, name in (("unannotated", source.unannotated), ("glass", glass)):
        if name not in labels:
            raise ConfigError(
                f"{key} {name!r} of {source.slide}", rule=f"classes are {', '.join(classes)}, or `ignore`"
            )
    if len(classes) > _UNDRAWN and (source.unannotated, glass) != (None, None):
        raise ConfigError(f"`unannotated` or `glass`, with {len(classes)} classes", rule=f"at most {_UNDRAWN} then")
    return labels[source.unannotated], labels[glass]


def _annotation(source: SlideSource, slide: Slide, classes: list[str], undrawn: int) -> Annotation:
    assert source.annotation is not None
    return open_annotation(
        source.annotation,
        classes,
        source.names,
        undrawn,
        slide.levels[0].size,
        (float(slide.bounds.y0), float(slide.bounds.x0)),
    )


def _sample_step(size: tuple[int, int]) -> int:
    """Canvas px between the points of a slide whose label is looked up for the index, a power of two."""
    step = 1
    while ceil_div(size[0], step) * ceil_div(size[1], step) > _MAX_SAMPLES:
        step *= 2
    return step
