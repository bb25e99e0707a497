"""Every flight is answered once, by its value or by what went wrong."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import CancelledError
from typing import Any

import pytest

from wsi_seg.engine.cluster.submissions import AT_ONCE, Flight, Submissions


class FakeFuture:
    """Ends when told."""

    def __init__(self, key: str, options: dict[str, Any]) -> None:
        self.key, self.options = key, options
        self.status, self.value, self.lost = "pending", None, False
        self.callbacks: list[Callable[[Any], None]] = []

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        self.callbacks.append(callback)

    def exception(self) -> Any:
        return self.value

    def end(self, status: str, value: Any = None, *, lost: bool = False) -> None:
        self.status, self.value, self.lost = status, value, lost
        for callback in self.callbacks:
            callback(self)


class FakeClient:
    def __init__(self) -> None:
        self.futures: list[FakeFuture] = []
        self.cancelled: list[FakeFuture] = []

    def submit(self, _: Any, *__: Any, key: str, **options: Any) -> FakeFuture:
        self.futures.append(FakeFuture(key, options))
        return self.futures[-1]

    def gather(self, asked: Any) -> Any:
        for future in asked if isinstance(asked, list) else [asked]:
            if future.lost:
                raise CancelledError(future.key)
        return [future.value for future in asked] if isinstance(asked, list) else asked.value

    def cancel(self, futures: list[FakeFuture]) -> None:
        self.cancelled += futures


@pytest.fixture
def client() -> FakeClient:
    return FakeClient()


def launched(client: FakeClient, *flights: Flight) -> Submissions:
    submitted = Submissions(client)
    for flight in flights:
        submitted.launch(flight, print)
    return submitted


def heard(submitted: Submissions, n: int) -> list[tuple[Flight, Any]]:
    """The next `n` answers, which another thread fetches; and that there are no more."""
    answers: list[tuple[Flight, Any]] = []
    while len(answers) < n:
        came = list(submitted.answers(5))
        assert came, f"{len(answers)} answers of {n}"
        answers += came
    assert not list(submitted.answers(0.05))
    return answers


def test_values_errors_and_losses_come_as_answers(client: FakeClient) -> None:
    flights = [Flight("work", number) for number in range(5)]
    submitted = launched(client, *flights)
    odd = ValueError("odd")
    client.futures[0].end("finished", "value")
    client.futures[1].end("error", odd)
    client.futures[2].end("cancelled")
    client.futures[3].end("finished", "gone", lost=True)
    answers = dict(heard(submitted, 4))
    assert answers[flights[0]] == "value"
    assert answers[flights[1]] is odd
    assert isinstance(answers[flights[2]], CancelledError)
    assert isinstance(answers[flights[3]], CancelledError)
    assert len(submitted) == 1


def test_an_answer_that_comes_twice_counts_once(client: FakeClient) -> None:
    submitted = launched(client, Flight("work", 0))
    client.futures[0].end("finished", 1)
    client.futures[0].end("finished", 1)
    assert len(heard(submitted, 1)) == 1


def test_answers_come_in_turns(client: FakeClient) -> None:
    n = 2 * AT_ONCE + 9
    submitted = launched(client, *(Flight("work", number) for number in range(n)))
    for future in client.futures:
        future.end("finished")
    turns = []
    while sum(turns) < n:
        turns.append(len(list(submitted.answers(5))))
    assert max(turns) <= AT_ONCE


def test_who_waits_for_a_value_on_a_frozen_worker_keeps_nobody_waiting(client: FakeClient) -> None:
    submitted, thawed = launched(client, Flight("work", 0), Flight("work", 1)), threading.Event()
    gather = client.gather
    client.gather = lambda asked: (thawed.wait(20), gather(asked))[1]  # type: ignore[method-assign]
    client.futures[0].end("finished", 1)
    assert not list(submitted.answers(0.05)), "and does not block"
    client.futures[1].end("finished", 2)
    thawed.set()
    assert [value for _, value in heard(submitted, 2)] == [1, 2]


def test_what_is_dropped_is_cancelled_and_never_answered(client: FakeClient) -> None:
    submitted = launched(client, Flight("work", 0), Flight("work", 1), Flight("outline", 0))
    submitted.drop(0)
    assert client.cancelled == [client.futures[0], client.futures[2]]
    for future in client.futures:
        future.end("finished")
    assert [flight.slide for flight, _ in heard(submitted, 1)] == [1]
    submitted.launch(Flight("work", 2), print)
    submitted.cancel()
    assert client.cancelled[-1] is client.futures[-1]
    assert not len(submitted)


def test_a_worker_is_a_wish_and_steps_of_slides_go_first(client: FakeClient) -> None:
    submitted = launched(client, Flight("work", 0, worker="a"), Flight("finish", 0))
    submitted.keep(print, name="prepare-0")
    work, finish, kept = (future.options for future in client.futures)
    assert (work["workers"], work["allow_other_workers"]) == (["a"], True)
    assert work["priority"] < finish["priority"] == kept["priority"]
    assert len({future.key for future in client.futures}) == 3
    assert not any(future.options["pure"] for future in client.futures)
