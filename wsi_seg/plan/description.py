"""A plan in words, for `wsi-seg plan` and the head of a run; knows the plan, decides nothing and prints nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wsi_seg.geometry import Mpp
from wsi_seg.plan.blocks import n_blocks
from wsi_seg.plan.memory import format_bytes

if TYPE_CHECKING:
    from wsi_seg.plan.plan import Plan

Rows = list[tuple[str, str]]
"""(label, text) of a section."""


def describe_plan(plan: Plan) -> list[tuple[str, Rows]]:
    """(section, rows) in reading order; sections without rows are left out."""
    sections = [
        ("slide", _slide_rows(plan)),
        ("model", _model_rows(plan)),
        ("resolution", _scale_rows(plan)),
        ("tiles", _tile_rows(plan)),
        ("post-processing", plan.post.rows(tuple(entry.name for entry in plan.card.classes))),
        ("blocks", _block_rows(plan)),
        ("memory", _memory_rows(plan)),
        ("notes", [("", note) for note in plan.notes]),
    ]
    return [(title, rows) for title, rows in sections if rows]


def _slide_rows(plan: Plan) -> Rows:
    slide, rows = plan.slide, []
    n_stored = sum(level.reduction == 1 for level in slide.levels)
    rows.append(("file", f"{slide.name} ({slide.vendor}, {_count(n_stored, 'level')})"))
    rows.append(("size", f"{_size(slide.l0_size)} px at {_mpp(slide.l0_mpp)}"))
    if slide.bounds.size != slide.l0_size:
        rows.append(("scanned part", f"{_size(slide.bounds.size)} px at y {slide.bounds.y0}, x {slide.bounds.x0}"))
    return rows


def _model_rows(plan: Plan) -> Rows:
    card, program = plan.card, plan.program
    halo = "unknown or unbounded" if program.halo is None else f"{program.halo} px"
    rows = [("model", f"{card.name} ({program.runtime}, {program.device}, {program.precision})")]
    if program.augmentation != "none":
        rows.append(("augmentation", f"{program.augmentation}; predictions of turned and rescaled copies are averaged"))
    return [
        *rows,
        ("classes", ", ".join(entry.name for entry in card.classes)),
        ("trained at", f"{card.mpp:g} um/px"),
        ("halo", f"{halo}, output stride {card.output_stride} px"),
    ]


def _scale_rows(plan: Plan) -> Rows:
    scale = plan.scale
    steps = [f"decoded at 1/{scale.reduction}"] if scale.reduction > 1 else []
    if not scale.is_native:
        steps.append(f"resampled by {scale.factor[0]:.4g} x {scale.factor[1]:.4g}")
    how = ", ".join(steps) or "as stored"
    return [
        ("level read", f"{scale.stored_level}, {how}"),
        ("canvas", f"{_size(scale.canvas_size)} px at {_mpp(scale.canvas_mpp)}"),
    ]


def _tile_rows(plan: Plan) -> Rows:
    tiling, grid, selection = plan.tiling, plan.grid, plan.selection
    exactness = "equal to an untiled prediction" if tiling.exact else "blended, not exact"
    rows = [
        ("tile", f"{tiling.tile} px, overlap {tiling.overlap} px, window {tiling.window}, {exactness}"),
        ("cost", f"{tiling.cost:.2f} predicted px per canvas px"),
        ("grid", f"{grid.shape[1]} x {grid.shape[0]} = {_count(grid.n_tiles, 'tile')}, batches of {plan.batch}"),
        ("analysed", f"{selection.n_analysed} ({plan.analysed_share:.0%} of the area)"),
        ("predicted", f"{selection.n_predicted} ({selection.n_predicted * grid.tile**2 / 1e6:.1f} Mpx)"),
    ]
    if plan.tissue_mm2 is not None:
        rows.append(("tissue", f"{plan.tissue_mm2:.2f} mm2"))
    if plan.roi is not None:
        rows.append(("regions", f"{_count(plan.roi.n_features, 'polygon')}, {_roi_mm2(plan):.2f} mm2"))
    return rows


def _block_rows(plan: Plan) -> Rows:
    blocks = _count(n_blocks(plan.layout.size, plan.layout.block), "block")
    stored = "labels and probabilities" if plan.probabilities else "labels"
    return [
        ("blocks", f"{blocks} of {plan.layout.block} px, {_count(plan.memory.n_workers, 'worker')}"),
        ("result", f"{stored}, {_count(plan.layout.n_levels, 'level')}"),
    ]


def _memory_rows(plan: Plan) -> Rows:
    memory = plan.memory
    head = ("peak", f"{format_bytes(memory.total_bytes)} of {format_bytes(memory.budget_bytes)}")
    parts = sorted(memory.terms, key=memory.bytes_of, reverse=True)
    return [head, *((term.name, format_bytes(memory.bytes_of(term))) for term in parts)]


def _roi_mm2(plan: Plan) -> float:
    mpp = plan.slide.l0_mpp
    return 0.0 if plan.roi is None or mpp is None else plan.roi.l0_area * mpp.y * mpp.x / 1e6


def _size(size: tuple[int, int]) -> str:
    """Width x height, as `wsi-seg info` and viewers have it.

    >>> _size((300, 200))
    '200 x 300'
    """
    return f"{size[1]} x {size[0]}"


def _mpp(mpp: Mpp | None) -> str:
    if mpp is None:
        return "unknown resolution"
    return f"{mpp.y:.4g} um/px" if mpp.y == mpp.x else f"{mpp.y:.4g} x {mpp.x:.4g} um/px"


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
