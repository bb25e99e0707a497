"""Python's garbage collector leaves a short program alone: a third of a second of every run went into it.

What libraries make while they are imported lives to the end: looking through it again and again while it grows, and
once more to take it apart at the very end, finds nothing to free. Measured: benchmarks/LOG.md.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

from wsi_seg.engine.events import Event, Listener, RunStarted


@contextmanager
def collecting_from_the_start_of_work(listener: Listener) -> Iterator[Listener]:
    """No collection before the work begins, and none of what is there by then; answers the listener to be told.

    Collects as before from the first `RunStarted` on, and after the `with`.
    """
    was_enabled = gc.isenabled()
    gc.disable()

    def hear(event: Event) -> None:
        if was_enabled and isinstance(event, RunStarted) and not gc.isenabled():
            gc.freeze()
            gc.enable()
        listener(event)

    try:
        yield hear
    finally:
        if was_enabled:
            gc.enable()


def leave_memory_to_the_system() -> None:
    """The program ends: what its objects hold goes with the process, so none is to be looked at."""
    gc.freeze()
