"""Everything decided before a pixel is read. Values in, values out: level geometry, a thumbnail array, a card.

Knows no slide object, no predictor and no store. Tree::

    scale.py        which level is read, and its factor to the canvas
    tiling.py       tile size, overlap and window, and what exactness costs
    grid.py         where each tile lies, what it owns, how far its weight reaches
    tissue.py       the tissue mask, placed on the canvas
    roi.py          regions of interest from GeoJSON (the only file with shapely)
    selection.py    which tiles are analysed and predicted
    postprocessing.py  what is done to labels afterwards, and how far it looks
    blocks.py       how large a block is
    memory.py       the projected peak
    limit.py        the limit of machine or container
    identity.py     run id and the difference of two runs
    request.py      what a plan is made from
    plan.py         the plan
    description.py  the plan in words
"""

from wsi_seg.plan.grid import WINDOWS, TileGrid
from wsi_seg.plan.identity import RESULT_VERSION, differing_fields, run_identity
from wsi_seg.plan.limit import BUDGET_SHARE, default_budget, memory_limit
from wsi_seg.plan.memory import MemoryProjection, format_bytes
from wsi_seg.plan.plan import Plan, make_plan
from wsi_seg.plan.postprocessing import (
    ALL,
    Crf,
    CrfWishes,
    FillHoles,
    Postprocessing,
    PostWishes,
    RemoveObjects,
    plan_postprocessing,
)
from wsi_seg.plan.request import PlanOptions, PlanRequest, ProgramFacts, SlideFacts
from wsi_seg.plan.roi import CanvasRoi, Roi, read_roi
from wsi_seg.plan.scale import Scale, choose_scale
from wsi_seg.plan.selection import TileSelection, select_tiles
from wsi_seg.plan.tiling import LARGEST_TILE, Tiling, choose_batch, choose_tiling, enlargements
from wsi_seg.plan.tissue import TissueMask, place_mask, tissue_from_thumbnail

__all__ = [
    "ALL",
    "BUDGET_SHARE",
    "LARGEST_TILE",
    "RESULT_VERSION",
    "WINDOWS",
    "CanvasRoi",
    "Crf",
    "CrfWishes",
    "FillHoles",
    "MemoryProjection",
    "Plan",
    "PlanOptions",
    "PlanRequest",
    "PostWishes",
    "Postprocessing",
    "ProgramFacts",
    "RemoveObjects",
    "Roi",
    "Scale",
    "SlideFacts",
    "TileGrid",
    "TileSelection",
    "Tiling",
    "TissueMask",
    "choose_batch",
    "choose_scale",
    "choose_tiling",
    "default_budget",
    "differing_fields",
    "enlargements",
    "format_bytes",
    "make_plan",
    "memory_limit",
    "place_mask",
    "plan_postprocessing",
    "read_roi",
    "run_identity",
    "select_tiles",
    "tissue_from_thumbnail",
]
