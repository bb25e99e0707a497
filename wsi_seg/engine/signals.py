"""Ctrl-C and SIGTERM: the first asks the run to stop at the next row of tiles, the second leaves at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from wsi_seg.errors import RunStopped


class StopFlag(threading.Event):
    """A stop flag that remembers which signal set it."""

    signal_number: int | None = None


@contextmanager
def stop_on_signals() -> Iterator[StopFlag]:
    """A flag that SIGINT and SIGTERM set while the `with` lasts; RunStopped then carries the matching exit code.

    Outside the main thread, where Python takes no signals, it is a plain flag.
    """
    flag = StopFlag()

    def on_signal(number: int, _: FrameType | None) -> None:
        if flag.is_set():
            os._exit(128 + number)
        flag.signal_number = number
        flag.set()

    if threading.current_thread() is not threading.main_thread():
        yield flag
        return
    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield flag
    except RunStopped as stopped:
        if flag.signal_number is not None:
            # The code of the signal, as a shell would report it: 130 or 143.
            stopped.exit_code = 128 + flag.signal_number  # type: ignore[misc]
        raise
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


@contextmanager
def unwinding_on_sigterm() -> Iterator[None]:
    """SIGTERM leaves as Ctrl-C does, by an exception, so that temporary files are removed; SystemExit(143).

    For what has no state to resume from. Outside the main thread nothing changes.
    """

    def on_signal(number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, on_signal)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
