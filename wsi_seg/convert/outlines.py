"""Polygons of a result's regions, exact to the pixel edge, in the order of `regions`.

Owns how rings become polygons: which hole belongs to which outline, and how outlines are simplified. The whole map is
never in memory: only the rings of regions that are not done yet. The one file here that imports shapely.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from wsi_seg.convert.lines import LineJoiner
from wsi_seg.convert.regions import RegionStream, Step
from wsi_seg.convert.selection import Frame, chosen_classes, frame_of, wanted_labels
from wsi_seg.convert.strips import Strip, read_strips
from wsi_seg.errors import UsageError
from wsi_seg.output.label_store import Result

if TYPE_CHECKING:
    from shapely import MultiPolygon, Polygon

Rings = tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int64]]
"""Corners (n, 2) as (y, x), one after the other; corners of each ring (r,); and twice its area in px (r,), below 0 for
holes."""


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
        now = _rings_by_region(step, *joiner.add(numbered, lines))
        before: dict[int, list[Rings]] = {}
        for became, rings in zip(step.became[1:].tolist(), held, strict=True):
            before.setdefault(became, []).extend(rings)
        held = [before.pop(k, []) + [_copied(part) for part in now.get(k)] for k in step.still_open.tolist()]
        if len(step.done):
            rings = _gathered([[*before.get(k, ()), *now.get(k)] for k in step.done.tolist()])
            geometries = _simplified(_shapes(*rings, frame, objects), frame, simplify_um)
            yield from _outlines(geometries, step, names, frame, strip.chances is not None)


@dataclass(frozen=True, slots=True, eq=False)
class _Sorted:
    """Rings that closed in a strip, sorted by region."""

    points: NDArray[np.int32]
    stops: NDArray[np.int64]
    areas: NDArray[np.int64]
    regions: NDArray[np.int32]

    def get(self, region: int) -> list[Rings]:
        """Those of a region: at most one entry, views."""
        a, b = np.searchsorted(self.regions, [region, region + 1]).tolist()
        if a == b:
            return []
        low = int(self.stops[a - 1]) if a else 0
        return [(self.points[low : int(self.stops[b - 1])], np.diff(self.stops[a:b], prepend=low), self.areas[a:b])]


def _rings_by_region(
    step: Step, points: NDArray[np.int32], stops: NDArray[np.int64], seeds: NDArray[np.int32]
) -> _Sorted:
    from wsi_kernels import simple_rings

    corners, ends, line, areas = simple_rings(np.ascontiguousarray(points[:, :2]), points[:, 2].astype(np.bool_), stops)
    row, column = seeds[line].T
    regions = np.where(row < 0, step.above_ids[column], step.ids[row, column])
    sizes = np.diff(ends, prepend=0)
    order = np.argsort(regions, kind="stable")
    picked = _ragged(ends - sizes, sizes, order)
    return _Sorted(corners[picked], np.cumsum(sizes[order]), areas[order], regions[order])


def _ragged(starts: NDArray[np.int64], sizes: NDArray[np.int64], order: NDArray[np.intp]) -> NDArray[np.int64]:
    """Indices of the elements of runs, taken in another order."""
    starts, sizes = starts[order], sizes[order]
    first = np.cumsum(sizes) - sizes
    picked: NDArray[np.int64] = np.arange(int(sizes.sum())) + np.repeat(starts - first, sizes)
    return picked


def _copied(rings: Rings) -> Rings:
    """So that a region that goes on does not keep the arrays of a whole strip."""
    points, sizes, areas = rings
    return points.copy(), sizes.copy(), areas.copy()


def _gathered(regions: list[list[Rings]]) -> tuple[Rings, NDArray[np.intp]]:
    """Rings of regions and the place of each one's region, sorted by it, then outer rings before holes, then by corner."""
    parts = [part for region in regions for part in region]
    of = np.repeat(np.arange(len(regions)), [sum(len(sizes) for _, sizes, _ in region) for region in regions])
    points, sizes, areas = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    starts = np.cumsum(sizes) - sizes
    corner = points[starts]
    order = np.lexsort((corner[:, 1], corner[:, 0], areas < 0, of))
    return (points[_ragged(starts, sizes, order)], sizes[order], areas[order]), of[order]


