"""Reader processes: a slide library that may abort, hang or ask for all memory does so in a child of this process.

Owns the children: their start, their requests and the patience with each, their death in words, and their reuse by
whoever reads next. There are as many as threads have read at one time. Knows no library and no format.
"""

from __future__ import annotations

import atexit
import itertools
import json
import os
import select
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_seg.slide.reader_process import LENGTH_BYTES

PATIENCE_S = 20.0
"""Seconds that opening a slide, or reading a piece of it, may take."""
STARTING_S = 60.0
"""Seconds that a new process is given in addition, to start on a busy machine."""
_CLOSING_BYTES = 1 << 30
_KEPT_BYTES = 128 << 20
"""Memory that a process may keep in any case: caches, and slides that are open."""
_PIPE_BYTES = 1 << 20
_LAST_WORDS = 300
"""Characters of what a dying process said that are repeated."""
_ROOT = str(Path(__file__).resolve().parents[2])
_SCRIPT = f"import sys; sys.path.insert(0, {_ROOT!r}); from wsi_seg.slide.reader_process import main; main()"


class ReaderLost(Exception):
    """A reader process died or was given up at a request; the text says how."""


class ReaderHung(ReaderLost):
    """A reader process did not answer in time and was ended."""


class ReaderProcess:
    """One child and its two pipes; for one thread at a time."""

    def __init__(self) -> None:
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the process
        # Idle threads, and what the allocator reserves for each, would count against the limit of memory.
        few = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _SCRIPT],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said, env={**os.environ, **few}, bufsize=0,
        )  # fmt: skip
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._to, self._from = self._process.stdin, self._process.stdout
        self._new = True
        self.is_swollen = False
        """Whether it kept so much memory that the next request could run into its limit for no fault of its own."""
        self.names: set[str] = set()
        """Slides that it may hold open."""
        self.leave: dict[str, Mapping[str, str]] = {}
        """Slides that are to be closed as soon as it is free."""
        _widen(self._from.fileno())

    @property
    def pid(self) -> int:
        """Of the child."""
        return self._process.pid

    def ask(
        self, request: Mapping[str, Any], out: NDArray[np.uint8] | None = None, patience_s: float = PATIENCE_S
    ) -> dict[str, Any]:
        """The answer to a request; pixels go to `out`, which is contiguous and of the right size. Raises ReaderLost."""
        end = monotonic() + patience_s + (STARTING_S if self._new else 0)
        self.names.add(str(request["name"]))
        with _Watched(self._from.fileno(), self.end) as watched:
            try:
                text = json.dumps({**request, "seconds": end - monotonic()}).encode()
                self._write(len(text).to_bytes(LENGTH_BYTES, "big") + text)
                length = int.from_bytes(self._read(LENGTH_BYTES, watched, end), "big")
                answer: dict[str, Any] = json.loads(self._read(length, watched, end))
                if "bytes" in answer:
                    assert out is not None
                    if answer["bytes"] != out.nbytes:
                        raise ValueError("it answered too little or too much")
                    self._fill(out.data.cast("B"), watched, end)
            except TimeoutError:
                self.end()
                raise ReaderHung(f"no answer within {patience_s:.0f} s") from None
            except (OSError, EOFError, ValueError, MemoryError):
                raise ReaderLost(self._ending()) from None
        self._new = False
        self.is_swollen = answer.get("held_bytes", 0) > max(_KEPT_BYTES, request["memory_bytes"] // 2)
        return answer

    def end(self) -> None:
        """Kill it, and let go of everything; may be called again."""
        with suppress(OSError):
            self._to.close()
        self._process.kill()
        self._process.wait()
        self._from.close()
        self._said.close()

    def _write(self, part: bytes) -> None:
        left = memoryview(part)
        while left:
            left = left[os.write(self._to.fileno(), left) :]

    def _read(self, count: int, watched: _Watched, end: float) -> bytes:
        if count > 1 << 26:
            raise ValueError("an answer of that length is none")
        buffer = bytearray(count)
        self._fill(memoryview(buffer), watched, end)
        return bytes(buffer)

    def _fill(self, buffer: memoryview, watched: _Watched, end: float) -> None:
        while buffer:
            watched.wait(end)
            n = self._from.readinto(buffer) or 0  # type: ignore[attr-defined]
            if not n:
                raise EOFError
            buffer = buffer[n:]

    def _ending(self) -> str:
        """How it ended, in words."""
        try:
            code = self._process.wait(5)
        except subprocess.TimeoutExpired:
            code = 0
        words = ""
        with suppress(OSError, ValueError):
            self._said.seek(0)
            lines = [line.strip() for line in self._said.read().decode(errors="replace").splitlines() if line.strip()]
            words = f", saying: {lines[-1][:_LAST_WORDS]}" if lines else ""
        self.end()
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        return f"the process that read it ended with {how}{words}"


class _Watched:
    """Waits for a pipe with a deadline. Where pipes cannot be waited for, a timer ends the process instead."""

    def __init__(self, descriptor: int, end_process: Callable[[], None]) -> None:
        self._timer: threading.Timer | None = None
        self._end_process = end_process
        self._poll = select.poll() if hasattr(select, "poll") else None
        if self._poll is not None:
            self._poll.register(descriptor, select.POLLIN)

    def __enter__(self) -> _Watched:
        return self

    def __exit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def wait(self, end: float) -> None:
        """Until there is something to read. Raises TimeoutError."""
        left = end - monotonic()
        if self._poll is None:
            if self._timer is None:
                self._timer = threading.Timer(left, self._end_process)
                self._timer.start()
            return
        if left <= 0 or not self._poll.poll(left * 1000):
            raise TimeoutError


class ReaderPool:
    """The reader processes of this process: taken for a request, and given back."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[ReaderProcess] = []
        self._all: set[ReaderProcess] = set()
        self._numbers = itertools.count()
        self._inherited: list[object] = []

    def new_name(self) -> str:
        """A name for a slide that no other has."""
        return f"{os.getpid()}.{next(self._numbers)}"

    @contextmanager
    def one(self, name: str) -> Iterator[ReaderProcess]:
        """A process for one request, rather one that has the slide open; one that fails its user is ended."""
        process = self._taken(name)
        try:
            yield process
        except BaseException:
            with self._lock:
                self._all.discard(process)
            process.end()
            raise
        if process.is_swollen:
            with self._lock:
                self._all.discard(process)
            process.end()
            return
        while process.leave:
            if not self._closed(process, process.leave.popitem()[1]):
                return
        with self._lock:
            self._idle.append(process)

    def forget(self, slide: Mapping[str, str]) -> None:
        """Close a slide, `kind`, `name` and `path`, wherever it is open; where it is being read, afterwards."""
        name = slide["name"]
        with self._lock:
            holders = [process for process in self._idle if name in process.names]
            self._idle = [process for process in self._idle if process not in holders]
            for process in self._all - set(holders):
                if name in process.names:
                    process.leave[name] = slide
        for process in holders:
            if self._closed(process, slide):
                with self._lock:
                    self._idle.append(process)

    def close(self) -> None:
        """End all processes."""
        with self._lock:
            processes, self._all, self._idle = self._all, set(), []
        for process in processes:
            process.end()

    def held_bytes(self) -> list[int]:
        """Memory of each process that it shares with no other."""
        import psutil

        held = []
        for process in list(self._all):
            with suppress(psutil.Error):
                memory = psutil.Process(process.pid).memory_info()
                held.append(int(memory.rss) - int(getattr(memory, "shared", 0)))
        return held

    def start_anew(self) -> None:
        """In a forked child: the processes are the parent's, and so are the pipes to them."""
        self._inherited.append(self._all)
        self._lock, self._all, self._idle = threading.Lock(), set(), []

    def _taken(self, name: str) -> ReaderProcess:
        with self._lock:
            holders = [process for process in self._idle if name in process.names]
            for process in reversed(holders or self._idle):
                self._idle.remove(process)
                return process
        process = ReaderProcess()
        with self._lock:
            self._all.add(process)
        return process

    def _closed(self, process: ReaderProcess, slide: Mapping[str, str]) -> bool:
        """Whether the process has closed the slide and lives."""
        try:
            process.ask({"do": "forget", **slide, "memory_bytes": _CLOSING_BYTES})
        except ReaderLost:
            with self._lock:
                self._all.discard(process)
            return False
        process.names.discard(slide["name"])
        return True


def _widen(descriptor: int) -> None:
    """A pipe that holds more at once needs fewer turns; where the system does not let us, it is as it is."""
    with suppress(ImportError, AttributeError, OSError):
        import fcntl

        fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)


READERS = ReaderPool()
"""The pool of this process."""
atexit.register(READERS.close)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=READERS.start_anew)
