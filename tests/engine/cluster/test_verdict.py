"""What may pass is tried again, what ends its process is done apart, the rest fails at once."""

from __future__ import annotations

import errno
from concurrent.futures import CancelledError

import pytest
from distributed import KilledWorker

from wsi_seg.engine.cluster.verdict import MAX_TRIES, TRANSIENT, Verdict, as_ours, judge
from wsi_seg.errors import ClusterError, RunStopped, SlideOpenError

KILLED = KilledWorker("work-1", None, 3)


@pytest.mark.parametrize(
    "error",
    [*(OSError(code, "x") for code in TRANSIENT), CancelledError(), ValueError("x"), MemoryError(), RunStopped("x")],
)
def test_what_may_pass_is_tried_some_times(error: BaseException) -> None:
    for apart in (False, True):
        verdicts = [judge(error, tries, can_be_apart=apart) for tries in range(1, MAX_TRIES + 2)]
        assert verdicts == [Verdict.AGAIN] * (MAX_TRIES - 1) + [Verdict.FAILED] * 2


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "x"), OSError(errno.EACCES, "x"), SlideOpenError("x")])
def test_what_fails_again_fails_at_once(error: BaseException) -> None:
    assert judge(error, 1, can_be_apart=True) is Verdict.FAILED


def test_what_ends_its_process_is_done_apart_or_once_more() -> None:
    assert [judge(KILLED, tries, can_be_apart=True) for tries in (1, 5)] == [Verdict.APART] * 2
    assert [judge(KILLED, tries, can_be_apart=False) for tries in (1, 2)] == [Verdict.AGAIN, Verdict.FAILED]


def test_errors_become_ours_and_ours_stay() -> None:
    ours = SlideOpenError("x")
    assert as_ours(ours, "preparing") is ours
    killed, other = as_ours(KILLED, "task 0, 1, 2"), as_ours(ValueError("odd"), "task 0, 1, 2")
    assert isinstance(killed, ClusterError)
    assert "task 0, 1, 2 ended every worker" in str(killed)
    assert "task 0, 1, 2 failed on a worker: ValueError: odd" in str(other)
