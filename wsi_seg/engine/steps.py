"""The steps of a slide's run between its plan and its report, each of which may happen in another process.

    prepare ─► job_of ─► (claim of the folder) ─► begin ─► tasks ─► finish

Owns what a step takes and leaves. Knows no scheduler: `run.py` takes the steps in this process, `cluster/` on workers.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from threading import Event
from time import perf_counter
from typing import TYPE_CHECKING

from wsi_seg.engine.job import RunJob, TaskKey
from wsi_seg.engine.receipt import Receipt, WorkDone
from wsi_seg.engine.report import RunReport

if TYPE_CHECKING:
    from wsi_seg.engine.prepare import Planned
    from wsi_seg.engine.target import Target
    from wsi_seg.output.result_spec import ResultSpec
    from wsi_seg.output.run_directory import RunDirectory, RunIdentity
    from wsi_seg.plan import Plan


@dataclass(frozen=True, slots=True)
class Spent:
    """What a run has cost before its last step."""

    seconds: float
    """Since the command, or the slide's turn, began."""
    seconds_working: float
    """Wall time of the tasks."""
    resumed: Collection[TaskKey] = ()
    """Tasks that an earlier run had done."""
    n_workers: int = 0
    """Threads of this process that worked; 0 where a cluster did."""


def identity_of(plan: Plan, codec: str = "zstd") -> RunIdentity:
    """Whose folder a half-done result is, and how its chunks are compressed: no folder ever holds both kinds."""
    from wsi_seg.output.result_spec import ZSTD
    from wsi_seg.output.run_directory import RunIdentity

    layout = plan.layout_fields() | ({} if codec == ZSTD else {"codec": codec})
    return RunIdentity(plan.run_id, {**plan.identity_fields(), "layout": layout})


def job_of(planned: Planned, target: Target) -> RunJob:
    """What the tasks share."""
    plan, spec = planned.plan, result_spec(planned, target.codec)
    return RunJob(plan.run_id, target.site.unfinished, planned.slide, planned.model, plan, spec, planned.blend)


def begin(job: RunJob) -> dict[TaskKey, Receipt]:
    """Make the claimed folder ready; answer what an earlier run finished and whose bytes are still what it recorded.

    What was made from the shards of a task that is to be done again is forgotten as well: it may have been made from
    less than will be there (a shard that was lost, a tile that could not be read). Raises WriteError.
    """
    from wsi_seg.output.label_store import create_result
    from wsi_seg.output.run_directory import Markers

    assert job.folder is not None
    create_result(job.folder, job.result)
    markers, layout = Markers(job.folder, job.run_id), job.result.layout
    done: dict[TaskKey, Receipt] = {}
    for tier in range(layout.n_tiers):
        for place, marker in markers.load(tier, check_hashes=True).items():
            children = layout.children(tier, *place) if tier else ()
            if all(TaskKey(tier - 1, *child) in done for child in children):
                done[TaskKey(tier, *place)] = Receipt.from_mapping(marker)
            else:
                markers.forget(tier, *place)
    return done


def finish(run: RunDirectory, planned: Planned, target: Target, spent: Spent, stop: Event) -> RunReport:
    """Commit a run whose tasks are all done, from the receipts in its folder; answer its report.

    Raises CorruptOutputError, OutputExistsError, WriteError, RunStopped.
    """
    spec = result_spec(planned, target.codec)
    loaded = [marker for tier in range(spec.layout.n_tiers) for marker in run.markers.load(tier).values()]
    if target.tiff:
        from wsi_seg.output.commit import refuse_lost_shards

        refuse_lost_shards(run, loaded)
    receipts = sorted(map(Receipt.from_mapping, loaded), key=lambda receipt: _key(receipt) not in spent.resumed)
    work = WorkDone(
        receipts,
        perf_counter() - spent.seconds,
        spent.seconds_working,
        n_resumed=len(spent.resumed),
        n_workers=spent.n_workers,
    )
    return target.commit(run, spec, planned, work, stop)


def _key(receipt: Receipt) -> TaskKey:
    return TaskKey(receipt.tier, receipt.row, receipt.column)


def result_spec(planned: Planned, codec: str = "zstd") -> ResultSpec:
    """What the result of a plan is, its chunks compressed by `codec`."""
    from wsi_seg.output.result_spec import ResultSpec

    plan = planned.plan
    assert plan.slide.l0_mpp is not None
    return ResultSpec(
        layout=plan.layout,
        mpp=plan.scale.canvas_mpp,
        l0_mpp=plan.slide.l0_mpp,
        l0_offset=plan.scale.l0_offset,
        l0_size=plan.slide.levels[0].size,
        l0_bounds=(plan.slide.bounds.y0, plan.slide.bounds.x0),
        classes=plan.card.classes,
        not_analysed=plan.card.not_analysed,
        probabilities=plan.probabilities,
        n_channels=plan.program.n_channels,
        # Names on a disk are bytes, metadata are UTF-8.
        name=plan.slide.name.encode(errors="backslashreplace").decode(),
        tile_grid=plan.grid.shape,
        codec=codec,
    )