def _shapes(rings: Rings, regions: NDArray[np.intp], frame: Frame, objects: bool) -> NDArray[Any]:
    """A polygon (or a multipolygon where an object has several parts) of each region, in level-0 px."""
    import shapely

    points, sizes, areas = rings
    outer = areas > 0
    part = np.cumsum(outer) - 1  # of an outer ring: its number; of a hole: that of the last outer ring before it
    if objects:
        part = _parts(rings, regions, part)
        order = np.lexsort((~outer, part))  # stable: holes of a part stay in their order
        starts = np.cumsum(sizes) - sizes
        points, sizes, regions = points[_ragged(starts, sizes, order)], sizes[order], regions[order]
        outer, part = outer[order], part[order]
    starts = np.cumsum(sizes) - sizes
    closed = np.insert(np.arange(len(points)), starts + sizes, starts)
    coordinates = np.ascontiguousarray(frame.l0_points(points[closed])[:, ::-1])
    ring_offsets = np.concatenate([[0], np.cumsum(sizes + 1)])
    part_offsets = np.concatenate([np.flatnonzero(outer), [len(sizes)]])
    polygons: NDArray[Any] = shapely.from_ragged_array(
        shapely.GeometryType.POLYGON, coordinates, (ring_offsets, part_offsets)
    )
    if not objects:
        return polygons
    of = regions[outer]
    first = np.flatnonzero(np.diff(of, prepend=-1))
    shapes: NDArray[Any] = polygons[first].copy()
    for k in np.flatnonzero(np.diff(np.append(first, len(of))) > 1):
        stop = first[k + 1] if k + 1 < len(first) else len(of)
        shapes[k] = shapely.multipolygons(polygons[first[k] : stop])
    return shapes


def _parts(rings: Rings, regions: NDArray[np.intp], part: NDArray[np.intp]) -> NDArray[np.intp]:
    """Number of the outer ring that each ring belongs to, where regions have several: the innermost around a hole's px.

    Above the upper left corner of a hole lies a px of the component that has it. Rings of one object nest or are apart.
    """
    import shapely

    points, sizes, areas = rings
    starts, part = np.cumsum(sizes) - sizes, part.copy()
    borders = np.flatnonzero(np.diff(regions, prepend=-1, append=-1))
    for low, high in pairwise(borders.tolist()):
        mine = np.arange(low, high)
        outer, holes = mine[areas[mine] > 0], mine[areas[mine] < 0]
        if len(outer) < 2 or not len(holes):
            continue
        shells = [shapely.Polygon(points[starts[k] : starts[k] + sizes[k]]) for k in outer]
        corner = points[starts[holes]]
        tree = shapely.STRtree(shells)
        hole, shell = tree.query(shapely.points(corner[:, 0] - 0.5, corner[:, 1] + 0.5), predicate="within")
        best = np.lexsort((areas[outer[shell]], hole))
        hole, shell = hole[best], shell[best]
        innermost = np.flatnonzero(np.diff(hole, prepend=-1))
        part[holes[hole[innermost]]] = part[outer[shell[innermost]]]
    return part


def _simplified(shapes: NDArray[Any], frame: Frame, simplify_um: float) -> NDArray[Any]:
    """Shapes in level-0 px with fewer corners, `simplify_um` off at most.

    GEOS drops a ring's first corner by its own distance, whatever it left out beside it before; together that is up to
    twice the tolerance, so where it is more than the tolerance, half of it is used. A shape that would become invalid
    is left as it is.
    """
    import shapely

    if not simplify_um:
        return shapes
    um = np.array([frame.mpp.x / frame.l0_per_px[1], frame.mpp.y / frame.l0_per_px[0]])
    exact = shapely.transform(shapes, lambda points: points * um)
    kept: NDArray[Any] = shapes.copy()
    waiting = np.arange(len(shapes))
    for tolerance in (simplify_um, simplify_um / 2):
        fewer = shapely.simplify(exact[waiting], tolerance, preserve_topology=True)
        near = _deviations(exact[waiting], fewer) <= simplify_um
        back = shapely.transform(fewer, lambda points: points / um)
        sound = near & shapely.is_valid(back)
        kept[waiting[sound]] = back[sound]
        waiting = waiting[~sound]
    return kept


def _deviations(exact: NDArray[Any], fewer: NDArray[Any]) -> NDArray[np.float64]:
    """Largest distance of each shape from what it was made from; infinite where rings were lost."""
    import shapely
    from wsi_kernels import ring_deviations

    off = np.full(len(exact), np.inf)
    whole = [_n_rings(one) == _n_rings(other) for one, other in zip(exact, fewer, strict=True)]
    number = np.flatnonzero(whole)
    if len(number):
        points, stops, shape = _corners(exact[number])
        worst = np.zeros(len(number))
        np.maximum.at(worst, shape, ring_deviations(points, stops, *_corners(fewer[number])[:2]))
        off[number] = worst
    return off


def _n_rings(shape: Any) -> list[int]:
    """Of each of its polygons."""
    return [len(part.interiors) for part in getattr(shape, "geoms", [shape])]


def _corners(shapes: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.intp]]:
    """Corners of all rings, not closed, one past the last of each ring, and the number of its shape."""
    import shapely

    parts, shape = shapely.get_parts(shapes, return_index=True)
    rings, part = shapely.get_rings(parts, return_index=True)
    points, ring = shapely.get_coordinates(rings, return_index=True)
    opened = np.diff(ring, append=-1) == 0
    stops = np.cumsum(np.bincount(ring[opened], minlength=len(rings)))
    return points[opened], stops, shape[part]


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
