"""How far a run is, told on standard error or to a function. Draws with nothing but a carriage return.

Owns the counting of tiles. Knows no terminal and no notebook: a line that is rewritten serves both.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from time import monotonic

from wsi_seg.engine.events import Event, Listener, Note, RunStarted, TilesPredicted, ignore

Heard = Callable[[int, int], object]
"""Told (tiles done, tiles in all)."""

_PAUSE_S = 0.2
"""Between two changes of the line."""


def listener_for(progress: bool | Heard) -> Listener:
    """A listener that tells of tiles: a line on standard error for True, nothing for False, or a call of a function."""
    if progress is False:
        return ignore
    return _Count(_Line() if progress is True else progress).hear


class _Count:
    """Counts tiles; may be told from several threads, and tells in order."""

    def __init__(self, heard: Heard) -> None:
        self._heard, self._lock = heard, threading.Lock()
        self._done = self._total = 0

    def hear(self, event: Event) -> None:
        match event:
            case RunStarted(n_tiles=total, n_tiles_done=done):
                self._add(done, total)
            case TilesPredicted(n=n):
                self._add(n)
            case Note(text=text) if isinstance(self._heard, _Line):
                self._heard.note(text)
            case _:
                pass

    def _add(self, n: int, total: int = 0) -> None:
        with self._lock:
            self._total = total or self._total
            self._done = min(self._done + n, self._total)  # a tile may be predicted twice
            self._heard(self._done, self._total)


class _Line:
    """`wsi-seg: 12 of 30 tiles, 40 %`, rewritten in place."""

    def __init__(self) -> None:
        self._last = float("-inf")

    def __call__(self, done: int, total: int) -> None:
        whole = done >= total
        if not whole and monotonic() - self._last < _PAUSE_S:
            return
        self._last = monotonic()
        percent = 100 * done // max(1, total)
        sys.stderr.write(f"\rwsi-seg: {done} of {total} tiles, {percent} %" + "\n" * whole)
        sys.stderr.flush()

    def note(self, text: str) -> None:
        """A line of its own."""
        sys.stderr.write(f"\rnote: {text}\n")
