"""Bytes of a file by position, from any thread; owns one descriptor per process, knows no format.

Positions travel with each call (`pread`), so threads and forked processes cannot disturb each other.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path
from time import sleep

_HAS_PREAD = hasattr(os, "pread")
_PAUSES_S = (0.05, 0.25)
"""Waited before it is tried again: what a network drive refuses may pass."""
_MAX_RETIRED = 32


class ByteFile:
    """A read-only file, opened when first read and opened again after an error or `close`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd: int | None = None
        self._retired: list[int] = []
        """Descriptors that failed: still open, since another thread may be reading from them."""
        self._lock = threading.Lock()

    def read(self, offset: int, count: int) -> bytes:
        """`count` bytes from `offset`; raises OSError, or ValueError where the file ends before."""
        for pause_s in (*_PAUSES_S, None):
            fd = self._fd
            try:
                if fd is None:
                    fd = self._open()
                payload = self._read(fd, offset, count)
                break
            except OSError:
                # A stale handle (NFS, a remounted share) heals by opening again; a broken disk fails again.
                if pause_s is None:
                    raise
                self._retire(fd)
                sleep(pause_s)
        if len(payload) != count:
            raise ValueError(f"the file ends {count - len(payload)} bytes too early")
        return payload

    def close(self) -> None:
        """Let go of the descriptor."""
        with self._lock:
            for fd in (self._fd, *self._retired):
                if fd is not None:
                    os.close(fd)
            self._fd, self._retired = None, []

    def __del__(self) -> None:
        self.close()

    def _read(self, fd: int, offset: int, count: int) -> bytes:
        if _HAS_PREAD:
            return os.pread(fd, count, offset)
        with self._lock:
            os.lseek(fd, offset, os.SEEK_SET)
            return os.read(fd, count)

    def _retire(self, fd: int | None) -> None:
        with self._lock:
            if fd is not None and fd == self._fd:
                self._retired.append(fd)
                self._fd = None
                if len(self._retired) > _MAX_RETIRED:
                    os.close(self._retired.pop(0))

    def _open(self) -> int:
        with self._lock:
            if self._fd is None:
                self._fd = os.open(self.path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
            return self._fd
