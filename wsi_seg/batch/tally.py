"""How a batch is getting on: slides by state, speed, time left, and how busy each worker is.

Owns these sums, made from the events of the cluster. Draws nothing.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import monotonic

from wsi_seg.engine.cluster.events import (
    ClusterEvent,
    Connected,
    Phase,
    SlideBegan,
    SlideChanged,
    SlideNote,
    TaskEnded,
    WorkersChanged,
)

RUNNING = (Phase.PREPARING, Phase.WORKING, Phase.FINISHING)


@dataclass(slots=True)
class SlideTally:
    """One slide of the batch."""

    name: str
    weight: int
    """Size of its file in bytes: what is known before it is opened."""
    phase: Phase = Phase.WAITING
    n_tasks: int = 0
    n_done: int = 0
    n_resumed: int = 0
    n_failed_tiles: int = 0
    error: str = ""

    @property
    def share(self) -> float:
        """Part that is done, 0 … 1."""
        if self.phase in (Phase.DONE, Phase.FAILED):
            return 1.0
        return self.n_done / self.n_tasks if self.n_tasks else 0.0


@dataclass(slots=True)
class WorkerTally:
    """One worker process."""

    threads: int
    since: float
    busy_s: float = 0.0
    n_tasks: int = 0

    def utilisation(self, now: float) -> float:
        """Part of the time of its threads that was spent on tasks, 0 … 1; a task counts when it ends."""
        return min(1.0, self.busy_s / max(1e-9, (now - self.since) * self.threads))


class Tally:
    """Takes in events; may be read from another thread."""

    def __init__(
        self, slides: Sequence[tuple[str, int]], *, n_before: int = 0, clock: Callable[[], float] = monotonic
    ) -> None:
        """`slides`: (name, size of the file in bytes), by number; `n_before` others were settled earlier."""
        self.n_before = n_before
        self.slides = [SlideTally(name, max(1, weight)) for name, weight in slides]
        self.workers: dict[str, WorkerTally] = {}
        self.mpx = 0.0
        """Megapixels that got a label in this run."""
        self.notes: list[str] = []
        self._clock = clock
        self.began = clock()
        self._working_since: float | None = None
        self._lock = threading.Lock()

    def hear(self, event: ClusterEvent) -> None:
        """Take in one event."""
        with self._lock:
            match event:
                case Connected(dashboard=dashboard) if dashboard:
                    self.notes.append(f"Dask's pages: {dashboard}")
                case SlideChanged(slide=number, phase=phase, error=error):
                    self.slides[number].phase = phase
                    self.slides[number].error = "" if error is None else error.what
                case SlideBegan(slide=number, started=started):
                    slide = self.slides[number]
                    slide.n_tasks, slide.n_done, slide.n_resumed = started.n_tasks, started.n_done, started.n_done
                    self._working_since = self._working_since or self._clock()
                case TaskEnded():
                    self._task_ended(event)
                case SlideNote(slide=number, text=text):
                    self.notes.append(f"{self.slides[number].name}: {text}")
                case WorkersChanged(threads=threads):
                    now = self._clock()
                    for address, n in threads.items():
                        self.workers.setdefault(address, WorkerTally(n, now))
                    self.workers = {address: self.workers[address] for address in threads}

    def _task_ended(self, event: TaskEnded) -> None:
        slide, receipt = self.slides[event.slide], event.receipt
        slide.n_done += 1
        slide.n_failed_tiles += receipt.n_failed
        self.mpx += receipt.pixels / 1e6
        worker = self.workers.get(receipt.worker)
        if worker is not None:
            worker.busy_s += receipt.seconds
            worker.n_tasks += 1

    def count(self) -> Counter[Phase]:
        """Slides by phase."""
        return Counter(slide.phase for slide in self.slides)

    @property
    def mpx_per_s(self) -> float:
        """Since the first slide's tasks began."""
        since = self._working_since
        return 0.0 if since is None else self.mpx / max(1e-9, self._clock() - since)

    @property
    def seconds_left(self) -> float | None:
        """By the bytes of the slides that are done, and the share of those under way; None while nothing is known."""
        whole = sum(slide.weight for slide in self.slides)
        done = sum(slide.weight * slide.share for slide in self.slides)
        resumed = sum(s.weight * s.n_resumed / s.n_tasks for s in self.slides if s.n_tasks)
        elapsed = self._clock() - self.began
        if done - resumed <= 0 or elapsed < 2:
            return None
        return elapsed * (whole - done) / (done - resumed)
