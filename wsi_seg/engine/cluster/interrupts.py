"""Ctrl-C reaches every process of a command; while worker processes start, they must not answer it."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker


@contextmanager
def children_ignore_interrupts() -> Iterator[None]:
    """Threads and processes started inside never see SIGINT; one that comes meanwhile is answered at the end.

    A child inherits the signal mask of the thread that starts it, so a worker is deaf from its first instruction on,
    before `preload` could say so..
    """
    # It unblocks the signal in whichever thread starts it; were that Dask's thread, the workers would hear it again.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
