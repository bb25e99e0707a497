"""The run of one slide, from plan to result. What `wsi-seg run` does.

Owns the order of the steps in this process; on a cluster they are `cluster/`'s. Knows no pixel.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from wsi_seg.engine.events import Listener, Note, RunStarted, TaskDone, ignore
from wsi_seg.engine.hands import Hands
from wsi_seg.engine.job import RunJob, TaskKey
from wsi_seg.engine.options import RunOptions
from wsi_seg.engine.prepare import Prepared, prepare
from wsi_seg.engine.receipt import Receipt
from wsi_seg.engine.report import RunReport
from wsi_seg.engine.schedule import all_tasks, run_in_threads
from wsi_seg.engine.session import Session, run_task
from wsi_seg.engine.steps import Spent, begin, finish, identity_of, job_of
from wsi_seg.engine.target import Target

if TYPE_CHECKING:
    from wsi_seg.output.store import Location
    from wsi_seg.slide import Slide


def run_slide(
    source: Path | Slide,
    options: RunOptions | None = None,
    *,
    out: str | Location | None = None,
    listener: Listener = ignore,
    stop: threading.Event | None = None,
) -> RunReport:
    """Segment a slide into `out`; resumes what an earlier run of the same identity left unfinished.

    `out` is NAME.seg.zarr, or NAME.ome.tif for a TIFF pyramid; None: SLIDE.seg.zarr in the current folder. A text may
    be a URL, such as s3://BUCKET/NAME.seg.zarr. `stop` ends the run at the next row of tiles, keeping what is finished.
    Raises WsiSegError.
    """
    started = perf_counter()
    options = options or RunOptions()
    target = Target.of(source, out, options)
    target.check()
    stop = stop or threading.Event()
    if options.scheduler:
        from wsi_seg.engine.cluster import run_on_scheduler

        return run_on_scheduler(source, target, options, listener, stop)
    prepared = prepare(source, target.resuming(options), stop)
    for note in prepared.plan.notes:
        listener(Note(note))
    try:
        return _Run(prepared, target, options, listener, stop).carry_out(started)
    finally:
        prepared.predictor.close()
        if isinstance(source, str | Path):
            prepared.slide.close()


@dataclass(frozen=True, slots=True)
class _Run:
    """One run in threads of this process, from its plan to its report."""

    prepared: Prepared
    target: Target
    options: RunOptions
    listener: Listener
    stop: threading.Event

    def carry_out(self, started: float) -> RunReport:
        """Do what is not done yet, then commit."""
        from wsi_seg.output.run_directory import open_run
        from wsi_seg.plan import differing_fields

        flags = {"restart": self.options.restart, "overwrite": self.options.overwrite}
        identity = identity_of(self.prepared.plan, self.target.codec)
        with open_run(self.target.store, identity, differing_fields, **flags) as run:
            run.on_loss(self.stop.set)
            job = job_of(self.prepared, self.target)
            began = perf_counter()
            done = begin(job)
            todo = [key for key in all_tasks(job.plan.layout) if key not in done]
            self.listener(started_event(job, len(todo), done.values()))
            self._work(job, todo)
            now, workers = perf_counter(), job.plan.memory.n_workers
            spent = Spent(now - started, now - began, done.keys(), workers)
            return finish(run, self.prepared, self.target, spent, self.stop)

    def _work(self, job: RunJob, todo: list[TaskKey]) -> None:
        # Threads come to rest before the session is closed that they work with.
        with ExitStack() as held:
            hands = Hands(job.plan.memory.n_workers)
            session = Session(job, self.prepared.predictor, listener=self.listener, stop=self.stop, hands=hands)
            held.callback(session.close)
            held.enter_context(hands)

            def work(key: TaskKey) -> Receipt:
                with hands.at_work():
                    receipt = run_task(session, key)
                self.listener(TaskDone(receipt))
                return receipt

            run_in_threads(job.plan.layout, todo, work, hands, self.stop)


def started_event(job: RunJob, n_todo: int, done: Iterable[Receipt]) -> RunStarted:
    """What is known of the work before it begins, or goes on."""
    height, width = job.plan.layout.size
    predicted = [receipt.n_predicted for receipt in done]
    return RunStarted(
        n_tasks=n_todo + len(predicted),
        n_done=len(predicted),
        n_tiles=job.plan.selection.n_predicted,
        n_tiles_done=sum(predicted),
        canvas_pixels=height * width,
        analysed_share=job.plan.analysed_share,
    )
