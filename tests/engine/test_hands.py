"""Threads without a task help: who is free, and nobody waits for what has not begun."""

from __future__ import annotations

import threading

import pytest

from wsi_seg.engine.hands import Hands


def test_only_threads_without_a_task_help_and_each_once_until_its_answer_is_taken() -> None:
    with Hands(3) as hands, hands.at_work():
        first, second = hands.ask(lambda: 1), hands.ask(lambda: 2)
        assert first is not None
        assert second is not None
        assert hands.ask(lambda: 3) is None
        assert first.result() == 1
        third = hands.ask(lambda: 3)
        assert third is not None
        third.forget()
        assert second.result() == 2
        assert [hands.ask(lambda: 4) is None for _ in range(3)] == [False, False, True]


def test_nobody_helps_where_every_thread_has_a_task() -> None:
    with Hands(1) as hands:
        with hands.at_work():
            assert hands.ask(lambda: 1) is None
        assert hands.ask(lambda: 1) is not None


def test_what_no_thread_has_begun_is_done_by_the_one_that_asks() -> None:
    """The pool's threads may wait for what the asking thread owes: waiting for them would never end."""
    with Hands(1) as hands:
        owed = threading.Event()
        hands.pool.submit(owed.wait)
        help_ = hands.ask(threading.get_ident)
        assert help_ is not None
        assert not help_.done
        assert help_.result() == threading.get_ident()
        owed.set()


def test_an_error_reaches_the_one_that_asked_and_the_thread_is_free_again() -> None:
    with Hands(1) as hands:
        help_ = hands.ask(lambda: 1 // 0)
        assert help_ is not None
        with pytest.raises(ZeroDivisionError):
            help_.result()
        assert hands.ask(lambda: 1) is not None
