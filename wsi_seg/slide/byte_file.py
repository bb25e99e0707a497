"""Bytes of a file by position, from any thread; owns one descriptor per process, knows no format.

Positions travel with each call (`pread`), so threads and forked processes cannot disturb each other.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path

_HAS_PREAD = hasattr(os, "pread")


class ByteFile:
    """A read-only file, opened when first read and opened again after an error or `close`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd: int | None = None
        self._lock = threading.Lock()

    def read(self, offset: int, count: int) -> bytes:
        """`count` bytes from `offset`; raises OSError, or ValueError where the file ends before."""
        try:
            payload = self._read(offset, count)
        except OSError:
            # A stale handle (NFS, a remounted share) heals by opening again; a broken disk fails again.
            self.close()
            payload = self._read(offset, count)
        if len(payload) != count:
            raise ValueError(f"the file ends {count - len(payload)} bytes too early")
        return payload

    def close(self) -> None:
        """Let go of the descriptor."""
        with self._lock:
            if self._fd is not None:
                os.close(self._fd)
                self._fd = None

    def __del__(self) -> None:
        self.close()

    def _read(self, offset: int, count: int) -> bytes:
        fd = self._fd
        if fd is None:
            fd = self._open()
        if _HAS_PREAD:
            return os.pread(fd, count, offset)
        with self._lock:
            os.lseek(fd, offset, os.SEEK_SET)
            return os.read(fd, count)

    def _open(self) -> int:
        with self._lock:
            if self._fd is None:
                self._fd = os.open(self.path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
            return self._fd
