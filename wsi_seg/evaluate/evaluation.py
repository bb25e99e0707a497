"""From pairs of masks to an evaluation: reads both block by block and adds up what every score follows from.

Composes the rest of this room. Memory is a few blocks, one number per boundary pixel and one entry per pair of
overlapping objects, whatever the size of the maps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsi_seg.annotation.protocol import Annotation
from wsi_seg.card import SegmentationClass
from wsi_seg.errors import EvaluationError
from wsi_seg.evaluate.alignment import Aligned, AlignedAnnotation, align
from wsi_seg.evaluate.classes import NONE, ValueTable, agreed_classes, class_index, instance_index, value_table
from wsi_seg.evaluate.label_map import LabelMap, Values, open_label_map
from wsi_seg.evaluate.objects import ObjectTally
from wsi_seg.evaluate.pairing import ANNOTATIONS, Pair
from wsi_seg.evaluate.pixels import confusion
from wsi_seg.evaluate.scores import Evaluation, Scoring, SlideScores, Totals
from wsi_seg.evaluate.surfaces import SurfaceTally
from wsi_seg.geometry import Box, Mpp, ceil_div

BLOCK = 2048
"""Side of a block, px."""
MARGIN = 128
"""Least context around a block, px: boundary distances below it are exact."""
PICTURE_SIDE = 256
"""Longest side of the small picture of a slide, px."""
UNSCORED, BOTH_FIRST, RIGHT, MISSED, EXTRA, CONFUSED, NOT_ANALYSED = range(7)
"""Values of that picture; `first` is class 0, taken as background."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Reading:
    """What the values of the files mean."""

    classes: tuple[str, ...] = ()
    """Names in the order of the values; empty: what the prediction says."""
    predicted_values: Mapping[str, str] = field(default_factory=dict)
    """Value or class name in the prediction -> class to score, or `ignore`."""
    reference_values: Mapping[str, str] = field(default_factory=dict)
    """The same for the reference; for annotations, name of a polygon's class -> class to score."""
    predicted_instances: bool = False
    """The prediction holds instance ids of the one class in `Scoring.objects`; 0 is class 0."""
    reference_instances: bool = False
    unannotated: str = ""
    """Class of what no polygon of an annotation covers; empty: ignored."""
    mpp: float | None = None
    """µm per px of predictions that do not state it."""


