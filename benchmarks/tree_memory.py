"""The memory of a process and all its descendants, sampled while they live; owns no process."""

from __future__ import annotations

import threading
from time import perf_counter
from types import TracebackType

import psutil

PERIOD_S, LONGEST_PERIOD_S = 0.05, 0.3
MOST_OF_THE_TIME = 0.02
"""Share of one core that sampling may take, but where that would leave longer gaps than the longest."""


class TreeMemory:
    """Highest sum over the process tree of `pid`, bytes, as far as samples see it; a context manager.

    A lone process counts with its resident set; of several, each counts with its proportional set (PSS), so that pages
    which a fork shares are counted once, where the system tells it (Linux).
    """

    def __init__(self, pid: int) -> None:
        self.peak = 0
        self._pid, self._over = pid, threading.Event()
        self._sampler = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> TreeMemory:
        self._sampler.start()
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        self._over.set()
        self._sampler.join()

    def _sample(self) -> None:
        pause = 0.0
        while not self._over.wait(pause):
            started = perf_counter()
            self.peak = max(self.peak, tree_bytes(self._pid))
            pause = max(PERIOD_S, min(LONGEST_PERIOD_S, (perf_counter() - started) / MOST_OF_THE_TIME))


def tree_bytes(pid: int) -> int:
    """Memory of a process and its descendants now; 0 when it has ended."""
    try:
        root = psutil.Process(pid)
        children = root.children(recursive=True)
    except psutil.Error:
        return 0
    if not children:
        return _bytes_of(root, shared=False)
    return sum(_bytes_of(process, shared=True) for process in (root, *children))


def _bytes_of(process: psutil.Process, shared: bool) -> int:
    try:
        memory = process.memory_full_info() if shared else process.memory_info()
        return int(getattr(memory, "pss", memory.rss))
    except psutil.Error:  # it has just ended
        return 0
