"""A batch: many slides on many workers, and a report. What `wsi-seg batch` does.

Owns which slides are still to be done, in which order, and what becomes of each. Knows no pixel and no scheduler.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic
from typing import Any
from uuid import uuid4

from wsi_seg.batch.asked import Asked, differences
from wsi_seg.batch.folder import BatchFolder
from wsi_seg.batch.inputs import BatchSlide
from wsi_seg.batch.record import DONE, SlideRecord, Stamp, done_record, failed_record
from wsi_seg.batch.report import BatchReport, write_reports
from wsi_seg.batch.tally import Tally
from wsi_seg.engine.cluster.connecting import LocalWorkers, connected
from wsi_seg.engine.cluster.events import ClusterEvent, Connected, SlideChanged
from wsi_seg.engine.cluster.loop import Loop
from wsi_seg.engine.cluster.messages import Assignment, Orders
from wsi_seg.engine.options import RunOptions, Scheduler
from wsi_seg.engine.report import RunReport
from wsi_seg.engine.target import Target
from wsi_seg.errors import BatchError, ModelLoadError, WsiSegError
from wsi_seg.output.store import Location, location_of

Where = LocalWorkers | Scheduler | Path
"""Workers of this machine, a scheduler, or the YAML file of a queueing system."""
Watcher = Callable[[Tally, ClusterEvent | None], None]
"""Called after each event, and once with None before the first."""


@dataclass(frozen=True, slots=True)
class BatchOptions:
    """What a user may ask of a batch."""

    run: RunOptions
    """The same for all slides, but for what a manifest says of one."""
    where: Where
    tiff: bool = False
    """Write NAME.ome.tif instead of NAME.seg.zarr."""
    stall_s: float = 60.0
    """Seconds without any progress after which a worker process is ended."""


def run_batch(
    slides: Sequence[BatchSlide],
    out: str | Location,
    options: BatchOptions,
    *,
    watcher: Watcher = lambda *_: None,
    stop: threading.Event | None = None,
) -> BatchReport:
    """Segment `slides` into the folder `out`, or below a URL; what an earlier call finished there is left alone.

    A slide that fails is recorded, and the others go on. Raises BatchError, OutputExistsError, UsageError,
    ModelLoadError, ClusterError, WriteError, RunStopped; the reports are written also then, with what is known.
    """
    folder, stop = BatchFolder(location_of(out)), stop or threading.Event()
    batch = _Batch(folder, options, slides)
    batch.check()
    with folder.held(stop):
        goes_on = folder.claim(batch.asked, anew=options.run.overwrite)
        todo = batch.to_do(adopt=goes_on)
        try:
            if todo:
                batch.work_on(todo, watcher, stop)
        except BaseException:
            with suppress(WsiSegError):  # the first error is the one to tell
                write_reports(folder.path, batch.report())
            raise
        report = batch.report()
        write_reports(folder.path, report)
    return report


@dataclass(slots=True)
class _Turn:
    """A slide that is worked on in this call."""

    slide: BatchSlide
    stamp: Stamp | None
    began: float = 0.0


class _Batch:
    """One call of `run_batch`."""

    def __init__(self, folder: BatchFolder, options: BatchOptions, slides: Sequence[BatchSlide]) -> None:
        self._folder, self._options, self._slides = folder, options, slides
        self._records: dict[str, SlideRecord] = {}
        self._asked = Asked()
        self.asked: dict[str, Any] = self._asked.of(options.run, tiff=options.tiff)
        """Of all slides: what must be the same when the batch goes on. What a manifest says of one is in its record."""
        self._asked_of = {slide.name: self._asked_for(slide) for slide in slides}
        self._began = monotonic()
        self._n_new = 0

    def check(self) -> None:
        """Refuse results that cannot lie in the folder. Raises UsageError."""
        for slide in self._slides:
            self._target(slide)

    def to_do(self, *, adopt: bool) -> list[BatchSlide]:
        """Slides without a result, the largest files first. `adopt`: results without a record count as made by us."""
        todo = []
        for slide in self._slides:
            known = None if self._options.run.overwrite else self._known(slide, adopt=adopt)
            if known is not None:
                self._records[slide.name] = known
            elif self._can_be_made(slide):
                todo.append(slide)
        return sorted(todo, key=lambda slide: -_bytes_of(slide.path))

    def _can_be_made(self, slide: BatchSlide) -> bool:
        target = self._target(slide)
        try:
            target.site.make_place()
            target.check()
        except WsiSegError as error:
            self._fail(slide, Stamp.of(slide.path), error)
            return False
        return True

    def _known(self, slide: BatchSlide, *, adopt: bool) -> SlideRecord | None:
        """The record of a slide that is done; None where it is to be done. One that has changed since has failed."""
        record, report = self._folder.record(slide.name), self._target(slide).finished()
        if report is None or not (adopt or record is not None):
            return None
        stamp, asked = Stamp.of(slide.path), self._asked_of[slide.name]
        ours = record is not None and record.run_id == report.summary.run_id
        if record is not None and ours and (changed := differences(record.asked, asked)):
            return self._fail(slide, stamp, _made_otherwise(report.out, changed))
        known_by = (DONE, report.summary.run_id, stamp, str(slide.path.absolute()))
        if record is not None and (record.state, record.run_id, record.stamp, record.slide) == known_by:
            return record
        if error := _not_of(slide, report):
            return self._fail(slide, stamp, error)
        return self._done(slide, stamp, report)

    def work_on(self, todo: Sequence[BatchSlide], watcher: Watcher, stop: threading.Event) -> None:
        """Carry out what is to be done, recording what becomes of each slide."""
        tally = Tally([(slide.name, _bytes_of(slide.path)) for slide in todo], n_before=len(self._records))
        turns = [_Turn(slide, Stamp.of(slide.path)) for slide in todo]
        watcher(tally, None)

        def hear(event: ClusterEvent) -> None:
            tally.hear(event)
            if isinstance(event, SlideChanged):
                self._changed(turns[event.slide], event)
            watcher(tally, event)

        orders = Orders(uuid4().hex, stall_s=self._options.stall_s)
        assignments = [
            Assignment(slide.path.absolute(), self._target(slide), self._options_of(slide), orders) for slide in todo
        ]
        with connected(self._options.where) as connection:
            hear(Connected(connection.dashboard))
            Loop(connection, assignments, hear, stop).carry_out()

    def _changed(self, turn: _Turn, event: SlideChanged) -> None:
        slide = turn.slide
        turn.began = turn.began or monotonic()
        if event.report is not None:
            self._done(slide, turn.stamp, event.report)
        elif event.error is not None:
            self._fail(slide, turn.stamp, event.error, monotonic() - turn.began)

    def _done(self, slide: BatchSlide, stamp: Stamp | None, report: RunReport) -> SlideRecord:
        record = done_record(slide.name, slide.path.absolute(), stamp, report)
        return self._keep(replace(record, asked=self._asked_of[slide.name]))

    def _fail(self, slide: BatchSlide, stamp: Stamp | None, error: WsiSegError, seconds: float = 0.0) -> SlideRecord:
        """An earlier result, where there is one, stays known by what was asked of it."""
        failed = replace(failed_record(slide.name, slide.path.absolute(), stamp, error), seconds=round(seconds, 3))
        if (before := self._folder.record(slide.name)) is not None:
            failed = replace(failed, run_id=before.run_id, asked=before.asked)
        return self._keep(failed)

    def _keep(self, record: SlideRecord) -> SlideRecord:
        self._folder.keep(record)
        self._records[record.name] = record
        self._n_new += 1
        return record

    def _target(self, slide: BatchSlide) -> Target:
        suffix = ".ome.tif" if self._options.tiff else ".seg.zarr"
        out = self._folder.path.absolute() / f"{slide.name}{suffix}"
        return Target.of(slide.path, out, self._options_of(slide))

    def _asked_for(self, slide: BatchSlide) -> dict[str, Any]:
        """What is asked of one slide. Raises ModelLoadError, which names the slide where the model is its own."""
        try:
            return self._asked.of(self._options_of(slide), tiff=self._options.tiff)
        except ModelLoadError as error:
            if slide.model is None:
                raise
            raise ModelLoadError(f"{slide.path}: {error.what}", rule=error.rule, remedy=error.remedy) from error

    def _options_of(self, slide: BatchSlide) -> RunOptions:
        common = self._options.run
        own = replace(
            common,
            scheduler=None,
            slide_mpp=common.slide_mpp if slide.mpp is None else slide.mpp,
            roi=slide.roi or common.roi,
            model=slide.model or common.model,
        )
        return own.for_anywhere()

    def report(self) -> BatchReport:
        """What is known now."""
        records = [self._records[slide.name] for slide in self._slides if slide.name in self._records]
        missing = [slide.name for slide in self._slides if slide.name not in self._records]
        seconds = monotonic() - self._began
        return BatchReport(self._folder.path, tuple(records), tuple(missing), seconds, self._n_new)


def _bytes_of(path: Path) -> int:
    """Size of a slide's file; of a folder or of what lies in the folder beside a .mrxs file, as far as a look tells."""
    folder = path.with_suffix("") if path.suffix.lower() == ".mrxs" else path
    try:
        if folder.is_dir():
            return sum(entry.stat().st_size for entry in folder.iterdir())
        return path.stat().st_size
    except OSError:
        return 0


def _made_otherwise(out: Location, changed: Sequence[str]) -> WsiSegError:
    return BatchError(
        f"{out} was made with other options: {'; '.join(changed)}",
        rule="a result is kept for what was asked of it",
        remedy="the options of before, another name in the manifest, or --overwrite to make all results again",
    )


def _not_of(slide: BatchSlide, report: RunReport) -> WsiSegError | None:
    """Why a result is not that of the slide that is there now; None where it is."""
    from wsi_seg.slide import open_slide

    try:
        opened = open_slide(slide.path, mpp=slide.mpp or 1.0)
        fingerprint = opened.fingerprint()
        opened.close()
    except WsiSegError as error:
        return error
    if fingerprint == report.summary.slide_fingerprint:
        return None
    return BatchError(
        f"{report.out} was made from another file than {slide.path} is now",
        rule="a result belongs to the bytes of its slide",
        remedy="--overwrite makes all results again; or move this one away",
    )
