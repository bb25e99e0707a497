"""Memory for predictions, used again as soon as nobody holds the array that was handed out.

The system takes large arrays back when they are freed and hands out zeroed pages anew: with tiles of 2,048 px that was
3 % of a run. Owns that memory; knows no runtime.
"""

from __future__ import annotations

import threading
import weakref
from math import prod

import numpy as np
from numpy.typing import NDArray


class Buffers:
    """Float32 arrays whose memory comes back by itself; for several threads."""

    def __init__(self) -> None:
        self._free: dict[int, list[bytearray]] = {}
        self._lock = threading.Lock()

    def take(self, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """An array (C-contiguous, any values) of its own until it and every view of it are gone."""
        n_bytes = 4 * prod(shape)
        with self._lock:
            kept = self._free.setdefault(n_bytes, [])
            memory = kept.pop() if kept else bytearray(n_bytes)
        flat = np.frombuffer(memory, np.float32)
        # Views of views refer to `flat`, the innermost array, since what lies below it is none.
        weakref.finalize(flat, kept.append, memory).atexit = False
        return flat.reshape(shape)

    def clear(self) -> None:
        """Give back what nobody holds; what is held goes when its arrays do."""
        with self._lock:
            self._free = {}
