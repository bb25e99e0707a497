"""The plan of a run: everything decided before a pixel is read, as one value that prints, hashes and travels.

Owns how the parts of this room are put together. Reads nothing and starts nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from wsi_seg.card import ModelCard
from wsi_seg.errors import MissingMppError, PlanError
from wsi_seg.geometry import Box, Mpp, PyramidLayout
from wsi_seg.plan.blocks import SMALLEST, check_block, choose_block, choose_lazy_block
from wsi_seg.plan.grid import TileGrid
from wsi_seg.plan.identity import RESULT_VERSION, run_identity
from wsi_seg.plan.limit import default_budget
from wsi_seg.plan.memory import MemoryProjection, WorkShape, project_memory
from wsi_seg.plan.postprocessing import Postprocessing, plan_postprocessing, postprocessing_notes
from wsi_seg.plan.request import PlanOptions, PlanRequest, ProgramFacts, SlideFacts
from wsi_seg.plan.roi import CanvasRoi, Roi
from wsi_seg.plan.scale import Scale, choose_scale, scale_notes
from wsi_seg.plan.selection import Cells, TileSelection, select_larger, select_tiles
from wsi_seg.plan.tiling import Tiling, choose_batch, choose_tiling, enlargements, tiling_notes
from wsi_seg.plan.tissue import TissueMask, tissue_from_thumbnail

_FREE_TEXT = (
    "name", "description", "licence", "training_data", "tile_size", "halo",
    "precision", "derived_from", "weights_sha256",
)  # fmt: skip
"""Fields of the card that change no byte of a result, or do so only through another field of the identity."""
WORTH_ENLARGING = (0.15, 8)
"""What larger tiles have to save: this share of the px predicted, since they take more memory, and so many tiles of the
larger size, since trying it takes some."""


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """Everything decided before a pixel is read."""

    slide: SlideFacts
    """The slide."""
    card: ModelCard
    """The model contract."""
    program: ProgramFacts
    """The loaded model."""
    scale: Scale
    """The level that is read and how it becomes the canvas."""
    tiling: Tiling
    """Tile size, overlap and window."""
    grid: TileGrid
    """The tiles over the canvas."""
    selection: TileSelection
    """Which of them are analysed, in part at least, and predicted."""
    cells: Cells
    """Where there are labels: the analysed cells of the tiling before it was enlarged."""
    roi: Roi | None
    """Regions of interest, level-0 px."""
    layout: PyramidLayout
    """Blocks, levels and shards of the result."""
    batch: int
    """Tiles per batch."""
    probabilities: bool
    """True when probabilities are stored besides labels."""
    post: Postprocessing
    """What is done to labels after the prediction."""
    tissue_mm2: float | None
    """Area of the tissue mask; None where background is not skipped."""
    memory: MemoryProjection
    """Projected peak of one process."""
    notes: tuple[str, ...]
    """What the user should know, in words."""

    @property
    def run_id(self) -> str:
        """SHA-256 of the identity fields."""
        return run_identity(self.identity_fields())

    @property
    def canvas_roi(self) -> CanvasRoi | None:
        """Regions of interest in canvas px."""
        return None if self.roi is None else self.roi.in_canvas(self.scale)

    @property
    def analysed_share(self) -> float:
        """Part of the canvas' area that is analysed, 0 … 1."""
        return self.cells.share

    def window(self, block: Box) -> Box:
        """Canvas px that the task of a block predicts: the block, grown by what post-processing looks at."""
        return self.post.window(block, self.grid.extent)

    def identity_fields(self) -> dict[str, Any]:
        """Every setting that changes a label; two runs that agree in all of them give the same bytes.

        Workers and memory are not among them, nor the block size unless predictions depend on their batch. The block
        size shows on disk, though: see `layout_fields`.
        """
        mpp = _known_mpp(self.slide)
        bounds = self.slide.bounds
        return {
            "result_version": RESULT_VERSION,
            "slide": {
                "fingerprint": self.slide.fingerprint,
                "l0_mpp": [mpp.y, mpp.x],
                "bounds": [bounds.y0, bounds.x0, bounds.y1, bounds.x1],
            },
            "model": {
                "sha256": self.program.sha256,
                "runtime": self.program.runtime,
                "device": self.program.device,
                "precision": self.program.precision,
                "n_channels": self.program.n_channels,
                "card": _card_identity(self.card),
                "members": [_card_identity(card) for card in self.program.members],
                "augmentation": self.program.augmentation,
            },
            "libraries": dict(self.program.libraries),
            "scale": self.scale.to_mapping(),
            "grid": self.grid.to_mapping(),
            "batch": self.batch,
            # Which tiles share a batch follows from the block, and only matters where a prediction depends on it.
            "batched_by_block": None if self.program.batch_independent else self.layout.block,
            "selection": self.selection.sha256,
            # Of larger tiles only: else the selection says it.
            **({} if self.cells.grid == self.grid else {"cells": self.cells.selection.sha256}),
            "roi": None if self.roi is None else self.roi.sha256,
            "probabilities": self.probabilities,
            # Only where there is any: runs without it keep the identity they had before there was such a thing.
            **({"postprocessing": self.post.to_mapping()} if self.post.steps else {}),
        }

    def layout_fields(self) -> dict[str, Any]:
        """What a half-done result on disk is cut by: changes no label, but a resumed run must agree."""
        return {"block": self.layout.block}

    def to_mapping(self) -> dict[str, Any]:
        """The whole plan as plain values for JSON."""
        return {
            "run_id": self.run_id,
            "identity": self.identity_fields(),
            "layout": self.layout_fields(),
            "slide": {"name": self.slide.name, "vendor": self.slide.vendor, "l0_size": list(self.slide.l0_size)},
            "program": self.program.to_mapping(),
            "tiling": {"exact": self.tiling.exact, "cost": self.tiling.cost},
            "selection": self.selection.to_mapping(),
            "n_levels": self.layout.n_levels,
            "tissue_mm2": self.tissue_mm2,
            "memory": self.memory.to_mapping(),
            "notes": list(self.notes),
        }

    def describe(self) -> list[tuple[str, list[tuple[str, str]]]]:
        """(section, rows of (label, text)) for people."""
        from wsi_seg.plan.description import describe_plan

        return describe_plan(self)


