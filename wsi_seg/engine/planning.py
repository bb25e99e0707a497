"""From what is known of slide and model to a plan: tiles and batches of a size are tried, and planned with.

Owns the order of trying: the tile that the halo asks for, then a larger one where that pays and fits.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields, replace
from math import isqrt
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from wsi_seg.engine.batch_size import TriedBatch, fitting_batch
from wsi_seg.engine.cores import usable_cores
from wsi_seg.engine.options import RunOptions
from wsi_seg.engine.tile_size import largest_tile
from wsi_seg.engine.warm_up import touch_steps
from wsi_seg.errors import MemoryBudgetError, UsageError

if TYPE_CHECKING:
    from wsi_seg.infer import Predictor
    from wsi_seg.plan import Plan, PlanOptions, PlanRequest, PostWishes

ENLARGED_FROM_TILES = 32
"""Tiles on a canvas from which larger ones are looked at."""


@dataclass(frozen=True, slots=True)
class Planning:
    """Tries tiles and batches of a size, and plans with them."""

    request: PlanRequest
    """Without the user's wishes."""
    predictor: Predictor
    probes: NDArray[np.uint8]
    outside_bytes: int
    """Memory of the processes that read for this one."""
    step: Callable[[str], AbstractContextManager[None]]
    """Makes what follows a named step of the preparation."""

    def plan(self, options: RunOptions, workers: int) -> tuple[Plan, tuple[str, ...]]:
        """The plan, with tiles as large as pays and fits; and what is to be told of the batch."""
        from wsi_seg.plan import choose_tiling

        card, halo = self.request.card, self.request.program.halo
        begun_with = options.tile or options.begun_with_tile
        tile = begun_with or choose_tiling(card, halo, overlap=options.overlap, window=options.window).tile
        own = replace(options, tile=begun_with)
        batch = self._tried(tile, options, workers)
        if not begun_with and (enlarged := self._cheapest_tile(own, tile, batch, workers)) != tile:
            larger = self._tried(enlarged, options, workers)
            try:
                return self._made(replace(own, tile=enlarged), larger, workers, None), larger.notes
            except MemoryBudgetError:
                pass  # tried, it took more than was reckoned
        return self._made(own, batch, workers, None), batch.notes

    def _cheapest_tile(self, options: RunOptions, tile: int, batch: TriedBatch, workers: int) -> int:
        """The tile size that predicts the fewest px, among those that machine and budget have room for; else `tile`."""
        from wsi_seg.plan import default_budget

        each = self._prediction_bytes(tile) if self._may_be_enlarged(tile, options) else None
        if not each:
            return tile
        largest = largest_tile(tile, each, usable_cores())
        budget = default_budget() if options.memory_bytes is None else options.memory_bytes
        room = max(0.0, 0.9 * budget - batch.resident_bytes) / (workers * each)
        largest = min(largest, isqrt(int(tile**2 * (1 + room))))
        try:
            return self._made(options, batch, workers, max(tile, largest)).grid.tile
        except MemoryBudgetError:
            return tile  # which is tried once more, and refused with what would fit

    def _prediction_bytes(self, tile: int) -> int | None:
        reckon: Callable[[int], int | None] | None = getattr(self.predictor, "prediction_bytes", None)
        return None if reckon is None else reckon(tile)

    def _may_be_enlarged(self, tile: int, options: RunOptions) -> bool:
        """Where nobody said how large tiles are, the canvas has many of them, and memory is the machine's own."""
        from wsi_seg.plan import choose_scale

        predictor, slide = self.predictor, self.request.slide
        free = options.tile is None and options.overlap is None and not any(predictor.fixed_input)
        if not free or not predictor.facts.device.startswith("CPU"):
            return False
        assert slide.l0_mpp is not None
        height, width = choose_scale(slide.levels, slide.l0_mpp, slide.bounds, self.request.card.mpp).canvas_size
        return height * width >= ENLARGED_FROM_TILES * tile**2

    def _tried(self, tile: int, options: RunOptions, workers: int) -> TriedBatch:
        from wsi_seg.infer import default_batch

        predictor = self.predictor
        wanted = options.batch or predictor.fixed_input[0] or default_batch(predictor.facts.device, tile)
        with self.step("warm up"):
            touch_steps(predictor.card, options)  # before memory is measured, too
            return fitting_batch(
                predictor, wanted, tile, workers, lambda size: batch_is_independent(predictor, self.probes, size)
            )

    def _made(self, options: RunOptions, batch: TriedBatch, workers: int, largest: int | None) -> Plan:
        from wsi_seg.plan import make_plan

        program = replace(self.request.program, batch_independent=batch.independent)
        batch = replace(batch, resident_bytes=batch.resident_bytes + self.outside_bytes)
        wishes = replace(_plan_options(options, batch, workers), largest_tile=largest)
        with self.step("plan"):
            return make_plan(replace(self.request, program=program, options=wishes))


def batch_is_independent(predictor: Predictor, probes: NDArray[np.uint8], batch: int) -> bool:
    """Whether a tile's prediction is the same, bit for bit, whatever else is in its batch of `batch` tiles."""
    from wsi_seg.infer import batch_independent

    return batch == 1 or batch_independent(predictor, probes, batch)


def _plan_options(options: RunOptions, batch: TriedBatch, workers: int) -> PlanOptions:
    from wsi_seg.plan import PlanOptions

    return PlanOptions(
        tile=options.tile,
        overlap=options.overlap,
        window=options.window,
        batch=batch.size,
        block=options.block,
        n_workers=workers,
        memory_bytes=options.memory_bytes,
        resident_bytes=batch.resident_bytes,
        skip=options.skip_background,
        probabilities=options.probabilities,
        post=post_wishes(options),
    )


def post_wishes(options: RunOptions) -> PostWishes:
    """What is to be done to labels. Raises UsageError for an unknown parameter of the CRF."""
    from wsi_seg.plan import CrfWishes, PostWishes

    try:
        crf = None if options.crf is None else CrfWishes(**options.crf)  # type: ignore[arg-type]
    except TypeError as error:
        known = ", ".join(field.name for field in fields(CrfWishes))
        raise UsageError(f"crf {dict(options.crf or {})}", rule=f"its parameters are {known}") from error
    return PostWishes(options.min_object, options.fill_holes, crf)
