"""What runs on the workers: the steps of a slide as functions, and what a worker process keeps between them.

Owns the life of models and sessions in a worker. Every function may run twice, or on another worker than its
predecessor, and leaves the same bytes. Knows the scheduler only as the place it runs in.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, wraps
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from wsi_seg.engine.cluster.isolation import call_apart, run_apart
from wsi_seg.engine.cluster.messages import (
    Assignment,
    Began,
    Orders,
    Outline,
    PreparedSlide,
    Sealed,
    SealedJob,
    TaskReceipt,
    TileKey,
)
from wsi_seg.engine.cluster.watch import Watch
from wsi_seg.engine.events import ignore
from wsi_seg.engine.job import RunJob, TaskKey
from wsi_seg.engine.models import Models
from wsi_seg.engine.receipt import Receipt
from wsi_seg.engine.report import FAILED, RunReport
from wsi_seg.engine.session import Session, Trial, run_task, session_for
from wsi_seg.engine.steps import Spent, begin, finish, identity_of, job_of
from wsi_seg.errors import CorruptOutputError, WsiSegError
from wsi_seg.output.status import TileStatus

if TYPE_CHECKING:
    from wsi_seg.engine.options import RunOptions
    from wsi_seg.engine.prepare import Planned

P = ParamSpec("P")
T = TypeVar("T")
KEPT_MODELS = 4
"""Loaded models in a worker process: the one in use, the one it was chosen from, and those of the next slides."""
KEPT_SESSIONS = 2
"""Slides in a worker process: the one it works on and the one it comes from."""
PREPARING_S = 300.0
"""Seconds that opening a slide, and each further step before its first tile, may take."""
FINISHING_S = 1800.0
"""Seconds that the commit may take: a TIFF pyramid is copied within it."""


@dataclass(frozen=True, slots=True)
class Place:
    """The worker that a function runs on."""

    address: str
    n_threads: int
    memory_bytes: int | None
    """Its limit; None: none is set."""


class Held:
    """What a process holds for the tasks that come by."""

    def __init__(self) -> None:
        self.models = Models(keep=KEPT_MODELS)
        self.watch = Watch(_end_process)
        self._sessions: OrderedDict[str, Session] = OrderedDict()
        self._stops: dict[str, threading.Event] = {}
        self._lock = threading.Lock()
        self._opening: dict[str, threading.Lock] = {}
        self._watching = False

    def watch_once(self) -> None:
        """Begin to watch this process' tasks, unless that is so already."""
        with self._lock:
            if not self._watching:
                self._watching = True
                self.watch.start()

    def stop(self, token: str) -> threading.Event:
        """The event that stops the tasks of a driver."""
        with self._lock:
            return self._stops.setdefault(token, threading.Event())

    def session(self, job: SealedJob) -> Session:
        """The session of a job, made by the first task that asks; the others wait for it. Raises RunMismatchError."""
        with self._lock:
            opening = self._opening.setdefault(job.name, threading.Lock())
        with opening:
            session = self._sessions.get(job.name)
            if session is None:
                session = session_for(job.content.open(), self.models, ignore, self.stop(job.orders.token))
                session.pulse = self.watch.pulse
            with self._lock:
                self._sessions[job.name] = session
                self._sessions.move_to_end(job.name)
                while len(self._sessions) > KEPT_SESSIONS:
                    # Let go of, not closed: another thread may be in the middle of a task of that run.
                    name, _ = self._sessions.popitem(last=False)
                    self._opening.pop(name, None)
        return session

    def forget(self, job: SealedJob) -> None:
        """A run is finished."""
        with self._lock:
            self._sessions.pop(job.name, None)
            self._opening.pop(job.name, None)


@cache
def held() -> Held:
    """What this process holds."""
    return Held()


def here() -> Place:
    """The worker that runs this."""
    from distributed import get_worker

    worker = get_worker()
    return Place(worker.address, worker.state.nthreads, worker.memory_manager.memory_limit or None)


def stop_tasks(token: str) -> None:
    """End the tasks of a driver at their next row of tiles; sent to every worker."""
    held().stop(token).set()


def answers_errors(step: Callable[P, T]) -> Callable[P, T | WsiSegError]:
    """A step that answers errors of ours as values: Dask logs what is raised, with a traceback that helps nobody."""

    @wraps(step)
    def answered(*arguments: P.args, **named: P.kwargs) -> T | WsiSegError:
        try:
            return step(*arguments, **named)
        except WsiSegError as error:
            return error

    return answered


@answers_errors
def prepare_slide(assignment: Assignment) -> PreparedSlide:
    """Open, measure and plan a slide on this worker. Raises WsiSegError."""
    with held().watch.over("preparing a slide", PREPARING_S):
        return _prepared(assignment, here())


@answers_errors
def prepare_apart(assignment: Assignment) -> PreparedSlide:
    """`prepare_slide` in a process of its own, which may die. Raises WsiSegError."""
    place = here()
    step = "opening and planning the slide"
    return call_apart(_prepared, assignment, place, step=step, memory_bytes=place.memory_bytes)


