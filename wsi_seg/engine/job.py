"""What a task needs to know, as one picklable value: the same for a thread here and for a worker elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wsi_seg.infer import ModelSpec
    from wsi_seg.output.result_spec import ResultSpec
    from wsi_seg.output.store import Location
    from wsi_seg.plan import Plan
    from wsi_seg.slide import Slide


@dataclass(frozen=True, slots=True)
class TaskKey:
    """One task of a run: a block (tier 0) or a piece of the pyramid above (tier 1 and up)."""

    tier: int
    row: int
    column: int


@dataclass(frozen=True, slots=True)
class RunJob:
    """Everything that a run's tasks share. Pickles; slides pickle by path."""

    run_id: str
    folder: Location | None
    """Where the unfinished result lies; None where nothing is written."""
    slide: Slide
    model: ModelSpec
    plan: Plan
    result: ResultSpec
    blend: str = "host"
    """`host` or `device`: where tiles are blended. No part of the run's identity, as the bits are the same."""
