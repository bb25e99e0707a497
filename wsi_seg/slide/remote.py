"""One slide that reader processes open: what may go wrong with it there, as errors of ours.

Owns how often a process that died is replaced, and when a slide has cost enough of them. Knows no format; what is
asked and answered is between a reader and its handle.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_seg.errors import SlideOpenError
from wsi_seg.slide.reading_apart import PATIENCE_S, READERS, ReaderHung, ReaderLost

OPENING_BYTES = 512 << 20
"""Memory that opening a slide may take, beyond what a reader process has."""
_CACHE_BYTES = 32 << 20
READING_S = 15.0
"""Seconds that reading a piece may take."""
_AGAIN_S = 5.0
"""The same, once a read of the slide has not returned: a file that holds reads up must not do so for long."""
_MAX_HUNG = 3
"""Reads in a row that did not return, after which no other is tried."""
_MAX_HUNG_EVER = 12
_MAX_STARVED = 3
"""Reads that would not do with a memory that is enough for every sound slide, after which no other is tried."""
_MAX_LOST = 64
"""Reader processes that one slide may end before no other is given to it."""


class Remote:
    """A slide in reader processes; for any thread."""

    def __init__(self, path: Path, kind: str, rule: str) -> None:
        """`kind`: of handle, `openslide` or `zarr`; `rule`: what holds for a file that it opens."""
        self.path = path
        self._rule = rule
        self._slide = {"kind": kind, "name": READERS.new_name(), "path": os.path.abspath(path)}  # noqa: PTH100 - links stay links
        self._lock = threading.Lock()
        self._n_hung = self._n_hung_ever = self._n_lost = self._n_starved = 0

    def open(self, memory_bytes: int) -> dict[str, Any]:
        """What the handle says of the slide, opened within so much memory. Raises SlideOpenError."""
        try:
            return self._asked({"do": "open"}, memory_bytes)
        except ReaderLost as lost:
            raise SlideOpenError(
                f"{self.path} cannot be opened: {lost}",
                rule="a header that ends or holds up the library that reads it is damaged",
                remedy="compare the file with its source; from a slow network drive, copy it to a local one",
            ) from lost
        except ValueError as error:
            raise SlideOpenError(
                f"{self.path} cannot be opened: {error}",
                rule=self._rule,
                remedy="check that the copy is complete, or convert it to a tiled TIFF or OME-TIFF",
            ) from error

    def read(self, asked: Mapping[str, Any], out: NDArray[np.uint8], memory_bytes: int) -> None:
        """Pixels to `out`, contiguous; tried again where the process dies or does not answer. Raises ValueError."""
        for attempt in (1, 2):
            self._check_cost()
            patience_s = _AGAIN_S if self._n_hung else READING_S
            try:
                self._asked({"do": "read", **asked}, memory_bytes, out, patience_s)
            except ReaderLost as lost:
                self._count(lost)
                if attempt == 2:
                    raise ValueError(str(lost)) from lost
            else:
                self._n_hung = 0
                return

    def close(self) -> None:
        """Close the slide wherever it is open; it may be opened again."""
        READERS.forget(self._slide)

    def _asked(
        self,
        request: Mapping[str, Any],
        memory_bytes: int,
        out: NDArray[np.uint8] | None = None,
        patience_s: float = PATIENCE_S,
    ) -> dict[str, Any]:
        with READERS.one(self._slide["name"]) as process:
            answer = process.ask({**request, **self._slide, "memory_bytes": memory_bytes}, out, patience_s)
        if "error" in answer:
            with self._lock:
                self._n_starved += "starved" in answer
            raise ValueError(str(answer["error"]))
        return answer

    def _count(self, lost: ReaderLost) -> None:
        with self._lock:
            if isinstance(lost, ReaderHung):
                self._n_hung += 1
                self._n_hung_ever += 1
            else:
                self._n_lost += 1

    def _check_cost(self) -> None:
        """Raises ValueError where the slide has cost enough."""
        spent = self._n_hung / _MAX_HUNG, self._n_hung_ever / _MAX_HUNG_EVER
        if max(*spent, self._n_lost / _MAX_LOST, self._n_starved / _MAX_STARVED) >= 1:
            raise ValueError(
                f"reading this slide has held up {self._n_hung_ever}, ended {self._n_lost} and starved "
                f"{self._n_starved} reader processes, so nothing more of it is tried"
            )


def outside_bytes(reader: str, n_threads: int) -> int:
    """Memory of reader processes, beside this process', when so many threads read a slide through `reader`.

    What was measured of those that are there; each thread will have one of its own where the reader is `openslide` or
    `zarr`, and fill its cache.
    """
    held = READERS.held_bytes()
    if reader not in ("openslide", "zarr"):
        return sum(held)
    return max(sum(held), n_threads * (max(held, default=0) + _CACHE_BYTES))
