"""An annotated whole slide as a field: pixels read lazily as the engine reads them, labels drawn where they are asked.

Owns how the annotation's grid lies on the canvas, and the index of a slide too large to label whole. Knows no patch.
"""

from __future__ import annotations

from pathlib import Path

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


class SlideField:
    """A slide on the canvas that the engine would choose for the model; pixels and labels are read when asked for.

    Threads may share it. `annotation` None: nothing is labelled. `tissue_only` is the class that counts as labelled in
    tissue only: that of everything outside the polygons.
    """

    def __init__(
        self, name: str, case: str, slide: Slide, scale: Scale, annotation: Annotation | None, n_classes: int
    ) -> None:
        self.name, self.case, self.size = name, case, scale.canvas_size
        self._slide, self._scale, self._annotation, self._n_classes = slide, scale, annotation, n_classes
        self.tissue_only: int | None = None

    def read(self, box: Box) -> Pair:
        """Pixels and labels of a box. Raises RegionReadError, AnnotationError."""
        return read_canvas(self._slide, self._scale, box, (FILL,) * 3), self.read_labels(box)

    def read_labels(self, box: Box) -> NDArray[np.uint8]:
        """Labels of a box; beyond the canvas, ignored. Raises AnnotationError."""
        inside = box.intersect(Box(0, 0, *self.size))
        if self._annotation is None or inside.is_empty:
            return np.full(box.size, IGNORE, np.uint8)
        labels = self._annotation.read_labels(inside, self._scale.l0_per_px, self._scale.l0_offset)
        return labels if inside == box else cut(labels, box.shift(-inside.y0, -inside.x0), IGNORE)

    def index(self) -> CellIndex:
        """Where which class lies, from labels at evenly spaced points, every px of a small slide.

        Raises AnnotationError, RegionReadError.
        """
        side = cell_side(self.size)
        step = 1
        while ceil_div(self.size[0], step) * ceil_div(self.size[1], step) > _MAX_SAMPLES:
            step *= 2
        step = min(step, side)
        rows_per_strip = max(1, _STRIP_SAMPLES * step // (side * ceil_div(self.size[1], step))) * (side // step)
        size = ceil_div(self.size[0], step), ceil_div(self.size[1], step)
        strips = [
            count_cells(
                self._samples(Box(y, 0, min(y + rows_per_strip, size[0]), size[1]), step), side // step, self._n_classes
            )
            for y in range(0, size[0], rows_per_strip)
        ]
        counts = np.concatenate(strips, axis=1)
        self._keep_tissue(counts, side)
        return CellIndex(side, counts, float(step * step))

    def _samples(self, box: Box, step: int) -> NDArray[np.uint8]:
        """Labels of the grid whose px are `step` canvas px; without annotation everything is class 0."""
        if self._annotation is None:
            return np.zeros(box.size, np.uint8)
        y, x = self._scale.l0_per_px
        return self._annotation.read_labels(box, (y * step, x * step), self._scale.l0_offset)

    def _keep_tissue(self, counts: NDArray[np.uint32], side: int) -> None:
        """Forget, in place, cells without tissue of the class that stands for unannotated tissue."""
        number = 0 if self._annotation is None else self.tissue_only
        if number is None:
            return
        tissue = tissue_from_thumbnail(self._slide.thumbnail(_THUMBNAIL_SIDE), self._scale, self._slide.levels[0].size)
        centres = [((np.arange(n) + 0.5) * side) for n in counts.shape[1:]]
        at = [
            np.clip(((centre - origin) / step).astype(np.intp), 0, length - 1)
            for centre, origin, step, length in zip(centres, tissue.origin, tissue.step, tissue.mask.shape, strict=True)
        ]
        inside = tissue.mask[np.ix_(*at)]
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
    annotation = None
    if labelled and source.annotation is not None:
        annotation = _annotation(source.annotation, source, slide, classes)
    name = Path(source.slide).name
    field = SlideField(name, source.case or Path(source.slide).stem, slide, scale, annotation, len(classes))
    field.tissue_only = None if source.unannotated is None else classes.index(source.unannotated)
    return field


def _annotation(path: Path, source: SlideSource, slide: Slide, classes: list[str]) -> Annotation:
    return open_annotation(
        path,
        classes,
        source.names,
        unannotated=IGNORE if source.unannotated is None else classes.index(source.unannotated),
        l0_size=slide.levels[0].size,
        l0_origin=(float(slide.bounds.y0), float(slide.bounds.x0)),
    )
