"""How many tiles a batch has: as many as were asked for, or as many as fit the memory when they are tried.

Owns the halving before the plan is made; during the run it is `predicting`'s.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from wsi_seg.engine.warm_up import warm_up
from wsi_seg.errors import PredictorOutOfMemory

if TYPE_CHECKING:
    from wsi_seg.infer import Predictor


@dataclass(frozen=True, slots=True)
class TriedBatch:
    """A batch size that fits, and what was learnt by trying it."""

    size: int
    independent: bool
    """True when a tile's prediction does not depend on the others in the batch."""
    resident_bytes: int
    """Peak of the process, all workers predicting at once."""
    notes: tuple[str, ...] = ()


def fitting_batch(
    predictor: Predictor, wanted: int, tile: int, workers: int, independent: Callable[[int], bool]
) -> TriedBatch:
    """Try batches of `wanted` tiles, of half as many, and so on, as the run will predict them.

    `independent` answers for a batch size whether predictions depend on the batch; it predicts, too. Raises
    PredictorOutOfMemory where not one tile per worker fits, or the program demands its batch size.
    """
    size = wanted
    while (tried := _tried(predictor, (size, tile, tile), workers, independent)) is None:
        if size == 1 or predictor.fixed_input[0] is not None:
            raise PredictorOutOfMemory(
                f"{workers} workers with batches of {size} tiles of {tile} px do not fit the memory",
                rule="every worker predicts one batch at a time, and no smaller batch is possible",
                remedy="fewer --workers, or a smaller --tile",
            )
        size //= 2
    if size == wanted:
        return TriedBatch(size, *tried)
    note = f"batches of {wanted} tiles of {tile} px do not fit the memory: {size} per batch"
    return TriedBatch(size, *tried, (note,))


def _tried(
    predictor: Predictor, shape: tuple[int, int, int], workers: int, independent: Callable[[int], bool]
) -> tuple[bool, int] | None:
    """What a batch of this shape is like; None where it does not fit. Nothing of a failed try is kept alive."""
    try:
        return independent(shape[0]), warm_up(predictor, shape, workers)
    except MemoryError:
        return None