def evaluate_masks(
    pairs: Sequence[Pair],
    reading: Reading | None = None,
    scoring: Scoring | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Score predictions against references.

    Args:
        pairs: what is compared, at the grid of the prediction; see `pairing.pair_up`.
        reading: what values mean.
        scoring: how it is scored.
        progress: told (done, total) slides.

    Raises:
        EvaluationError: sizes, values or classes that do not fit, files that cannot be read.
        AnnotationError: polygons that cannot be read. CorruptOutputError: a damaged result.
    """
    reading, scoring = reading or Reading(), scoring or Scoring()
    _check(pairs, reading, scoring)
    slides: list[SlideScores] = []
    placeless: list[str] = []
    classes: tuple[SegmentationClass, ...] = ()
    unit = ""
    for number, pair in enumerate(pairs):
        opened = _open(pair, reading, scoring, classes)
        classes = opened.classes
        if unit and unit != opened.unit:
            raise EvaluationError(
                f"{pair.name} is measured in {opened.unit}, the slides before it in {unit}",
                rule="every prediction states its resolution, or none does",
                remedy="--mpp for those that do not",
            )
        unit = opened.unit
        if isinstance(opened.reference, AlignedAnnotation) and opened.predicted.frame is None:
            placeless.append(pair.name)
        slides.append(_score(opened, scoring))
        if progress is not None:
            progress(number + 1, len(pairs))
    return Evaluation(classes, tuple(slides), scoring, unit, (*_notes(slides, reading, scoring), *_placing(placeless)))


@dataclass(frozen=True, slots=True)
class _Opened:
    """A pair, ready to be read as class indices."""

    pair: Pair
    predicted: LabelMap
    reference: Aligned
    classes: tuple[SegmentationClass, ...]
    tables: tuple[ValueTable | None, ValueTable | None]
    """Of (prediction, reference); None for instance ids, and for annotations, which are class indices."""
    instances: tuple[int | None, int | None]
    """Class of the objects where values are instance ids."""
    spacing: tuple[float, float]
    unit: str

    def read(self, box: Box) -> tuple[_Side, _Side]:
        """Both sides of a box of the prediction."""
        values, outside = self.reference.read(box)
        predicted = self._side(0, self.predicted.read(box))
        reference = self._side(1, values)
        if outside is not None:
            reference.indices[outside] = NONE
        return predicted, reference

    def _side(self, side: int, values: Values) -> _Side:
        table, objects = self.tables[side], self.instances[side]
        if objects is not None:
            return _Side(np.where(values != 0, np.uint8(objects), np.uint8(0)), values)
        return _Side(values.astype(np.uint8) if table is None else table.apply(values), None)


@dataclass(frozen=True, slots=True)
class _Side:
    """A box of one map."""

    indices: NDArray[np.uint8]
    """Class indices, `NONE` for none."""
    ids: Values | None
    """Instance ids, where it has such."""


def _check(pairs: Sequence[Pair], reading: Reading, scoring: Scoring) -> None:
    if not pairs:
        raise EvaluationError("nothing to compare", rule="at least one pair of masks")
    if (reading.predicted_instances or reading.reference_instances) and len(scoring.objects) != 1:
        raise EvaluationError(
            f"instance maps with {len(scoring.objects)} classes of objects",
            rule="an instance map holds the objects of one class",
            remedy="name it, e.g. --objects nuclei",
        )
    if not 0.5 <= scoring.object_iou < 1:
        raise EvaluationError(
            f"object IoU {scoring.object_iou}", rule="0.5 <= IoU < 1: below 0.5 a match is not unique"
        )
    if scoring.connectivity not in (4, 8) or not 0 <= scoring.tolerance < np.inf:
        raise EvaluationError(
            f"connectivity {scoring.connectivity}, tolerance {scoring.tolerance}",
            rule="4 or 8 neighbours, a tolerance of at least 0",
        )


def _open(pair: Pair, reading: Reading, scoring: Scoring, classes: tuple[SegmentationClass, ...]) -> _Opened:
    predicted = open_label_map(pair.predicted) if isinstance(pair.predicted, Path) else pair.predicted
    polygons = isinstance(pair.reference, Path) and pair.reference.suffix.lower() in ANNOTATIONS
    stated: LabelMap | None = None
    if not polygons:
        stated = open_label_map(pair.reference) if isinstance(pair.reference, Path) else pair.reference
    if not classes:
        classes = agreed_classes([predicted, *([stated] if stated else [])], reading.classes)
    table = value_table(f"the prediction of {pair.name}", predicted, classes, reading.predicted_values)
    if stated is None:
        reference: Aligned = AlignedAnnotation(_annotation(pair, predicted, classes, reading), predicted)
        of_reference = None
    else:
        reference = align(predicted, stated, pair.name)
        of_reference = value_table(f"the reference of {pair.name}", stated, classes, reading.reference_values)
    for name in scoring.objects:
        class_index(classes, name)
    objects = instance_index(classes, scoring.objects[0]) if scoring.objects else None
    ids = reading.predicted_instances, reading.reference_instances and stated is not None
    spacing, unit = _spacing(predicted, pair, reading, scoring)
    return _Opened(
        pair,
        predicted,
        reference,
        classes,
        (None if ids[0] else table, None if ids[1] else of_reference),
        (objects if ids[0] else None, objects if ids[1] else None),
        spacing,
        unit,
    )


def _annotation(pair: Pair, predicted: LabelMap, classes: Sequence[SegmentationClass], reading: Reading) -> Annotation:
    from wsi_seg.annotation import open_annotation

    unannotated = class_index(classes, reading.unannotated) if reading.unannotated else NONE
    names = [entry.name for entry in classes]
    top, left = predicted.frame.l0_bounds if predicted.frame else (0, 0)
    assert isinstance(pair.reference, Path)
    return open_annotation(
        pair.reference, names, reading.reference_values, unannotated, l0_origin=(float(top), float(left))
    )


def _spacing(predicted: LabelMap, pair: Pair, reading: Reading, scoring: Scoring) -> tuple[tuple[float, float], str]:
    mpp = predicted.mpp or (Mpp(reading.mpp, reading.mpp) if reading.mpp is not None else None)
    if mpp is not None:
        return (mpp.y, mpp.x), "um"
    if scoring.tolerance_unit == "um":
        raise EvaluationError(
            f"a tolerance in um, and {pair.name} does not state its resolution", remedy="--mpp, or a tolerance in px"
        )
    return (1.0, 1.0), "px"


def _score(opened: _Opened, scoring: Scoring) -> SlideScores:
    """Read one pair and add it up."""
    size, n = opened.predicted.size, len(opened.classes)
    px = float(np.sqrt(opened.spacing[0] * opened.spacing[1]))
    tolerance = scoring.tolerance * (px if scoring.tolerance_unit == "px" else 1.0)
    margin = SurfaceTally.margin(tolerance / min(opened.spacing), MARGIN)
    limit = margin if max(size) > BLOCK else None
    surfaces = [SurfaceTally(size, opened.spacing, tolerance, limit) for _ in range(n)]
    given = opened.instances[0] is not None, opened.instances[1] is not None
    objects = {
        class_index(opened.classes, name): ObjectTally(size[1], scoring.connectivity, given) for name in scoring.objects
    }
    matrix = np.zeros((n, n + 1), np.int64)
    step = ceil_div(max(size), PICTURE_SIDE)
    picture = np.zeros((ceil_div(size[0], step), ceil_div(size[1], step)), np.uint8)
    for inner, box in _blocks(size, margin):
        sides = opened.read(box)
        scored = _scored(sides, as_wrong=scoring.as_wrong)
        for index, tally in enumerate(surfaces):
            masks = sides[0].indices == index, sides[1].indices == index
            if masks[0].any() or masks[1].any():
                tally.add(masks, scored, box, inner)
        own = inner.slices((box.y0, box.x0))
        predicted, reference = sides[0].indices[own], sides[1].indices[own]
        matrix += confusion(predicted, reference, n, NONE)
        for index, tally_of in objects.items():
            maps = [_objects(side, index, own) for side in sides]
            tally_of.add((maps[0], maps[1]), scored[own], inner)
        _draw(picture, (predicted, reference), inner, step)
    return SlideScores(
        opened.pair.name,
        opened.pair.case or opened.pair.name,
        _totals(matrix, surfaces, objects, scoring.object_iou),
        size[0] * size[1] - int(matrix.sum()),
        size,
        picture,
    )


def _blocks(size: tuple[int, int], margin: int) -> Iterator[tuple[Box, Box]]:
    """(block, block with context) in row-major order."""
    whole = Box(0, 0, *size)
    for y in range(0, size[0], BLOCK):
        for x in range(0, size[1], BLOCK):
            inner = Box.at(y, x, BLOCK, BLOCK).intersect(whole)
            yield (
                inner,
                Box(inner.y0 - margin, inner.x0 - margin, inner.y1 + margin, inner.x1 + margin).intersect(whole),
            )


def _scored(sides: tuple[_Side, _Side], *, as_wrong: bool) -> NDArray[np.bool_]:
    known = sides[1].indices != NONE
    return np.asarray(known if as_wrong else known & (sides[0].indices != NONE))


def _objects(side: _Side, index: int, own: tuple[slice, slice]) -> NDArray[np.generic]:
    return side.indices[own] == index if side.ids is None else side.ids[own]


def _totals(
    matrix: NDArray[np.int64], surfaces: Sequence[SurfaceTally], objects: Mapping[int, ObjectTally], iou: float
) -> Totals:
    n = len(surfaces)
    distances, sums = np.zeros((n, 3)), np.zeros((n, 6))
    for index, tally in enumerate(surfaces):
        distance = tally.hausdorff95()
        if not np.isnan(distance):
            distances[index] = (distance, 1, 0) if np.isfinite(distance) else (0, 0, 1)
    for index, tally_of in objects.items():
        sums[index] = tally_of.scores(iou).sums
    return Totals(matrix, np.stack([tally.counts for tally in surfaces]), distances, sums)


def _draw(
    picture: NDArray[np.uint8], classes: tuple[NDArray[np.uint8], NDArray[np.uint8]], inner: Box, step: int
) -> None:
    """Every step-th pixel of a block as a value of the small picture."""
    y, x = -inner.y0 % step, -inner.x0 % step
    predicted, reference = (indices[y::step, x::step] for indices in classes)
    kinds = np.select(
        [reference == NONE, predicted == NONE, (predicted == reference) & (reference == 0), predicted == reference],
        [UNSCORED, NOT_ANALYSED, BOTH_FIRST, RIGHT],
        np.where(predicted == 0, MISSED, np.where(reference == 0, EXTRA, CONFUSED)),
    )
    top, left = ceil_div(inner.y0, step), ceil_div(inner.x0, step)
    picture[top : top + kinds.shape[0], left : left + kinds.shape[1]] = kinds


def _placing(placeless: Sequence[str]) -> Iterator[str]:
    if placeless:
        more = f" and {len(placeless) - 1} more" if len(placeless) > 1 else ""
        yield (
            f"{placeless[0]}{more}: the prediction does not state its place in the slide, so its px are taken for the "
            "level-0 px that polygons are in; one at a lower resolution is compared with the wrong places"
        )


def _notes(slides: Sequence[SlideScores], reading: Reading, scoring: Scoring) -> tuple[str, ...]:
    notes = []
    n_cases = len({slide.case for slide in slides})
    if n_cases < 2:
        notes.append("one case: no confidence intervals, which come from resampling cases")
    else:
        how = f"{scoring.n_resamples} resamples, seed {scoring.seed}"
        notes.append(f"intervals: 95 %, percentile bootstrap of {n_cases} cases, {how}")
    if infinite := int(sum(slide.totals.distances[:, 2].sum() for slide in slides)):
        left_out = "their Hausdorff distance is infinite and left out of the mean"
        notes.append(f"classes with a boundary in one of the two masks only: {infinite}; {left_out}")
    rows = np.stack([slide.totals.confusion for slide in slides]).sum(axis=(0, 2))
    ignored = sum(slide.n_ignored for slide in slides)
    if rows[0] and not rows[1:].any() and ignored and not reading.reference_values:
        notes.append(
            "the references hold class 0 and 255 (ignored) only; if they are masks of 0 and 255, "
            "say so: --reference-values 255=CLASS"
        )
    if not rows.sum():
        notes.append("nothing was scored: the references label no pixel that the predictions cover")
    return tuple(notes)