def _prepared(assignment: Assignment, place: Place, *_: Trial) -> PreparedSlide:
    from wsi_seg.engine.prepare import prepare

    orders = assignment.orders
    options = assignment.target.resuming(_fitted(assignment.options, place, orders))
    source = assignment.source if isinstance(assignment.source, Path) else assignment.source.open()
    prepared = prepare(source, options, held().stop(orders.token), held().models)
    planned = prepared.planned
    job = job_of(planned, assignment.target)
    name = f"{orders.token}:{job.run_id}:{job.folder}:{job.plan.layout.block}:{job.result.codec}"
    made = PreparedSlide(_outline(planned, job), SealedJob(name, Sealed.of(job), orders), Sealed.of(planned))
    if isinstance(source, Path):
        prepared.slide.close()
    return made


def _fitted(options: RunOptions, place: Place, orders: Orders) -> RunOptions:
    """The options for one worker: as many blocks at once as it has threads, and what of its memory a plan may use."""
    memory = options.memory_bytes
    if place.memory_bytes is not None:
        share = int(orders.memory_share * place.memory_bytes)
        memory = share if memory is None else min(memory, share)
    return replace(options, workers=place.n_threads, memory_bytes=memory)


def _outline(planned: Planned, job: RunJob) -> Outline:
    from wsi_seg.engine.run import started_event
    from wsi_seg.engine.schedule import all_tasks

    plan = planned.plan
    n_tasks = sum(1 for _ in all_tasks(plan.layout))
    return Outline(identity_of(plan, job.result.codec), plan.layout, started_event(job, n_tasks, ()), plan.notes)


def outline_of(prepared: PreparedSlide | WsiSegError) -> Outline | WsiSegError:
    """The part that the driver reads, or why there is none."""
    return prepared if isinstance(prepared, WsiSegError) else prepared.outline


def job_in(prepared: PreparedSlide) -> SealedJob:
    """The part that the tasks need."""
    return prepared.job


@answers_errors
def begin_slide(job: SealedJob) -> Began:
    """Make the claimed folder ready and look through what an earlier run has left. Raises WriteError."""
    from wsi_seg.engine.run import started_event
    from wsi_seg.engine.schedule import all_tasks

    opened = job.content.open()
    done = begin(opened)
    n_todo = sum(1 for key in all_tasks(opened.plan.layout) if key not in done)
    return Began(tuple(done), started_event(opened, n_todo, done.values()))


@answers_errors
def work(job: SealedJob, key: TaskKey, condemned: dict[TileKey, TileStatus]) -> TaskReceipt:
    """Carry out one task, leaving `condemned` tiles out. Raises WsiSegError."""
    with held().watch.over("opening a slide and its model", PREPARING_S):
        session = held().session(job)
    session.condemn(condemned)
    with held().watch.over(f"task {key.tier}, {key.row}, {key.column} of {job.name}", job.orders.stall_s):
        return told(run_task(session, key))


@answers_errors
def work_apart(job: SealedJob, key: TaskKey, condemned: dict[TileKey, TileStatus]) -> TaskReceipt:
    """`work` in a process of its own, which may die: the tile that ends it is left out. Raises WsiSegError."""
    receipt, found = run_apart(job, key, condemned, here().memory_bytes)
    return replace(told(receipt), condemned=found)


def told(receipt: Receipt) -> TaskReceipt:
    """What the driver hears of a receipt."""
    failed = sum(1 for status in receipt.statuses.values() if status in FAILED)
    pixels = sum(receipt.counts) if receipt.tier == 0 else 0
    return TaskReceipt(receipt.n_predicted, failed, pixels, receipt.seconds, here().address, receipt.notes)


@answers_errors
def finish_slide(prepared: PreparedSlide, assignment: Assignment, spent: Spent, permit: str) -> RunReport:
    """Commit a slide whose tasks are all done; says the same when it was committed already. Raises WsiSegError."""
    with held().watch.over("finishing a slide", FINISHING_S):
        return _finished(prepared, assignment, spent, permit)


@answers_errors
def finish_apart(prepared: PreparedSlide, assignment: Assignment, spent: Spent, permit: str) -> RunReport:
    """`finish_slide` in a process of its own, which may die. Raises WsiSegError."""
    memory, step = here().memory_bytes, "finishing the slide"
    return call_apart(_finished, prepared, assignment, spent, permit, step=step, memory_bytes=memory)


def _finished(prepared: PreparedSlide, assignment: Assignment, spent: Spent, permit: str, *_: Trial) -> RunReport:
    from wsi_seg.output.run_directory import RunDirectory

    target, identity = assignment.target, prepared.outline.identity
    run = RunDirectory.borrowed(target.store, identity, overwrite=target.overwrite, permit=permit)
    try:
        report = finish(run, prepared.planned.open(), target, spent, held().stop(assignment.orders.token))
    except (OSError, CorruptOutputError):
        # This step may have run before, on a worker that was lost, or be running there still.
        published = target.finished()
        if published is None or not run.is_settled or published.summary.run_id != identity.run_id:
            raise
        report = published
    held().forget(prepared.job)
    return report


def _end_process(words: str) -> None:
    """Write where every thread is, and leave; the nanny starts another process and the scheduler asks somebody else."""
    sys.stderr.write(f"wsi-seg: {words}; this worker process ends\n")
    faulthandler.dump_traceback(file=sys.stderr)
    os._exit(75)