def make_plan(request: PlanRequest) -> Plan:
    """Decide everything, in the order scale, tiles, selection, blocks, memory.

    Where the block size is left open, it is halved until the projection fits the budget.

    Raises:
        MissingMppError: the slide does not state its resolution.
        PlanError: the slide is too coarse, or there is no thumbnail to skip background by.
        GridError: tile, overlap or block do not fit each other.
        MemoryBudgetError: the projected peak exceeds the budget.
    """
    slide, card, options = request.slide, request.card, request.options
    scale = choose_scale(slide.levels, _known_mpp(slide), slide.bounds, card.mpp)
    tiling = choose_tiling(
        card, request.program.halo, tile=options.tile, overlap=options.overlap, window=options.window
    )
    tissue = _tissue(request, scale)
    tiling, grid, selection, cells = _cheapest(request, tiling, scale, tissue)
    post = plan_postprocessing(options.post, card, scale.canvas_mpp)
    work = _work_shape(request, grid, scale, post)
    memory = _fitting_block(work, options, request.program)
    return Plan(
        slide=slide,
        card=card,
        program=request.program,
        scale=scale,
        tiling=tiling,
        grid=grid,
        selection=selection,
        cells=cells,
        roi=request.roi,
        layout=PyramidLayout(scale.canvas_size, memory.block),
        batch=work.batch,
        probabilities=options.probabilities,
        post=post,
        tissue_mm2=None if tissue is None else tissue.n_canvas_px * scale.canvas_mpp.y * scale.canvas_mpp.x / 1e6,
        memory=memory,
        notes=(
            *_notes(request, scale, tiling, selection),
            *postprocessing_notes(post, memory.block, batch_independent=request.program.batch_independent),
        ),
    )


