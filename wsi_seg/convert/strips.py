"""Reads a level of a result in strips of whole rows, each pixel once.

Owns how high a strip is and what of the probabilities goes with it. Knows no region and no format.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_seg.geometry import Box
from wsi_seg.output.label_store import Result

STRIP_PX = 1 << 23
"""Most px that are worked on at a time: some 20 bytes are needed for each."""


@dataclass(frozen=True, slots=True)
class Strip:
    """Rows of a level."""

    y0: int
    """First row, px of the level."""
    labels: NDArray[Any]
    """(h, w), uint8 or uint16."""
    chances: NDArray[np.uint8] | None
    """Probability of each px's own class, (h, w) in 1/255; None where none is stored or asked for."""


def read_strips(result: Result, level: int, classes: Sequence[int] = (), rows: int = 0) -> Iterator[Strip]:
    """Strips of a level from the top; after the last row comes one more that was not analysed.

    Args:
        result: a result.
        level: of the pyramid.
        classes: indices of classes whose probabilities are wanted, where they are stored; of other px they are 0.
        rows: of a strip; 0 chooses.

    Raises:
        CorruptOutputError: the result cannot be read.
    """
    spec = result.spec
    height, width = spec.layout.level_size(level)
    # Whole rows of chunks are read at a time, so that none is decoded twice, and cut where a slide is very wide.
    step = spec.chunk(level)
    rows = rows or max(16, min(step, STRIP_PX // width))
    for y in range(0, height, step):
        box = Box(y, 0, min(y + step, height), width)
        labels = result.read_labels(level, box)
        chances = _chances(result, level, box, labels, classes)
        if box.y1 == height:
            labels = np.concatenate([labels, np.full((1, width), spec.not_analysed, labels.dtype)])
            chances = None if chances is None else np.concatenate([chances, np.zeros((1, width), np.uint8)])
        for row in range(0, len(labels), rows):
            part = slice(row, row + rows)
            yield Strip(y + row, labels[part], None if chances is None else chances[part])


def _chances(
    result: Result, level: int, box: Box, labels: NDArray[Any], classes: Sequence[int]
) -> NDArray[np.uint8] | None:
    """Of each px the probability of its own class, read class by class."""
    if not classes or not result.spec.probabilities:
        return None
    chances = np.zeros(labels.shape, np.uint8)
    for index in classes:
        mine = labels == index
        if mine.any():
            chances[mine] = _plane(result, level, box, index)[mine]
    return chances


def _plane(result: Result, level: int, box: Box, index: int) -> NDArray[np.uint8]:
    """Probabilities of one class, (h, w) in 1/255; a single stored channel is that of class 1."""
    if result.spec.n_channels == 1:
        plane = result.read_probability(level, 0, box)
        return plane if index == 1 else 255 - plane
    return result.read_probability(level, index, box)
