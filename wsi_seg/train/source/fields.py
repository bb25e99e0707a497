"""What patches are cut from: a field, an image or a slide at the model's resolution, with labels in step.

Owns the contract and the index of where which class lies, coarse enough to be held for many slides. Opens no file.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from wsi_seg.annotation.protocol import IGNORE
from wsi_seg.geometry import Box, ceil_div

FILL = 255
"""Grey value of pixels beyond a field, the background that a card states."""
MIN_CELL = 16
"""Smallest side of an index cell, px."""
MAX_CELLS = 1 << 16
"""Cells that the index of one field may have."""

Pair = tuple[NDArray[np.uint8], NDArray[np.uint8]]
"""Pixels (h, w, 3) RGB and labels (h, w)."""


@dataclass(frozen=True, slots=True, eq=False)
class CellIndex:
    """How many labelled pixels of each class every cell of a field has."""

    side: int
    """Of a cell, px."""
    counts: NDArray[np.uint32]
    """(n_classes, rows, columns); of slides, samples instead of pixels."""
    px_per_count: float
    """Pixels that one count stands for."""

    @property
    def labelled(self) -> NDArray[np.uint32]:
        """(rows, columns) counts of all classes together."""
        total: NDArray[np.uint32] = self.counts.sum(axis=0, dtype=np.uint32)
        return total

    def box(self, cell: int) -> Box:
        """Pixels of a cell, given by its number in row order; may reach beyond the field."""
        row, column = divmod(cell, self.counts.shape[2])
        return Box.at(row * self.side, column * self.side, self.side, self.side)

    def meets(self, box: Box) -> bool:
        """True where a cell that has counts shares a pixel with `box`."""
        rows = slice(max(0, box.y0 // self.side), max(0, ceil_div(box.y1, self.side)))
        columns = slice(max(0, box.x0 // self.side), max(0, ceil_div(box.x1, self.side)))
        return bool(self.counts[:, rows, columns].any())


class Field(Protocol):
    """One image or slide on the pixel grid of the model's µm per px."""

    @property
    def name(self) -> str:
        """For people and messages."""

    @property
    def case(self) -> str:
        """The patient or case it belongs to; never on both sides of a split."""

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in px."""

    def read(self, box: Box) -> Pair:
        """Pixels and labels of a box that may leave the field: `FILL` and `IGNORE` there. Raises WsiSegError."""

    def read_labels(self, box: Box) -> NDArray[np.uint8]:
        """Labels of a box that count in scores and attract patches, (h, w); others are ignored. Raises WsiSegError."""

    def index(self) -> CellIndex:
        """Where which class lies; the one pass over all labels. Raises AnnotationError."""


def cell_side(size: tuple[int, int]) -> int:
    """Side of the index cells of a field of `size`: a power of two from `MIN_CELL`, at most `MAX_CELLS` of them.

    >>> cell_side((224, 224)), cell_side((50_000, 50_000))
    (16, 256)
    """
    side = MIN_CELL
    while ceil_div(size[0], side) * ceil_div(size[1], side) > MAX_CELLS:
        side *= 2
    return side


def count_cells(labels: NDArray[np.uint8], side: int, n_classes: int) -> NDArray[np.uint32]:
    """Pixels of each class in every `side` x `side` cell of labels (h, w), as (n_classes, rows, columns).

    >>> count_cells(np.array([[0, 1, 1]], np.uint8), 2, 2).tolist()
    [[[1, 0]], [[1, 1]]]
    """
    rows, columns = (ceil_div(length, side) for length in labels.shape)
    padded = np.full((rows * side, columns * side), IGNORE, np.uint8)
    padded[: labels.shape[0], : labels.shape[1]] = labels
    cells = padded.reshape(rows, side, columns, side)
    return np.stack([(cells == index).sum(axis=(1, 3), dtype=np.uint32) for index in range(n_classes)])


def cut(array: NDArray[np.uint8], box: Box, fill: int) -> NDArray[np.uint8]:
    """The pixels of `box` of an array (h, w, …), `fill` beyond it; a new array.

    >>> cut(np.zeros((1, 1), np.uint8), Box(-1, 0, 1, 2), 9).tolist()
    [[9, 9], [0, 9]]
    """
    inside = box.intersect(Box(0, 0, *array.shape[:2]))
    if inside == box:
        return array[box.slices()].copy()
    out = np.full((*box.size, *array.shape[2:]), fill, np.uint8)
    if not inside.is_empty:
        out[inside.slices((box.y0, box.x0))] = array[inside.slices()]
    return out


def tiles_of(size: tuple[int, int], side: int) -> Iterator[Box]:
    """Boxes of at most `side` px that cover a field of `size` once, in row order."""
    whole = Box(0, 0, *size)
    for y in range(0, size[0], side):
        for x in range(0, size[1], side):
            yield Box.at(y, x, side, side).intersect(whole)
