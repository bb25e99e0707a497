"""Ends a process whose task makes no progress, so that somebody else can do the task.

A thread that hangs (a read from a dead network drive, a deadlock in a library) cannot be stopped, only its process can.
Owns the clock of every watched task and the decision; what ending means is a function it is given.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic

SLOWER = 10
"""Times the longest step seen so far that a step may take."""


@dataclass(slots=True)
class _Watched:
    name: str
    limit_s: float
    last: float
    began: float


class Watch:
    """Looks at the tasks of this process once in a while. For several threads, one task each at a time."""

    def __init__(self, end: Callable[[str], None], clock: Callable[[], float] = monotonic) -> None:
        """`end` is called once, with words, when a task is overdue."""
        self._end, self._clock = end, clock
        self._watched: dict[int, _Watched] = {}
        self._longest = 0.0
        self._lock = threading.Lock()

    @contextmanager
    def over(self, name: str, limit_s: float) -> Iterator[None]:
        """Watch what this thread does.

        It has to call `pulse` at least every `limit_s` seconds, or SLOWER times the longest time between two pulses.
        """
        thread, now = threading.get_ident(), self._clock()
        with self._lock:
            self._watched[thread] = _Watched(name, limit_s, now, now)
        try:
            yield
        finally:
            with self._lock:
                self._watched.pop(thread, None)

    def pulse(self) -> None:
        """This thread's task has got further."""
        with self._lock:
            watched = self._watched.get(threading.get_ident())
            if watched is not None:
                now = self._clock()
                self._longest = max(self._longest, now - watched.last)
                watched.last = now

    def running(self) -> dict[str, float]:
        """Seconds since each watched task began, by name."""
        now = self._clock()
        with self._lock:
            return {watched.name: now - watched.began for watched in self._watched.values()}

    def look(self) -> bool:
        """Call `end` where a task is overdue; answers whether it did."""
        now = self._clock()
        with self._lock:
            late = [w for w in self._watched.values() if now - w.last > max(w.limit_s, SLOWER * self._longest)]
        if late:
            self._end(f"{late[0].name} has made no progress for {now - late[0].last:.0f} s")
        return bool(late)

    def start(self, every_s: float = 1.0) -> None:
        """Look every so often, in a thread of its own, until a task was overdue or the process ends."""

        def keep_looking() -> None:
            while not self.look():
                waiting.wait(every_s)

        waiting = threading.Event()
        threading.Thread(target=keep_looking, name="wsi-seg-watch", daemon=True).start()
