"""The one scheduling loop: all slides' steps on the workers of a Dask cluster, a window of futures as back-pressure.

Preparing the next slides, the blocks of several and the commit of others go on at the same time, so that no worker
waits at the end of a slide. Owns what is submitted and what an answer leads to. The store is the only truth
(RELIABILITY §3): nothing is lost when this process, a worker or the scheduler dies. Knows no pixel.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass, replace
from typing import Any

from wsi_seg.engine.cluster import worker as on_worker
from wsi_seg.engine.cluster.connecting import Connection
from wsi_seg.engine.cluster.events import (
    ClusterListener,
    Phase,
    SlideBegan,
    SlideChanged,
    SlideNote,
    TaskEnded,
)
from wsi_seg.engine.cluster.fleet import Fleet
from wsi_seg.engine.cluster.messages import Assignment, Began, Outline, TaskReceipt
from wsi_seg.engine.cluster.plugin import WsiSegPlugin
from wsi_seg.engine.cluster.silence import without_the_silent
from wsi_seg.engine.cluster.slide_run import SlideRun
from wsi_seg.engine.cluster.submissions import Flight, Submissions
from wsi_seg.engine.cluster.verdict import Verdict, as_ours, judge
from wsi_seg.engine.cluster.work_queue import WorkQueue
from wsi_seg.engine.stopping import check_stop
from wsi_seg.errors import WsiSegError

WAIT_S = 0.5
"""Seconds until the loop looks up when no answer comes."""
STOPPING_S = 5.0
"""Seconds that workers have to hear that they are to stop."""


@dataclass(frozen=True, slots=True)
class Steps:
    """What is done on workers; the simulation of a cluster puts others in their place."""

    prepare: Callable[..., Any] = on_worker.prepare_slide
    outline: Callable[..., Any] = on_worker.outline_of
    job: Callable[..., Any] = on_worker.job_in
    begin: Callable[..., Any] = on_worker.begin_slide
    work: Callable[..., Any] = on_worker.work
    finish: Callable[..., Any] = on_worker.finish_slide
    prepare_apart: Callable[..., Any] = on_worker.prepare_apart
    work_apart: Callable[..., Any] = on_worker.work_apart
    finish_apart: Callable[..., Any] = on_worker.finish_apart
    claim: Callable[[Assignment, Outline], Any] | None = None
    """In this process: holds the folder of a slide; None: as `claim_folder` does."""


class Loop:
    """Carries out assignments on the workers of a connection."""

    def __init__(
        self,
        connection: Connection,
        assignments: Sequence[Assignment],
        listener: ClusterListener,
        stop: threading.Event,
        steps: Steps | None = None,
    ) -> None:
        """`assignments` in the order in which they are to be prepared, large ones first; they share their orders."""
        self._client = connection.client
        self._slides = [SlideRun(number, assignment) for number, assignment in enumerate(assignments)]
        self._listener, self._stop, self._steps = listener, stop, steps or Steps()
        self._waiting = deque(self._slides)
        self._n_open = len(self._slides)
        self._n_preparing = 0
        self._queue = WorkQueue()
        self._fleet = Fleet(connection, self._queue, listener)
        self._submitted = Submissions(self._client)

    def carry_out(self) -> None:
        """Work until every slide is done or has failed; what became of each, the listener hears.

        Raises RunStopped, ClusterError where the cluster is lost.
        """
        try:
            with without_the_silent(self._client):
                self._client.register_plugin(WsiSegPlugin())
                while self._n_open:
                    self._turn()
        except BaseException:
            self._halt()
            raise
        finally:
            self._submitted.close()
            for slide in self._slides:
                slide.release()

    def _turn(self) -> None:
        """Hand out what there is room for, and take what has come."""
        check_stop(self._stop)
        self._fleet.look()
        self._prepare_more()
        for address, number, key in self._fleet.free_places():
            self._work(Flight("work", number, key, address))
        for flight, answer in self._submitted.answers(WAIT_S):
            self._take(flight, answer)
        for slide in self._slides:
            if slide.lost.is_set():
                self._lose(slide)

    def _prepare_more(self) -> None:
        """Have a prepared slide at hand for every worker that may run out of work, and one more."""
        wanted = self._fleet.n_workers + 1 - self._queue.n_unclaimed
        while self._waiting and self._n_preparing < wanted:
            self._prepare(self._waiting.popleft())

    def _prepare(self, slide: SlideRun, flight: Flight | None = None) -> None:
        flight = flight or Flight("outline", slide.number)
        prepare = self._steps.prepare_apart if flight.apart else self._steps.prepare
        self._n_preparing += 1
        slide.start_clock()
        self._enter(slide, Phase.PREPARING)
        slide.prepared = self._submitted.keep(prepare, slide.assignment, name=f"prepare-{slide.number}")
        self._submitted.launch(flight, self._steps.outline, slide.prepared)

    def _work(self, flight: Flight) -> None:
        slide, work = self._slides[flight.slide], self._steps.work_apart if flight.apart else self._steps.work
        self._submitted.launch(flight, work, slide.job, flight.key, slide.condemned)

    def _take(self, flight: Flight, answer: Any) -> None:
        """Do what an answer leads to."""
        slide = self._slides[flight.slide]
        self._landed(flight)
        try:
            if isinstance(answer, BaseException):
                self._mend(slide, flight, answer)
            else:
                self._go_on(slide, flight, answer)
        except WsiSegError as error:  # of this process: the claim of a folder
            self._fail(slide, error)

    def _landed(self, flight: Flight) -> None:
        """Nothing more is to come of a flight: its place is free."""
        if flight.worker:
            self._fleet.came_back(flight.worker)
        if flight.step in ("outline", "begin"):
            self._n_preparing -= 1

    def _go_on(self, slide: SlideRun, flight: Flight, answer: Any) -> None:
        match flight.step:
            case "outline":
                self._outlined(slide, answer)
            case "begin":
                self._begun(slide, answer)
            case "finish":
                self._close(slide)
                self._enter(slide, Phase.DONE, report=answer)
            case _:
                self._worked(slide, flight, answer)

    def _outlined(self, slide: SlideRun, outline: Outline) -> None:
        for note in outline.notes:
            self._listener(SlideNote(slide.number, note))
        slide.take((self._steps.claim or claim_folder)(slide.assignment, outline))
        slide.layout = outline.layout
        slide.job = self._submitted.keep(self._steps.job, slide.prepared, name=f"job-{slide.number}")
        self._begin(slide)

    def _begin(self, slide: SlideRun, flight: Flight | None = None) -> None:
        self._n_preparing += 1
        self._submitted.launch(flight or Flight("begin", slide.number), self._steps.begin, slide.job)

    def _begun(self, slide: SlideRun, began: Began) -> None:
        slide.plan_tiers(began.done)
        self._enter(slide, Phase.WORKING)
        self._listener(SlideBegan(slide.number, began.started))
        self._next_tier(slide)

    def _next_tier(self, slide: SlideRun) -> None:
        keys = slide.next_tier()
        if not keys:
            self._finish(slide)
        else:
            self._queue.add(slide.number, keys, first=keys[0].tier > 0)

    def _worked(self, slide: SlideRun, flight: Flight, receipt: TaskReceipt) -> None:
        assert flight.key is not None
        slide.condemned = {**slide.condemned, **receipt.condemned}
        for note in receipt.notes:
            self._listener(SlideNote(slide.number, note))
        self._listener(TaskEnded(slide.number, flight.key, receipt))
        if slide.task_done():
            self._next_tier(slide)

    def _finish(self, slide: SlideRun, flight: Flight | None = None) -> None:
        flight = flight or Flight("finish", slide.number)
        finish = self._steps.finish_apart if flight.apart else self._steps.finish
        self._enter(slide, Phase.FINISHING)
        self._submitted.launch(flight, finish, slide.prepared, slide.assignment, slide.spent(), slide.permit)

    def _mend(self, slide: SlideRun, flight: Flight, error: BaseException) -> None:
        """Do a failed step again, in whatever way may help, or let the slide fail."""
        if isinstance(error, CancelledError):
            self._fleet.check_client()
        verdict = judge(error, flight.tries, can_be_apart=flight.step != "begin" and not flight.apart)
        if verdict is Verdict.FAILED:
            self._fail(slide, as_ours(error, _words(flight)))
            return
        again = replace(flight, tries=flight.tries + 1, worker="")
        if verdict is Verdict.APART:
            self._listener(SlideNote(slide.number, f"{_words(flight)} has ended its worker and is done apart"))
            again = replace(again, apart=True, tries=1)
        match flight.step:
            case "work":
                self._work(again)
            case "outline":
                self._prepare(slide, again)
            case "begin":
                self._begin(slide, again)
            case _:
                self._finish(slide, again)

    def _lose(self, slide: SlideRun) -> None:
        """The folder is somebody else's by now."""
        slide.lost.clear()
        if slide.folder is None:
            return
        try:
            slide.folder.confirm()
        except WsiSegError as error:
            self._fail(slide, error)

    def _fail(self, slide: SlideRun, error: WsiSegError) -> None:
        self._queue.drop(slide.number)
        for flight in self._submitted.drop(slide.number):
            self._landed(flight)
        self._close(slide)
        self._enter(slide, Phase.FAILED, error=error)

    def _close(self, slide: SlideRun) -> None:
        slide.release()
        self._n_open -= 1

    def _enter(self, slide: SlideRun, phase: Phase, **told: Any) -> None:
        if slide.phase is not phase:
            slide.phase = phase
            self._listener(SlideChanged(slide.number, phase, **told))

    def _halt(self) -> None:
        """End what is under way: nothing new is begun, and workers leave their tasks at the next row of tiles."""

        def tell() -> None:
            self._submitted.cancel()
            if self._slides:
                self._client.run(on_worker.stop_tasks, self._slides[0].assignment.orders.token, on_error="ignore")

        if self._client.status != "running":
            return  # workers leave when their scheduler does
        # In a thread that is given up: a worker that hangs answers nobody.
        teller = threading.Thread(target=tell, daemon=True)
        teller.start()
        teller.join(STOPPING_S)


def claim_folder(assignment: Assignment, outline: Outline) -> Any:
    """Hold the folder of a slide's result for as long as this process works on it. Raises as `open_run`."""
    from wsi_seg.output.run_directory import open_run
    from wsi_seg.plan import differing_fields

    options = assignment.options
    flags = {"restart": options.restart, "overwrite": options.overwrite}
    return open_run(assignment.target.store, outline.identity, differing_fields, **flags)


def _words(flight: Flight) -> str:
    names = {"outline": "preparing", "begin": "beginning", "finish": "finishing"}
    if flight.key is None:
        return f"{names[flight.step]} the slide"
    return f"task (tier, row, column) {flight.key.tier}, {flight.key.row}, {flight.key.column}"