def _cheapest(
    request: PlanRequest, first: Tiling, scale: Scale, tissue: TissueMask | None
) -> tuple[Tiling, TileGrid, TileSelection, Cells]:
    """The tiling, or the enlargement asked for, or the one that predicts the fewest px by enough to be worth it.

    What is analysed is decided by the cells of the first tiling, so that it does not depend on the choice.
    """
    roi = None if request.roi is None else request.roi.in_canvas(scale)
    stride, options = request.card.output_stride, request.options
    first_grid = first.grid(scale.canvas_size, stride)
    selection = select_tiles(first_grid, tissue, roi)
    cells = Cells(first_grid, selection)
    found = [(first, first_grid, selection)]
    for tiling in enlargements(first, stride, options.enlarged_tile or options.largest_tile or first.tile):
        grid = tiling.grid(scale.canvas_size, stride)
        found.append((tiling, grid, select_larger(grid, cells)))
    if options.enlarged_tile is not None:
        best = found[-1] if found[-1][0].tile == options.enlarged_tile else found[0]
        return *best, cells
    best = min(found, key=_predicted_px)
    before, (share, n_tiles) = _predicted_px(found[0]), WORTH_ENLARGING
    saved = before - _predicted_px(best)
    return *(best if saved >= max(share * before, n_tiles * best[0].tile ** 2) else found[0]), cells


def _predicted_px(cut: tuple[Tiling, TileGrid, TileSelection]) -> int:
    return cut[2].n_predicted * cut[0].tile ** 2


def _known_mpp(slide: SlideFacts) -> Mpp:
    if slide.l0_mpp is None:
        raise MissingMppError(
            f"{slide.name} does not state its resolution",
            rule="the model's scale must be met",
            remedy="give the um per px of level 0 with --mpp",
        )
    return slide.l0_mpp


def _tissue(request: PlanRequest, scale: Scale) -> TissueMask | None:
    if not request.options.skip:
        return None
    if request.thumbnail is None:
        raise PlanError("there is no thumbnail", rule="background is skipped by a thumbnail", remedy="use --no-skip")
    return tissue_from_thumbnail(request.thumbnail, scale, request.slide.l0_size)


def _work_shape(request: PlanRequest, grid: TileGrid, scale: Scale, post: Postprocessing) -> WorkShape:
    return WorkShape(
        grid=grid,
        scale=scale,
        level_tile=request.slide.levels[scale.level].tile or (0, 0),
        n_channels=request.program.n_channels,
        label_bytes=1 if request.card.not_analysed == 255 else 2,
        batch=request.options.batch or choose_batch(grid.tile),
        probabilities=request.options.probabilities,
        has_roi=request.roi is not None,
        workspace_bytes=request.options.workspace_bytes,
        post=post,
    )


def _fitting_block(work: WorkShape, options: PlanOptions, program: ProgramFacts) -> MemoryProjection:
    """The projection of the block size asked for, or of the largest that fits; raises where none does."""
    budget_bytes = default_budget() if options.memory_bytes is None else options.memory_bytes
    for block in _block_sizes(work, options, program):
        memory = project_memory(
            work,
            block,
            options.n_workers,
            resident_bytes=options.resident_bytes,
            budget_bytes=budget_bytes,
            kept_bytes=options.kept_bytes or 0,
        )
        if memory.fits:
            break
    memory.refuse()
    return memory


def _block_sizes(work: WorkShape, options: PlanOptions, program: ProgramFacts) -> Iterator[int]:
    """The block size asked for; else the one that suits the canvas and its halves; at least one value.

    Where a prediction depends on its batch, and so on the block, those of a lazy mask are those of the run.
    """
    if options.block is not None:
        check_block(options.block)
        yield options.block
        return
    block = choose_block(work.grid.canvas, options.n_workers)
    if options.kept_bytes is not None and program.batch_independent:
        block = choose_lazy_block(work.post.margin)
    while block >= SMALLEST:
        yield block
        block //= 2


def _notes(request: PlanRequest, scale: Scale, tiling: Tiling, selection: TileSelection) -> Iterator[str]:
    yield from scale_notes(scale, request.slide.levels, request.card.mpp)
    yield from tiling_notes(tiling, request.program.halo, request.card.output_stride)
    if request.roi is not None:
        yield from request.roi.notes
    if not selection.n_analysed:
        where = "the regions" if request.roi is not None else "the slide"
        yield f"no tissue was found in {where}: nothing will be analysed; --no-skip analyses everything"


def _card_identity(card: ModelCard) -> dict[str, Any]:
    """The fields of a card that change a result, under their own names."""
    import json

    return {key: value for key, value in json.loads(card.to_json()).items() if key not in _FREE_TEXT}
