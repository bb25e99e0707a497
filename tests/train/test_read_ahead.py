"""Threads that read ahead: order, bound, exceptions, end."""

from __future__ import annotations

import threading
import time

import pytest

from wsi_seg.train.source.read_ahead import read_ahead


def readers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("wsi-seg-read")]


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_answers_come_in_order(workers):
    def work(n: int) -> int:
        time.sleep(0.002 * (n % 3))
        return n * n

    assert list(read_ahead(work, range(20), workers)) == [n * n for n in range(20)]
    assert not readers()


def test_little_is_read_ahead_and_closing_ends_the_threads():
    taken = []
    answers = read_ahead(lambda n: n, (taken.append(n) or n for n in range(1000)), 2)
    assert [next(answers), next(answers)] == [0, 1]
    assert len(taken) <= 6
    assert readers()
    answers.close()
    assert not readers()


@pytest.mark.parametrize("workers", [0, 2])
def test_an_exception_comes_in_its_turn(workers):
    def work(n: int) -> int:
        if n == 3:
            raise OSError("a.png is damaged")
        return n

    answers = read_ahead(work, range(10), workers)
    assert [next(answers) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(OSError, match=r"a\.png"):
        next(answers)
    assert not readers()
