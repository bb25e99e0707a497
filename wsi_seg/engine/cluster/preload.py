"""What Dask loads first in the worker processes of this machine: Ctrl-C in a terminal is the driver's to answer.

A terminal sends it to every process of the command. The driver stops its workers in order; one that is interrupted on
its own prints Python's traceback into the user's terminal.
"""

from __future__ import annotations

import signal
from typing import Any


def dask_setup(worker: Any) -> None:  # noqa: ARG001 - Dask's signature
    """Called by Dask in the main thread of a worker process, before it takes tasks."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
