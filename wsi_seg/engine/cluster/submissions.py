"""Futures under way on a cluster, and the answers that have come.

Owns every future that somebody waits for. Values are fetched in a thread of its own: one that lies on a frozen worker
keeps nobody else waiting. Knows what was submitted by the flight it was submitted with, not what it means.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from queue import Empty, SimpleQueue
from typing import Any

from wsi_seg.engine.job import TaskKey

AT_ONCE = 256
"""Answers taken before new work is handed out."""


@dataclass(frozen=True, slots=True)
class Flight:
    """A step that was submitted; tells what its answer means."""

    step: str
    slide: int
    """Number of the slide."""
    key: TaskKey | None = None
    """Of a task."""
    worker: str = ""
    """Who was to do it."""
    tries: int = 1
    apart: bool = False
    """In a process of its own."""


Answer = tuple[Flight, Any]
"""A flight and its value, or the exception that it ended with."""


class Submissions:
    """What a client has submitted and not heard of yet."""

    def __init__(self, client: Any) -> None:
        """`client` is a `distributed.Client`."""
        self._client = client
        self._flights: dict[str, tuple[Flight, Any]] = {}
        self._ended: SimpleQueue[Any] = SimpleQueue()
        self._come: SimpleQueue[tuple[str, Any]] = SimpleQueue()
        self._numbers = count()
        threading.Thread(target=self._fetch, name="wsi-seg-answers", daemon=True).start()

    def __len__(self) -> int:
        return len(self._flights)

    def keep(self, function: Callable[..., Any], *arguments: Any, name: str) -> Any:
        """Submit what others depend on; its own answer goes nowhere. A lost one is made again by the scheduler."""
        # Impure: a future must never be answered from a result the scheduler remembers of another run.
        return self._client.submit(function, *arguments, key=self._key(name), priority=10, pure=False)

    def launch(self, flight: Flight, function: Callable[..., Any], *arguments: Any) -> None:
        """Submit a step whose answer `answers` will give. What is not a task goes before all tasks."""
        where: dict[str, Any] = {"priority": 0 if flight.step == "work" else 10}
        if flight.worker:
            # A wish: whoever is idle may take the task, and a worker's death leaves it to others.
            where |= {"workers": [flight.worker], "allow_other_workers": True}
        key = self._key(f"{flight.step}-{flight.slide}")
        future = self._client.submit(function, *arguments, key=key, pure=False, **where)
        self._flights[key] = flight, future
        future.add_done_callback(self._ended.put)

    def answers(self, wait_s: float) -> Iterator[Answer]:
        """What has come, after waiting for the first at most `wait_s` seconds."""
        come = []
        with suppress(Empty):
            come.append(self._come.get(timeout=wait_s))
            while len(come) < AT_ONCE:
                come.append(self._come.get_nowait())
        for key, value in come:
            if (known := self._flights.pop(key, None)) is not None:
                yield known[0], value

    def drop(self, slide: int) -> list[Flight]:
        """Forget what is under way for a slide; answer what that was."""
        keys = [key for key, (flight, _) in self._flights.items() if flight.slide == slide]
        gone = [self._flights.pop(key) for key in keys]
        self._client.cancel([future for _, future in gone])
        return [flight for flight, _ in gone]

    def cancel(self) -> None:
        """Forget everything."""
        futures = [future for _, future in self._flights.values()]
        self._flights.clear()
        self._client.cancel(futures)

    def close(self) -> None:
        """No answer is waited for any more."""
        self._ended.put(None)

    def _fetch(self) -> None:
        """Turn futures that have ended into answers, as many at a time as there are."""
        while (ended := self._ended.get()) is not None:
            futures = [ended]
            with suppress(Empty):
                while len(futures) < AT_ONCE and (ended := self._ended.get_nowait()) is not None:
                    futures.append(ended)
            for answer in self._values(futures).items():
                self._come.put(answer)
            if ended is None:
                return

    def _values(self, futures: list[Any]) -> dict[str, Any]:
        sound = [future for future in futures if future.status == "finished"]
        values = {future.key: _failure(future) for future in futures if future.status != "finished"}
        try:
            return values | dict(zip((f.key for f in sound), self._client.gather(sound), strict=True))
        except Exception:  # one of them was lost meanwhile; which, is told one by one
            return values | {future.key: self._value(future) for future in sound}

    def _value(self, future: Any) -> Any:
        try:
            return self._client.gather(future)
        except Exception as error:  # the answer is what went wrong
            return error

    def _key(self, name: str) -> str:
        return f"wsi-seg-{name}-{id(self):x}-{next(self._numbers)}"


def _failure(future: Any) -> BaseException:
    try:
        if future.status == "error":
            error: BaseException = future.exception()
            return error
    except Exception as error:  # the connection was lost meanwhile
        return error
    return CancelledError(f"{future.key} is {future.status}")
