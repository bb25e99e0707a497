"""How much is on a device at once: tiles per call, and calls with buffers of their own that are used again and again.

Owns these sizes and the pool. Two or three lanes keep a GPU busy (one uploads while another computes) whatever the
number of threads that feed it; more would only hold more of its memory.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

GPU_LANES = 3
"""Calls on a GPU at once: one uploads, one computes, one downloads."""

GPU_BATCH_PX = 8 * 512 * 512
"""Pixels per call that fill a GPU; more per call only takes more of its memory."""
_CPU_BATCH = 1

T = TypeVar("T")


def default_batch(device: str, side: int) -> int:
    """Tiles of `side` px per call where nobody says; `device` as in `RuntimeFacts`.

    One on a CPU, where each call has one core: more save nothing there and waste the last batch.

    >>> default_batch("CPU", 512), default_batch("cuda:0 NVIDIA H200", 512), default_batch("cuda:0 NVIDIA H200", 2048)
    (1, 8, 1)
    """
    return max(1, GPU_BATCH_PX // side**2) if device.startswith("cuda") else _CPU_BATCH


class Lanes(Generic[T]):
    """At most `limit` lanes, made when they are first needed."""

    def __init__(self, make: Callable[[], T], limit: int) -> None:
        self._make = make
        self._free: list[T] = []
        self._permits = threading.Semaphore(limit)

    @contextmanager
    def one(self) -> Iterator[T]:
        """A lane that nobody else has; waits for one. One in which something failed is not used again."""
        with self._permits:
            try:
                lane = self._free.pop()  # a list's append and pop are atomic
            except IndexError:
                lane = self._make()
            yield lane
            self._free.append(lane)

    def clear(self) -> None:
        """Let go of the idle lanes."""
        self._free.clear()
