"""A hold by a lock of the kernel, which lets go of it when the process ends, however it ends.

Owns lock files and what stands in them. One machine, or a network file system that passes locks on.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from time import sleep

from wsi_seg.output.durable import json_bytes, make_folder, mapped_errors
from wsi_seg.output.store.hold import held_by_another


class FileLock:
    """A lock file that this process holds; host and pid stand in it."""

    token = ""

    def __init__(self, path: Path, subject: str) -> None:
        """Raises OutputExistsError, naming who works on `subject`, where it is held already; WriteError."""
        with mapped_errors(path, 0):
            make_folder(path.parent)
        self._handle: int | None = _locked(path, subject)

    def on_loss(self, tell: Callable[[], None]) -> None:
        """Never: the kernel keeps the lock."""

    def confirm(self) -> None:
        """Held for as long as the process lives."""

    def release(self) -> None:
        """Let go of it; the file stays."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


def lock_owner(path: Path) -> str:
    """Who holds a lock file, in words; empty where nobody does."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        return ""
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _owner(handle)
    except OSError:
        return ""
    finally:
        os.close(handle)
    return ""


def _locked(path: Path, subject: str) -> int:
    with mapped_errors(path, 0):
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            _flock(handle)
            # the holder may have published (renamed) the folder between the two calls
            if not path.exists() or not os.path.samestat(os.fstat(handle), path.stat()):
                raise BlockingIOError
            os.ftruncate(handle, 0)
            os.write(handle, json_bytes({"host": socket.gethostname(), "pid": os.getpid()}))
        except BlockingIOError:
            owner = _owner(handle)
            os.close(handle)
            raise held_by_another(subject, owner) from None
        except OSError:
            os.close(handle)
            raise
    return handle


def _flock(handle: int) -> None:
    """Take the lock. Raises BlockingIOError after a few tries: who only asks whether it is held, holds it for that."""
    for pause in (0.02, 0.1, 0.2):
        with suppress(BlockingIOError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        sleep(pause)
    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _owner(handle: int) -> str:
    with suppress(OSError, ValueError, KeyError, TypeError):
        record = json.loads(os.pread(handle, 4096, 0))
        return f"pid {record['pid']} on host {record['host']}"
    return "it has not said who it is"
