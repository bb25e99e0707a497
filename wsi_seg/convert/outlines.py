"""Polygons of a result's regions, exact to the pixel edge, in the order of `regions`.

Owns what is known of a region and its outline. The whole map is never in memory: only the rings of regions that are not
done yet.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from wsi_seg.convert.lines import LineJoiner
from wsi_seg.convert.regions import RegionStream, Step
from wsi_seg.convert.selection import Frame, chosen_classes, frame_of, wanted_labels
from wsi_seg.convert.shapes import Rings, closed_rings, copied, gathered, shapes_of
from wsi_seg.convert.simplification import simplified
from wsi_seg.convert.strips import Strip, read_strips
from wsi_seg.errors import UsageError
from wsi_seg.output.label_store import Result

if TYPE_CHECKING:
    from shapely import MultiPolygon, Polygon


@dataclass(frozen=True, slots=True, eq=False)
class Outline:
    """A region and its shape."""

    class_index: int
    name: str
    """Of the class."""
    geometry: Polygon | MultiPolygon
    """Valid, in level-0 px of the slide, (x, y); outer rings run counter-clockwise by the numbers, holes clockwise."""
    area_um2: float
    """Of the region's px; a simplified geometry may have another."""
    mean_probability: float | None
    """Mean over its px of the probability of its class; None where none is stored."""
    perimeter_um: float
    """Length of the pixel edges around it and around its holes; a simplified geometry has less."""
    n_px: int
    first_px: int
    """Row-major index of its first px at its level: with the class, this is what it is known by."""


def polygons(
    result: Result,
    *,
    level: int = 0,
    classes: Sequence[str] | None = None,
    objects: bool = False,
    simplify_um: float = 0.0,
) -> Iterator[Outline]:
    """Outlines of a result's regions along the edges of pixels, one after the other, in bounded memory.

    Their order and their shapes depend on the labels alone: neither on the result's blocks nor on how it is read.

    Args:
        result: a finished result.
        level: of the pyramid; outlines of level n follow px of 2^n canvas px.
        classes: names; None: all but the first, the background. What was not analysed is no class.
        objects: one MultiPolygon for px that touch at a corner (8-connected, as `evaluate` counts objects) rather than
            one Polygon for each 4-connected component.
        simplify_um: leave corners out where the outline moves by this many µm at most (Douglas-Peucker, each region by
            itself: neighbours may overlap or part by as much). 0: exact.

    Yields:
        Regions by their last row, then by their first px.

    Raises:
        UsageError: an unknown class or level, or a negative tolerance. CorruptOutputError: the result cannot be read.
    """
    if not 0 <= simplify_um < np.inf:
        raise UsageError(f"simplification by {simplify_um} um", rule="0 or more")
    indices = chosen_classes(result, classes)
    frame = frame_of(result.spec, level)
    names = [entry.name for entry in result.spec.classes]
    strips = read_strips(result, level, indices)
    wanted = wanted_labels(result.spec, indices)
    return outlines_of(strips, frame, wanted, names, (objects, simplify_um))


def outlines_of(
    strips: Iterable[Strip],
    frame: Frame,
    wanted: NDArray[np.bool_],
    names: Sequence[str],
    shape: tuple[bool, float] = (False, 0.0),
) -> Iterator[Outline]:
    """Outlines of the regions of strips; `shape` is (objects, simplify_um) of `polygons`."""
    from wsi_kernels import trace_outlines

    objects, simplify_um = shape
    stream, joiner = RegionStream(frame.size[1], wanted, objects), LineJoiner()
    held: list[list[Rings]] = []
    for strip in strips:
        step = stream.add(strip)
        points, pinches, lines = trace_outlines(strip.labels, step.above, wanted)
        numbered = np.concatenate(
            [points + np.array([strip.y0, 0], np.int32), pinches[:, None]], axis=1, dtype=np.int32
        )
        now = closed_rings(step, *joiner.add(numbered, lines))
        before: dict[int, list[Rings]] = {}
        for became, rings in zip(step.became[1:].tolist(), held, strict=True):
            before.setdefault(became, []).extend(rings)
        held = [before.pop(k, []) + [copied(part) for part in now.get(k)] for k in step.still_open.tolist()]
        if len(step.done):
            ended, of = gathered([[*before.get(k, ()), *now.get(k)] for k in step.done.tolist()])
            before.clear()
            del now, points, pinches, numbered  # while others work on what is yielded, only shapes are kept
            exact = shapes_of(ended, of, frame, objects)
            del ended
            geometries = simplified(exact, frame, simplify_um)
            del exact
            yield from _outlines(geometries, step, names, frame, strip.chances is not None)


def _outlines(
    geometries: NDArray[Any], step: Step, names: Sequence[str], frame: Frame, with_chances: bool
) -> Iterator[Outline]:
    from wsi_kernels import Count

    for geometry, row in zip(geometries, step.counts[step.done].tolist(), strict=True):
        n_px, label = row[Count.N_PX], row[Count.LABEL]
        yield Outline(
            class_index=label,
            name=names[label],
            geometry=geometry,
            area_um2=n_px * frame.px_um2,
            mean_probability=row[Count.CHANCE] / (255 * n_px) if with_chances else None,
            perimeter_um=row[Count.LEVEL_SIDES] * frame.mpp.x + row[Count.UPRIGHT_SIDES] * frame.mpp.y,
            n_px=n_px,
            first_px=row[Count.FIRST],
        )
