"""What is done once to every worker process, those that come later included."""

from __future__ import annotations

import os
import socket
import sys
from typing import Any

from distributed import WorkerPlugin

from wsi_seg.engine.cluster.worker import held

_SAMPLING_IS_SAFE = sys.version_info >= (3, 11, 9)


class WsiSegPlugin(WorkerPlugin):  # type: ignore[misc]
    """Sets a worker process up: its tasks are watched, unless the process is the driver's own."""

    name = "wsi-seg"

    def __init__(self) -> None:
        self._driver = socket.gethostname(), os.getpid()

    def setup(self, worker: Any) -> None:
        """Called by a worker that starts, or that is there when the plugin is registered."""
        if not _SAMPLING_IS_SAFE:
            _stop_sampling(worker)
        if (socket.gethostname(), os.getpid()) != self._driver:
            held().watch_once()


def _stop_sampling(worker: Any) -> None:
    """End Dask's profiler, which reads the frames of all threads a hundred times a second.

    In Python before 3.11.9 a garbage collection at that moment may lock up the whole process (cpython issue 106883).
    """
    for name in ("profile", "profile-cycle"):
        callback = worker.periodic_callbacks.pop(name, None)
        if callback is not None:
            callback.stop()
