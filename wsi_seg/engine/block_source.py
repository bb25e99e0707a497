"""Predicts single blocks of a planned slide in whichever thread asks, and writes nothing.

Owns the resources of that (model, threads that help, slide), how many blocks are predicted at once, and their end.
Knows no cache and no viewer.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from wsi_seg.engine.block import predict_block
from wsi_seg.engine.block_cache import Block
from wsi_seg.engine.events import Note
from wsi_seg.engine.hands import Hands
from wsi_seg.engine.job import RunJob
from wsi_seg.engine.session import Session
from wsi_seg.engine.steps import result_spec
from wsi_seg.errors import RunStopped, UsageError

if TYPE_CHECKING:
    from wsi_seg.engine.events import Event
    from wsi_seg.engine.prepare import Prepared

Answer = TypeVar("Answer")

MAX_PROBLEMS = 1000
"""Failures told in words."""


class BlockSource:
    """Labels of blocks, at most as many at once as the plan has workers. For several threads."""

    def __init__(self, prepared: Prepared, *, owns_slide: bool) -> None:
        """`owns_slide`: the slide is closed with this; the predictor is, always."""
        plan = prepared.plan
        self.prepared, self.spec = prepared, result_spec(prepared)
        self.hands = Hands(plan.memory.n_workers)
        job = RunJob(plan.run_id, None, prepared.slide, prepared.model, plan, self.spec, prepared.blend)
        self._stop = threading.Event()
        self._session = Session(job, prepared.predictor, listener=self._hear, stop=self._stop, hands=self.hands)
        self._turns = threading.Semaphore(plan.memory.n_workers)
        self._owns_slide = owns_slide
        self._notes: dict[str, None] = dict.fromkeys(plan.notes)
        self._problems: dict[str, None] = {}
        self._lock = threading.Lock()
        self._closing = threading.Lock()
        self._is_closed = False

    @property
    def problems(self) -> tuple[str, ...]:
        """What went wrong with single tiles, in words: their px are not analysed."""
        with self._lock:
            return tuple(self._problems)

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know, in words."""
        with self._lock:
            return tuple(self._notes)

    def is_blank(self, block: Block) -> bool:
        """Whether nothing of a block is analysed by the plan, so that nothing has to be predicted."""
        plan = self.prepared.plan
        rows, columns = plan.cells.grid.cells_touching(plan.layout.task_box(0, *block))
        return not self._session.analysed_cells[rows.start : rows.stop, columns.start : columns.stop].any()

    def labels(self, block: Block) -> NDArray[Any]:
        """Labels (h, w) of a block, those that a run with the same options writes.

        Raises UsageError once closed. What cannot be read or predicted is not analysed and told in `problems`.
        """
        self.check_open()
        if self.is_blank(block):
            size = self.prepared.plan.layout.task_box(0, *block).size
            return np.full(size, self.spec.not_analysed, self.spec.dtype)
        with self._turns:
            self.check_open()
            try:
                with self.hands.at_work():
                    predicted = predict_block(self._session, *block)
            except RunStopped:
                raise _closed() from None
        self._remember(predicted.failures)
        return predicted.labels

    def submit(self, call: Callable[..., Answer], *arguments: Any) -> Future[Answer]:
        """Have a thread of this do `call`. Raises UsageError once closed."""
        try:
            return self.hands.pool.submit(call, *arguments)
        except RuntimeError:  # the pool takes nothing any more
            self.check_open()
            raise

    def check_open(self) -> None:
        """Raise UsageError once closed."""
        if self._is_closed:
            raise _closed()

    def close(self) -> None:
        """End what is under way, wait for that, and release model and slide. May be called again."""
        with self._closing:
            if self._is_closed:
                return
            self._is_closed = True
            self._stop.set()
            for _ in range(self.hands.n_threads):
                self._turns.acquire()
            for _ in range(self.hands.n_threads):
                self._turns.release()  # whoever waits for one hears that it is over
            self.hands.pool.shutdown()
            self._session.close()
            self.prepared.predictor.close()
            if self._owns_slide:
                self.prepared.slide.close()

    def _hear(self, event: Event) -> None:
        if isinstance(event, Note):
            with self._lock:
                self._notes[event.text] = None

    def _remember(self, failures: tuple[str, ...]) -> None:
        with self._lock:
            for text in failures:
                if len(self._problems) < MAX_PROBLEMS:
                    self._problems[text] = None


def _closed() -> UsageError:
    return UsageError("the lazy mask is closed", rule="it predicts until close()", remedy="open it again")
