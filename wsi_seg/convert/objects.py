"""Objects of a result: 8-connected components of its classes, with their place, size and probability.

Owns what is told of an object. Draws no outline.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from uuid import NAMESPACE_URL, uuid5

import numpy as np
from numpy.typing import NDArray

from wsi_seg.convert.regions import RegionStream
from wsi_seg.convert.selection import Frame, chosen_classes, frame_of, wanted_labels
from wsi_seg.convert.strips import Strip, read_strips
from wsi_seg.output.label_store import Result

_NAMESPACE = "wsi-seg/regions"


@dataclass(frozen=True, slots=True)
class SegmentedObject:
    """An object; right across blocks."""

    class_index: int
    name: str
    """Of the class."""
    l0_centroid: tuple[float, float]
    """Mean of its px' centres in the slide, level-0 px (y, x), counted from the corner of level 0."""
    centroid_um: tuple[float, float]
    """The same in µm, (y, x)."""
    l0_box: tuple[float, float, float, float]
    """Bounding box in the slide, level-0 px (y0, x0, y1, x1)."""
    area_um2: float
    perimeter_um: float
    """Length of the pixel edges around it and around its holes."""
    mean_probability: float | None
    """Mean over its px of the probability of its class; None where none is stored."""
    n_px: int
    first_px: int
    """Row-major index of its first px at its level."""


def objects(result: Result, *, level: int = 0, classes: Sequence[str] | None = None) -> Iterator[SegmentedObject]:
    """Objects of a result, by their last row, then by their first px; in bounded memory.

    An object is a component of px of one class that touch at sides or corners, as `evaluate` counts them; `polygons`
    with `objects=True` yields the same ones in the same order.

    Args:
        result: a finished result.
        level: of the pyramid.
        classes: names; None: all but the first, the background.

    Raises:
        UsageError: an unknown class or level. CorruptOutputError: the result cannot be read.
    """
    indices = chosen_classes(result, classes)
    frame = frame_of(result.spec, level)
    names = [entry.name for entry in result.spec.classes]
    l0_um = (result.spec.l0_mpp.y, result.spec.l0_mpp.x)
    return objects_of(read_strips(result, level, indices), frame, wanted_labels(result.spec, indices), names, l0_um)


def objects_of(
    strips: Iterable[Strip],
    frame: Frame,
    wanted: NDArray[np.bool_],
    names: Sequence[str],
    l0_um: tuple[float, float],
) -> Iterator[SegmentedObject]:
    """Objects of strips; `l0_um` is µm per level-0 px, (y, x)."""
    stream = RegionStream(frame.size[1], wanted, diagonal=True)
    for strip in strips:
        step = stream.add(strip)
        for row in step.counts[step.done].tolist():
            yield _object(row, frame, names, l0_um, strip.chances is not None)


def region_id(run_id: str, level: int, class_index: int, first_px: int, kind: str) -> str:
    """UUID of a region: the same for the same region of the same run, whatever else is exported.

    >>> region_id("a", 0, 1, 7, "object") == region_id("a", 0, 1, 7, "object") != region_id("b", 0, 1, 7, "object")
    True
    """
    return str(uuid5(NAMESPACE_URL, f"{_NAMESPACE}/{run_id}/{kind}/{level}/{class_index}/{first_px}"))


def _object(
    row: list[int], frame: Frame, names: Sequence[str], l0_um: tuple[float, float], with_chances: bool
) -> SegmentedObject:
    from wsi_kernels import Count

    n_px, label = row[Count.N_PX], row[Count.LABEL]
    (step_y, step_x), (y, x) = frame.l0_per_px, frame.l0_offset
    l0_centroid = y + (row[Count.SUM_Y] / n_px + 0.5) * step_y, x + (row[Count.SUM_X] / n_px + 0.5) * step_x
    return SegmentedObject(
        class_index=label,
        name=names[label],
        l0_centroid=l0_centroid,
        centroid_um=(l0_centroid[0] * l0_um[0], l0_centroid[1] * l0_um[1]),
        l0_box=(
            y + row[Count.TOP] * step_y,
            x + row[Count.LEFT] * step_x,
            y + row[Count.BOTTOM] * step_y,
            x + row[Count.RIGHT] * step_x,
        ),
        area_um2=n_px * frame.px_um2,
        perimeter_um=row[Count.LEVEL_SIDES] * frame.mpp.x + row[Count.UPRIGHT_SIDES] * frame.mpp.y,
        mean_probability=row[Count.CHANCE] / (255 * n_px) if with_chances else None,
        n_px=n_px,
        first_px=row[Count.FIRST],
    )
