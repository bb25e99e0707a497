"""Joins the lines that the outline kernel cuts at the borders of strips, until they close.

Owns the open ends between two strips. Knows no region and no geometry.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from wsi_kernels.outline import ABOVE, BELOW, CLOSED

Pieces = list[Any]
"""Arrays (n, 3) of y, x and pinch, and lists of such: one after the other, a line."""


class _Line:
    """A line that is not closed yet."""

    def __init__(self) -> None:
        self.pieces: Pieces = []
        self.end: tuple[dict[int, _Line], int] | None = None
        """Where its end waits to be continued."""


class LineJoiner:
    """Open lines of the border below the last strip."""

    def __init__(self) -> None:
        self._begins: dict[int, _Line] = {}
        """Lines that begin at the border, by the px whose left side they go up."""
        self._ends: dict[int, _Line] = {}
        """Lines that end at the border, by the px whose right side they go down."""

    def add(
        self, points: NDArray[np.int32], lines: NDArray[np.int32]
    ) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int32]]:
        """Take the lines of the next strip.

        Args:
            points: (n, 3) of y, x in the frame of the map, and pinch.
            lines: as `trace_outlines` answers them.

        Returns:
            Points (n, 3) of the lines that are closed now, one after the other; per line one past its last point; and
            (row, column) of a px at its right in the frame of the strip.
        """
        starts = np.concatenate([[0], lines[:-1, 4]]) if len(lines) else np.zeros(0, np.int64)
        whole = lines[:, 0] == CLOSED
        sizes = lines[:, 4] - starts
        closed = [points[np.repeat(whole, sizes)]]
        stops = [sizes[whole]]
        seeds = [lines[whole, 5:]]
        for line in self._joined(points, starts, lines, np.flatnonzero(~whole)):
            ring = np.concatenate(list(_flat(line[0].pieces)))
            closed.append(ring)
            stops.append(np.array([len(ring)]))
            seeds.append(lines[line[1] : line[1] + 1, 5:])
        return np.concatenate(closed), np.cumsum(np.concatenate(stops), dtype=np.int64), np.concatenate(seeds)

    def _joined(
        self, points: NDArray[np.int32], starts: NDArray[Any], lines: NDArray[np.int32], numbers: NDArray[np.intp]
    ) -> Iterator[tuple[_Line, int]]:
        """Lines that close, each with the number of the piece that closed it."""
        begins, ends = self._begins, self._ends
        self._begins, self._ends = {}, {}
        for number in numbers.tolist():
            begin, begin_column, end, end_column, stop = lines[number, :5].tolist()
            line = ends.pop(begin_column) if begin == ABOVE else _Line()
            line.pieces.append(points[starts[number] : stop].copy())
            if begin == BELOW:
                self._begins[begin_column] = line
            if end == BELOW:
                line.end = self._ends, end_column
                self._ends[end_column] = line
                continue
            following = begins.pop(end_column)
            if following is line:
                yield line, number
                continue
            line.pieces.append(following.pieces)
            line.end = following.end
            if line.end is not None:
                line.end[0][line.end[1]] = line


def _flat(pieces: Pieces) -> Iterator[NDArray[np.int32]]:
    """The arrays of nested lists, in order; without recursion, since lists nest as deep as a line has pieces."""
    waiting = [iter(pieces)]
    while waiting:
        for piece in waiting[-1]:
            if isinstance(piece, list):
                waiting.append(iter(piece))
                break
            yield piece
        else:
            waiting.pop()
