"""From what is known of slide and model to a plan: tiles and batches of a size are tried, and planned with.

Owns the order of trying: the tile that the halo asks for, then a larger one where that pays and fits.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from wsi_seg.engine.batch_size import TriedBatch, fitting_batch
from wsi_seg.engine.cores import usable_cores
from wsi_seg.engine.options import RunOptions
from wsi_seg.engine.tile_size import largest_tile
from wsi_seg.engine.warm_up import touch_steps
from wsi_seg.errors import MemoryBudgetError, PredictorError, UsageError

if TYPE_CHECKING:
    from wsi_seg.infer import Predictor
    from wsi_seg.plan import Plan, PlanOptions, PlanRequest, PostWishes, Tiling

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

        tiling = choose_tiling(
            self.request.card, self.request.program.halo, tile=options.tile, overlap=options.overlap,
            window=options.window,
        )  # fmt: skip
        batch = self._tried(tiling.tile, options, workers)
        if (side := self._larger_side(tiling, options, batch, workers)) is not None:
            try:
                larger = self._tried(side, options, workers)
                return self._made(options, larger, workers, enlarged_tile=side), larger.notes
            except (MemoryBudgetError, PredictorError):
                if options.begun_with_tile is not None:
                    raise
                # Tried, it took more than was reckoned: the tile that was tried before is left.
        return self._made(options, batch, workers), batch.notes

    def _larger_side(self, tiling: Tiling, options: RunOptions, batch: TriedBatch, workers: int) -> int | None:
        """The tile size that predicts the fewest px, among those that there is room for; None: that of `tiling`."""
        from wsi_seg.plan import BUDGET_SHARE, LARGEST_TILE, enlargements, memory_limit

        if options.begun_with_tile is not None and options.tile is None:
            sides = enlargements(tiling, self.request.card.output_stride, LARGEST_TILE)
            return next((larger.tile for larger in sides if larger.tile == options.begun_with_tile), None)
        if not self._may_be_enlarged(tiling.tile, options):
            return None
        each = self._prediction_bytes(tiling.tile)
        if not each:
            return None
        limit = memory_limit() if options.memory_bytes is None else int(options.memory_bytes / BUDGET_SHARE)
        largest = largest_tile(tiling.tile, each * batch.size, usable_cores(), limit)
        try:
            side = self._made(options, batch, workers, largest_tile=largest).grid.tile
        except MemoryBudgetError:
            return None  # refused once more, with what would fit
        return None if side == tiling.tile else side

    def _prediction_bytes(self, tile: int) -> int | None:
        reckon: Callable[[int], int | None] | None = getattr(self.predictor, "prediction_bytes", None)
        return None if reckon is None else reckon(tile)

    def _may_be_enlarged(self, tile: int, options: RunOptions) -> bool:
        """Where nobody said how large tiles are, the canvas has many of them, and memory is the machine's own."""
        from wsi_seg.plan import choose_scale

        predictor, slide = self.predictor, self.request.slide
        free = options.tile is None and options.overlap is None and not any(predictor.fixed_input)
        free = free and options.lazy_bytes is None
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

    def _made(
        self,
        options: RunOptions,
        batch: TriedBatch,
        workers: int,
        *,
        largest_tile: int | None = None,
        enlarged_tile: int | None = None,
    ) -> Plan:
        from wsi_seg.plan import make_plan

        program = replace(self.request.program, batch_independent=batch.independent)
        batch = replace(batch, resident_bytes=batch.resident_bytes + self.outside_bytes)
        wishes = replace(_plan_options(options, batch, workers), largest_tile=largest_tile, enlarged_tile=enlarged_tile)
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
        kept_bytes=options.lazy_bytes,
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
