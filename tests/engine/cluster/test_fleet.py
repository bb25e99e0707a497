"""The window of a worker is filled and never exceeded; who leaves gives back; who loses everybody says so."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from wsi_seg.engine.cluster import fleet as module
from wsi_seg.engine.cluster.connecting import Connection
from wsi_seg.engine.cluster.events import ClusterEvent, WorkersChanged
from wsi_seg.engine.cluster.fleet import LOOK_S, LOST_S, WINDOW_PER_THREAD, Fleet
from wsi_seg.engine.cluster.work_queue import WorkQueue
from wsi_seg.engine.job import TaskKey
from wsi_seg.errors import ClusterError


def clock(scene: Scene) -> Any:
    """The scene's time, for as long as it lasts."""
    return patch.object(module, "monotonic", lambda: scene.now)


class Scene:
    """A fleet over a scheduler and a clock of our own."""

    def __init__(self, n_tasks: int = 0, expected: int = 0) -> None:
        self.now, self.status = 1000.0, "running"
        self.threads: dict[str, int] = {}
        self.scheduler = SimpleNamespace(address="tcp://10.0.0.1:1")
        self.heard: list[ClusterEvent] = []
        self.queue = WorkQueue()
        self.queue.add(0, [TaskKey(0, 0, column) for column in range(n_tasks)])
        with clock(self):
            self.fleet = Fleet(Connection(self, expected), self.queue, self.heard.append)

    def nthreads(self) -> dict[str, int]:
        return self.threads

    def look(self, threads: dict[str, int], after_s: float = LOOK_S) -> None:
        self.threads = threads
        self.now += after_s
        with clock(self):
            self.fleet.look()


def test_every_window_is_filled_by_threads() -> None:
    scene = Scene(100)
    scene.look({"a": 1, "b": 4})
    given_out = Counter(address for address, _, _ in scene.fleet.free_places())
    assert given_out == {"a": WINDOW_PER_THREAD, "b": 4 * WINDOW_PER_THREAD}
    assert not list(scene.fleet.free_places())
    scene.fleet.came_back("a")
    assert [address for address, _, _ in scene.fleet.free_places()] == ["a"]


def test_everybody_runs_something_before_anybody_has_something_waiting() -> None:
    scene = Scene(4)
    scene.look({"a": 1, "b": 1, "c": 1})
    assert Counter(address for address, _, _ in scene.fleet.free_places()) == {"a": 2, "b": 1, "c": 1}


@settings(deadline=None)
@given(st.lists(st.one_of(st.sets(st.sampled_from("abc")), st.sampled_from("abc")), max_size=30))
def test_no_window_is_exceeded_and_nothing_is_handed_out_twice(story: list[set[str] | str]) -> None:
    scene, away, seen = Scene(60), Counter[str](), []
    for event in story:
        if isinstance(event, set):
            scene.look(dict.fromkeys(event, 2))
            away = Counter({address: n for address, n in away.items() if address in event})
        elif away[event]:
            away[event] -= 1
            scene.fleet.came_back(event)
        for address, _, key in scene.fleet.free_places():
            away[address] += 1
            seen.append(key)
        assert all(n <= 2 * WINDOW_PER_THREAD for n in away.values())
        if scene.fleet.n_workers and len(seen) < 60:
            assert all(away[address] == 2 * WINDOW_PER_THREAD for address in scene.threads)
    assert len(seen) == len(set(seen))


def test_an_answer_of_somebody_who_left_opens_no_window() -> None:
    scene = Scene(100)
    scene.look({"a": 1})
    list(scene.fleet.free_places())
    scene.look({"b": 1})
    list(scene.fleet.free_places())
    scene.fleet.came_back("a")
    assert not list(scene.fleet.free_places())
    scene.look({"a": 1, "b": 1})
    assert len(list(scene.fleet.free_places())) == WINDOW_PER_THREAD


def test_what_is_left_to_a_worker_that_leaves_goes_to_others() -> None:
    scene = Scene(10)
    scene.look({"a": 1})
    first = [key.column for _, _, key in scene.fleet.free_places()]
    scene.look({"b": 8})
    assert first + [key.column for _, _, key in scene.fleet.free_places()] == list(range(10))


def test_a_cluster_that_may_grow_gets_more_than_it_can_do() -> None:
    scene = Scene(100, expected=12)
    scene.look({"a": 1, "b": 1})
    assert len(list(scene.fleet.free_places())) == 12 * WINDOW_PER_THREAD


def test_it_looks_once_in_a_while_and_tells_only_changes() -> None:
    scene = Scene()
    scene.look({"a": 1})
    scene.look({"a": 1, "b": 1}, after_s=LOOK_S / 2)
    assert scene.fleet.n_workers == 1
    scene.look({"a": 1, "b": 1})
    scene.look({"a": 1, "b": 1})
    assert scene.heard == [WorkersChanged({"a": 1}), WorkersChanged({"a": 1, "b": 1})]


def test_nobody_for_a_minute_is_an_end_unless_jobs_may_still_start() -> None:
    scene, queued = Scene(), Scene(expected=4)
    for one in (scene, queued):
        one.look({"a": 1})
        one.look({}, after_s=LOST_S - 1)
    queued.look({}, after_s=LOST_S)
    with pytest.raises(ClusterError, match="no worker"):
        scene.look({}, after_s=2)


def test_a_scheduler_that_is_gone_is_an_end() -> None:
    scene = Scene()
    scene.status = "closed"
    with pytest.raises(ClusterError, match=r"the scheduler at tcp://10\.0\.0\.1:1 is gone"):
        scene.look({"a": 1})
