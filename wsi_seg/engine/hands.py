"""Threads of a process that have no task left help those that have: near a run's end no core waits for the last block.

Owns who is free and the rule that nobody waits for help that has not begun. Knows no tile and no model.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Generic, Self, TypeVar

Answer = TypeVar("Answer")


class Help(Generic[Answer]):
    """A call that another thread may be doing."""

    def __init__(self, call: Callable[[], Answer], future: Future[Answer], release: Callable[[], None]) -> None:
        self._call, self._future, self._release = call, future, release

    @property
    def done(self) -> bool:
        """Whether `result` would answer at once."""
        return self._future.done()

    def result(self) -> Answer:
        """The call's answer, or its error; made by the calling thread where no other has begun with it.

        So that a queue of other work before it cannot lock up the two: that work may wait for what this thread owes.
        """
        try:
            return self._call() if self._future.cancel() else self._future.result()
        finally:
            self._release()

    def forget(self) -> None:
        """The answer is not wanted any more."""
        self._future.cancel()
        self._release()


class Hands:
    """The threads that do a run's tasks in this process: each carries out a task, helps another's, or is free."""

    def __init__(self, n_threads: int) -> None:
        """With 0 threads nobody ever helps."""
        self.n_threads = self._free = n_threads
        self.pool = ThreadPoolExecutor(max(1, n_threads), thread_name_prefix="wsi-seg")
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Come to rest."""
        self.pool.shutdown()

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """The calling thread, one of the pool's, has a task while the `with` lasts."""
        self._change(-1)
        try:
            yield
        finally:
            self._change(1)

    def ask(self, call: Callable[[], Answer]) -> Help[Answer] | None:
        """Have a free thread do `call`; None where none is free.

        It counts as free again when its answer is taken: so no more is under way than there are threads, and memory
        stays near that of a task in every thread.
        """
        with self._lock:
            if self._free <= 0:
                return None
            self._free -= 1
        return Help(call, self.pool.submit(call), lambda: self._change(1))

    def _change(self, n: int) -> None:
        with self._lock:
            self._free += n
