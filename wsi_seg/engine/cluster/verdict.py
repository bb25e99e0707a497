"""What is to be done about a step that failed on a worker.

Owns the line between what may pass (a connection that broke, a disk that answered EIO once), what ends the process it
runs in, and what will fail again however often it is tried. Knows no slide.
"""

from __future__ import annotations

import errno
from enum import StrEnum

from wsi_seg.errors import ClusterError, RunStopped, WsiSegError

MAX_TRIES = 3
"""Times a step is tried that fails in a way that may pass."""
TRANSIENT = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ECONNRESET, errno.EPIPE, errno.ECONNABORTED, errno.EAGAIN)


class Verdict(StrEnum):
    """What to do next."""

    AGAIN = "again"
    """The same step, anywhere."""
    APART = "apart"
    """The same step, in a process of its own."""
    FAILED = "failed"
    """The slide has failed."""


def judge(error: BaseException, tries: int, *, can_be_apart: bool) -> Verdict:
    """What to do about `error` of a step that was tried `tries` times; the tries before it included."""
    if ended_its_process(error):
        if can_be_apart:
            return Verdict.APART
        return Verdict.AGAIN if tries < 2 else Verdict.FAILED
    if isinstance(error, RunStopped):
        return Verdict.AGAIN if tries < MAX_TRIES else Verdict.FAILED
    permanent = isinstance(error, WsiSegError) or (isinstance(error, OSError) and not _may_pass(error))
    return Verdict.FAILED if permanent or tries >= MAX_TRIES else Verdict.AGAIN


def _may_pass(error: OSError) -> bool:
    from distributed.comm import CommClosedError

    return isinstance(error, CommClosedError) or error.errno in TRANSIENT


def ended_its_process(error: BaseException) -> bool:
    """Whether the worker processes that tried the step were lost, each time."""
    from distributed import KilledWorker

    return isinstance(error, KilledWorker)


def as_ours(error: BaseException, step: str) -> WsiSegError:
    """An error of our tree that says what became of a step."""
    if isinstance(error, WsiSegError):
        return error
    if ended_its_process(error):
        return ClusterError(
            f"{step} ended every worker process that tried it",
            rule="a crash in a decoder or runtime, memory beyond the worker's limit, or a step that hangs",
            remedy="see the workers' logs; try this slide alone with `wsi-seg run`, or give workers more memory",
        )
    return ClusterError(f"{step} failed on a worker: {type(error).__name__}: {error}", remedy="see the workers' logs")
