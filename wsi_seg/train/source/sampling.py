"""Where the patches of an epoch lie: which field, which cell of it; owns the probabilities, reads no pixel.

Two draws. Anywhere: every source as often as its weight says, inside it evenly over the labelled area. By class: a
class evenly among those present, then its pixels, sources by weight again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsi_seg.train.source.fields import CellIndex


@dataclass(frozen=True, slots=True, eq=False)
class Draw:
    """A distribution over the cells of fields."""

    fields: NDArray[np.int32]
    cells: NDArray[np.int32]
    cumulative: NDArray[np.float64]
    """Probability of an entry and all before it; ends at 1."""

    def at(self, share: float) -> tuple[int, int]:
        """(field, cell) at `share`, 0 … 1, of the cumulative probability; evenly spaced shares cover evenly."""
        entry = min(int(np.searchsorted(self.cumulative, share, side="right")), self.cumulative.size - 1)
        return int(self.fields[entry]), int(self.cells[entry])


@dataclass(frozen=True, slots=True, eq=False)
class Sampler:
    """The draws over a set of fields."""

    anywhere: Draw
    by_class: dict[int, Draw]
    """Class index -> draw, of the classes that are present."""
    px_by_class: dict[int, float]
    """Labelled pixels of each class that is present."""


def make_sampler(indices: Sequence[CellIndex], sources: Sequence[int], weights: Sequence[float]) -> Sampler | None:
    """The draws over fields of which number i belongs to source `sources[i]`; None where nothing is labelled.

    Args:
        indices: one per field.
        sources: number of the source of each field.
        weights: of each source.
    """
    anywhere = _draw([index.labelled for index in indices], indices, sources, weights)
    if anywhere is None:
        return None
    by_class, px_by_class = {}, {}
    for number in range(len(indices[0].counts)):
        if draw := _draw([index.counts[number] for index in indices], indices, sources, weights):
            by_class[number] = draw
            px_by_class[number] = sum(float(index.counts[number].sum()) * index.px_per_count for index in indices)
    return Sampler(anywhere, by_class, px_by_class)


def _draw(
    counts: Sequence[NDArray[np.uint32]],
    indices: Sequence[CellIndex],
    sources: Sequence[int],
    weights: Sequence[float],
) -> Draw | None:
    found = [np.flatnonzero(cells) for cells in counts]
    fields = np.repeat(np.arange(len(counts), dtype=np.int32), [cells.size for cells in found])
    if not fields.size:
        return None
    px = np.concatenate(
        [
            cells.reshape(-1)[where] * index.px_per_count
            for cells, where, index in zip(counts, found, indices, strict=True)
        ]
    )
    source = np.asarray(sources)[fields]
    px_of_source = np.bincount(source, weights=px, minlength=len(weights))
    cumulative = np.cumsum(px / px_of_source[source] * np.asarray(weights, np.float64)[source])
    return Draw(fields, np.concatenate(found).astype(np.int32), cumulative / cumulative[-1])
