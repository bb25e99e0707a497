"""How rings become polygons: sorted by region, and every hole in the outline that has it.

Owns shapes without simplification. Knows no map and no class.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_seg.convert.regions import Step
from wsi_seg.convert.selection import Frame

Rings = tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int64]]
"""Corners (n, 2) as (y, x), one after the other; corners of each ring (r,); and twice its area in px (r,), below 0 for
holes."""


@dataclass(frozen=True, slots=True, eq=False)
class SortedRings:
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


def closed_rings(
    step: Step, points: NDArray[np.int32], stops: NDArray[np.int64], seeds: NDArray[np.int32]
) -> SortedRings:
    """Rings of lines that closed in a strip; points, stops and seeds as `LineJoiner.add` answers them."""
    from wsi_kernels import simple_rings

    corners, ends, line, areas = simple_rings(np.ascontiguousarray(points[:, :2]), points[:, 2].astype(np.bool_), stops)
    row, column = seeds[line].T
    regions = np.where(row < 0, step.above_ids[column], step.ids[row, column])
    sizes = np.diff(ends, prepend=0)
    order = np.argsort(regions, kind="stable")
    picked = _ragged(ends - sizes, sizes, order)
    return SortedRings(corners[picked], np.cumsum(sizes[order]), areas[order], regions[order])


def _ragged(starts: NDArray[np.int64], sizes: NDArray[np.int64], order: NDArray[np.intp]) -> NDArray[np.int64]:
    """Indices of the elements of runs, taken in another order."""
    starts, sizes = starts[order], sizes[order]
    first = np.cumsum(sizes) - sizes
    picked: NDArray[np.int64] = np.arange(int(sizes.sum())) + np.repeat(starts - first, sizes)
    return picked


def copied(rings: Rings) -> Rings:
    """So that a region that goes on does not keep the arrays of a whole strip."""
    points, sizes, areas = rings
    return points.copy(), sizes.copy(), areas.copy()


def gathered(regions: list[list[Rings]]) -> tuple[Rings, NDArray[np.intp]]:
    """Rings by region, then outer ones before holes, then by corner; and the number of each one's region, (r,)."""
    parts = [part for region in regions for part in region]
    of = np.repeat(np.arange(len(regions)), [sum(len(sizes) for _, sizes, _ in region) for region in regions])
    points, sizes, areas = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    starts = np.cumsum(sizes) - sizes
    corner = points[starts]
    order = np.lexsort((corner[:, 1], corner[:, 0], areas < 0, of))
    return (points[_ragged(starts, sizes, order)], sizes[order], areas[order]), of[order]


def shapes_of(rings: Rings, regions: NDArray[np.intp], frame: Frame, objects: bool) -> NDArray[Any]:
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
    coordinates = points[closed][:, ::-1].astype(np.float64)
    del points, closed  # of a large tissue these are hundreds of MB
    coordinates *= frame.l0_per_px[::-1]
    coordinates += frame.l0_offset[::-1]
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
        shells = np.array([shapely.Polygon(points[starts[k] : starts[k] + sizes[k]]) for k in outer])
        corner = points[starts[holes]]
        inside = shapely.points(corner[:, 0] - 0.5, corner[:, 1] + 0.5)
        hole, shell = shapely.STRtree(shells).query(inside)
        shapely.prepare(shells)  # one may be a tissue, and have a hundred thousand holes
        around = shapely.contains(shells[shell], inside[hole])
        hole, shell = hole[around], shell[around]
        best = np.lexsort((areas[outer[shell]], hole))
        hole, shell = hole[best], shell[best]
        innermost = np.flatnonzero(np.diff(hole, prepend=-1))
        part[holes[hole[innermost]]] = part[outer[shell[innermost]]]
    return part
