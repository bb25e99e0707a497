"""A whole run: plan, work, commit. What `wsi-seg run` does.

Owns the life of a result from plan to final name. Knows no pixel.
"""

from __future__ import annotations

import threading
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from wsi_seg.engine.events import Listener, Note, RunStarted, TaskDone, TilesPredicted, ignore
from wsi_seg.engine.job import RunJob, TaskKey
from wsi_seg.engine.options import RunOptions
from wsi_seg.engine.prepare import Prepared, prepare
from wsi_seg.engine.receipt import Receipt, WorkDone
from wsi_seg.engine.report import RunReport
from wsi_seg.engine.schedule import all_tasks, connect, run_in_threads, run_on_cluster
from wsi_seg.engine.session import Session, run_task, run_task_on_worker
from wsi_seg.engine.target import Target

if TYPE_CHECKING:
    from wsi_seg.output.result_spec import ResultSpec
    from wsi_seg.output.run_directory import RunDirectory
    from wsi_seg.slide import Slide


def run_slide(
    source: Path | Slide,
    options: RunOptions | None = None,
    *,
    out: Path | None = None,
    listener: Listener = ignore,
    stop: threading.Event | None = None,
) -> RunReport:
    """Segment a slide into `out`; resumes what an earlier run of the same identity left unfinished.

    `out` is NAME.seg.zarr, or NAME.ome.tif for a TIFF pyramid; None: SLIDE.seg.zarr in the current folder. `stop` ends
    the run at the next row of tiles, keeping what is finished. Raises WsiSegError.
    """
    started = perf_counter()
    options = options or RunOptions()
    target = Target.of(source, out, options)
    target.check()
    stop = stop or threading.Event()
    # Before anything else: a scheduler that does not answer is known in seconds.
    with connect(options.scheduler) if options.scheduler else nullcontext() as client:
        prepared = prepare(source, target.resuming(options), stop)
        for note in prepared.plan.notes:
            listener(Note(note))
        try:
            return _Run(prepared, target, options, client, listener, stop).carry_out(started)
        finally:
            prepared.predictor.close()
            if isinstance(source, str | Path):
                prepared.slide.close()


@dataclass(frozen=True, slots=True)
class _Run:
    """One run, from its plan to its report."""

    prepared: Prepared
    target: Target
    options: RunOptions
    client: Any
    """A connected `distributed.Client`; None: threads of this process."""
    listener: Listener
    stop: threading.Event

    def carry_out(self, started: float) -> RunReport:
        """Do what is not done yet, then commit."""
        from wsi_seg.output.label_store import create_result
        from wsi_seg.output.run_directory import RunIdentity, open_run
        from wsi_seg.plan import differing_fields

        plan = self.prepared.plan
        spec = result_spec(self.prepared)
        identity = RunIdentity(plan.run_id, {**plan.identity_fields(), "layout": plan.layout_fields()})
        flags = {"restart": self.options.restart, "overwrite": self.options.overwrite}
        with open_run(self.target.store, identity, differing_fields, **flags) as run:
            create_result(run.path, spec)
            job = RunJob(
                plan.run_id, run.path, self.prepared.slide, self.prepared.model, plan, spec, self.prepared.blend
            )
            began = perf_counter()
            done = _receipts_of(run, spec)
            receipts = self._work(job, done)
            work = WorkDone(receipts, started, perf_counter() - began, n_resumed=len(done))
            return self.target.commit(run, spec, self.prepared, work, self.stop)

    def _work(self, job: RunJob, done: dict[TaskKey, Receipt]) -> list[Receipt]:
        """Run the tasks that have no receipt yet; answer the receipts of all."""
        todo = [key for key in all_tasks(job.plan.layout) if key not in done]
        self._announce(job, len(todo), done)
        work = self._in_threads if self.client is None else self._on_cluster
        return [*done.values(), *work(job, todo)]

    def _in_threads(self, job: RunJob, todo: list[TaskKey]) -> list[Receipt]:
        session = Session(job, self.prepared.predictor, listener=self.listener, stop=self.stop)

        def work(key: TaskKey) -> Receipt:
            receipt = run_task(session, key)
            self.listener(TaskDone(receipt))
            return receipt

        try:
            return run_in_threads(job.plan.layout, todo, work, job.plan.memory.n_workers, self.stop)
        finally:
            session.close()

    def _on_cluster(self, job: RunJob, todo: list[TaskKey]) -> list[Receipt]:
        receipts: list[Receipt] = []
        for receipt in run_on_cluster(self.client, job, todo, run_task_on_worker, self.stop):
            self.listener(TilesPredicted(receipt.n_predicted))
            for text in receipt.notes:
                self.listener(Note(text))
            self.listener(TaskDone(receipt))
            receipts.append(receipt)
        return receipts

    def _announce(self, job: RunJob, n_todo: int, done: dict[TaskKey, Receipt]) -> None:
        height, width = job.plan.layout.size
        self.listener(
            RunStarted(
                n_tasks=n_todo + len(done),
                n_done=len(done),
                n_tiles=job.plan.selection.n_predicted,
                n_tiles_done=sum(receipt.n_predicted for receipt in done.values()),
                canvas_pixels=height * width,
                analysed_share=job.plan.analysed_share,
            )
        )


def _receipts_of(run: RunDirectory, spec: ResultSpec) -> dict[TaskKey, Receipt]:
    """What an earlier run finished and whose bytes are still what it recorded.

    What was made from the shards of a task that is to be done again is forgotten as well: it may have been made from
    less than will be there (a shard that was lost, a tile that could not be read).
    """
    done: dict[TaskKey, Receipt] = {}
    for tier in range(spec.layout.n_tiers):
        for place, marker in run.markers.load(tier, check_hashes=True).items():
            children = spec.layout.children(tier, *place) if tier else ()
            if all(TaskKey(tier - 1, *child) in done for child in children):
                done[TaskKey(tier, *place)] = Receipt.from_mapping(marker)
            else:
                run.markers.forget(tier, *place)
    return done


def result_spec(prepared: Prepared) -> ResultSpec:
    """What the result of a plan is."""
    from wsi_seg.output.result_spec import ResultSpec

    plan = prepared.plan
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
        name=plan.slide.name,
        tile_grid=plan.grid.shape,
    )
