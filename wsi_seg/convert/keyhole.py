"""Polygons with holes as single rings: every hole is joined to the rest by a slit without width, gone both ways.

For formats without holes. By the even-odd rule, and by winding numbers, a slit encloses nothing: exactly the same
pixels are inside. Owns the walk along the rings. Knows no format.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Ring = NDArray[np.float64]


def keyhole_ring(rings: Sequence[Ring]) -> Ring:
    """One ring of an outer ring and holes, each (n, 2) as (y, x), not closed.

    >>> square, hole = [[0, 0], [0, 9], [9, 9], [9, 0]], [[3, 4], [5, 4], [5, 6], [3, 6]]
    >>> ring = keyhole_ring([np.array(square, np.float64), np.array(hole, np.float64)])
    >>> ring[3:].tolist()
    [[9.0, 0.0], [3.0, 0.0], [3.0, 4.0], [5.0, 4.0], [5.0, 6.0], [3.0, 6.0], [3.0, 4.0], [3.0, 0.0]]
    """
    from wsi_kernels.slit import slit_ends

    if len(rings) == 1:
        return rings[0]
    points = np.concatenate(rings)
    stops = np.cumsum([len(ring) for ring in rings])
    begins, edges, xs = slit_ends(points, stops)
    ends = np.stack([points[begins, 0], xs], axis=1)
    ends[np.isnan(xs)] = points[0]
    # along its ring: by edge, then by distance from the corner that begins the edge
    away = np.abs(ends - points[edges]).sum(axis=1)
    order = np.lexsort((away, edges))
    ring = np.searchsorted(stops, edges[order], side="right")
    borders = np.searchsorted(ring, np.arange(len(rings) + 1)).tolist()
    meets = [order[a:b].tolist() for a, b in pairwise(borders)]
    slits = _Slits(points, stops, begins, edges, ends, meets)
    return np.concatenate(list(slits.walk()))


class _Slits:
    """Rings and the slits between them: that of ring h + 1 leads from corner `begins[h]` to `ends[h]` on `edges[h]`."""

    def __init__(
        self,
        points: Ring,
        stops: NDArray[np.int64],
        begins: NDArray[np.int64],
        edges: NDArray[np.int64],
        ends: Ring,
        meets: list[list[int]],
    ) -> None:
        self._points, self._ends, self._meets = points, ends, meets
        self._starts, self._stops = [0, *stops[:-1].tolist()], stops.tolist()
        self._begins, self._edges = begins.tolist(), edges.tolist()

    def walk(self) -> Iterator[Ring]:
        """Pieces of the single ring, in order; without recursion, since slits nest as deep as there are holes."""
        waiting = [self._around(0)]
        while waiting:
            for step in waiting[-1]:
                if isinstance(step, int):
                    waiting.append(self._around(step + 1))
                    break
                yield step
            else:
                waiting.pop()

    def _around(self, ring: int) -> Iterator[Ring | int]:
        """Corners of a ring from where its slit begins, back to there, and the holes whose slits end on it."""
        low, high = self._starts[ring], self._stops[ring]
        first = self._begins[ring - 1] if ring else low
        corners = [*range(first, high), *range(low, first)]
        place = {corner: k for k, corner in enumerate(corners)} if self._meets[ring] else {}
        done = 0
        for hole in sorted(self._meets[ring], key=lambda hole: place[self._edges[hole]]):
            upto = place[self._edges[hole]] + 1
            if upto > done:
                yield self._points[corners[done:upto]]
                done = upto
            yield self._ends[hole : hole + 1]
            yield hole
            yield self._ends[hole : hole + 1]
        if done < len(corners):
            yield self._points[corners[done:]]
        if ring:
            yield self._points[first : first + 1]
