"""Which task a worker does next, over all slides at once.

A worker works along a stretch of consecutive blocks of one slide, so that what neighbours share (decoded tiles, edges,
an open file) is still there. The largest slides are begun first; a worker that finds none to begin takes the second
half of the longest stretch, so that no worker is idle while another has two blocks left. Knows no scheduler, no slide
and no clock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from wsi_seg.engine.job import TaskKey

Work = tuple[int, TaskKey]
"""(number of the slide, its task)."""


@dataclass(slots=True)
class _Stretch:
    slide: int
    keys: deque[TaskKey]

    def halved(self) -> _Stretch:
        """Give away the second half; the only task where there is one."""
        n = max(1, len(self.keys) // 2)
        return _Stretch(self.slide, deque(reversed([self.keys.pop() for _ in range(n)])))


class WorkQueue:
    """Tasks that can be started now, by slide."""

    def __init__(self) -> None:
        self._first: deque[Work] = deque()
        self._unclaimed: list[_Stretch] = []
        self._held: dict[str, _Stretch] = {}

    def __len__(self) -> int:
        """Tasks not taken yet."""
        return len(self._first) + sum(len(stretch.keys) for stretch in (*self._unclaimed, *self._held.values()))

    @property
    def n_unclaimed(self) -> int:
        """Stretches that no worker has begun: slides, or tiers of slides."""
        return len(self._unclaimed)

    def add(self, slide: int, keys: Iterable[TaskKey], *, first: bool = False) -> None:
        """Consecutive tasks of a slide, none of which waits for another; `first`: before all others, by anybody."""
        if first:
            self._first.extend((slide, key) for key in keys)
            return
        stretch = _Stretch(slide, deque(keys))
        if stretch.keys:
            self._unclaimed.append(stretch)

    def take(self, worker: str) -> Work | None:
        """The next task for a worker, None where there is none to be started now."""
        if self._first:
            return self._first.popleft()
        stretch = self._held.get(worker)
        if stretch is None or not stretch.keys:
            stretch = self._next_stretch()
            if stretch is None:
                return None
            self._held[worker] = stretch
        return stretch.slide, stretch.keys.popleft()

    def release(self, worker: str) -> None:
        """A worker is gone: what it had not been given yet is anybody's."""
        stretch = self._held.pop(worker, None)
        if stretch is not None and stretch.keys:
            self._unclaimed.append(stretch)

    def drop(self, slide: int) -> None:
        """Forget a slide."""
        self._first = deque(work for work in self._first if work[0] != slide)
        self._unclaimed = [stretch for stretch in self._unclaimed if stretch.slide != slide]
        self._held = {worker: stretch for worker, stretch in self._held.items() if stretch.slide != slide}

    def _next_stretch(self) -> _Stretch | None:
        if self._unclaimed:
            largest = max(range(len(self._unclaimed)), key=lambda i: len(self._unclaimed[i].keys))
            return self._unclaimed.pop(largest)
        longest = max(self._held.values(), key=lambda stretch: len(stretch.keys), default=None)
        return longest.halved() if longest is not None and longest.keys else None
