"""Order, dependencies and stopping of the task graph."""

from __future__ import annotations

import threading

import pytest

from wsi_seg.engine.hands import Hands
from wsi_seg.engine.job import TaskKey
from wsi_seg.engine.receipt import Receipt
from wsi_seg.engine.schedule import all_tasks, run_in_threads
from wsi_seg.geometry import PyramidLayout

LAYOUT = PyramidLayout((4096, 5000), 256)


def test_every_tier_comes_after_the_tasks_it_reads() -> None:
    done: list[TaskKey] = []
    lock = threading.Lock()

    def work(key: TaskKey) -> Receipt:
        if key.tier:
            below = {TaskKey(key.tier - 1, *child) for child in LAYOUT.children(key.tier, key.row, key.column)}
            with lock:
                assert below <= set(done)
        with lock:
            done.append(key)
        return Receipt(key.tier, key.row, key.column, {})

    todo = list(all_tasks(LAYOUT))
    assert {key.tier for key in todo} == set(range(LAYOUT.n_tiers))
    with Hands(4) as hands:
        receipts = run_in_threads(LAYOUT, todo, work, hands, threading.Event())
    assert sorted(done, key=str) == sorted(todo, key=str)
    assert len(receipts) == len(todo)


def test_a_failing_task_stops_the_others_and_is_raised() -> None:
    stop = threading.Event()
    done: list[TaskKey] = []

    def work(key: TaskKey) -> Receipt:
        if key == TaskKey(0, 0, 3):
            raise ValueError("broken")
        done.append(key)
        return Receipt(key.tier, key.row, key.column, {})

    with Hands(2) as hands, pytest.raises(ValueError, match="broken"):
        run_in_threads(LAYOUT, all_tasks(LAYOUT), work, hands, stop)
    assert stop.is_set()
    assert TaskKey(LAYOUT.n_tiers - 1, 0, 0) not in done, "what depends on the failed task was not run"


def test_tasks_done_earlier_are_not_dependencies() -> None:
    apex = [key for key in all_tasks(LAYOUT) if key.tier == LAYOUT.n_tiers - 1]
    with Hands(1) as hands:
        receipts = run_in_threads(
            LAYOUT, apex, lambda key: Receipt(key.tier, key.row, key.column, {}), hands, threading.Event()
        )
    assert len(receipts) == len(apex)


def test_every_shard_of_the_pyramid_has_one_writer() -> None:
    for size in [(300, 200), (1025, 4096), (9000, 700), (20_000, 30_000)]:
        layout = PyramidLayout(size, 512)
        written: set[tuple[int, int, int]] = set()
        for key in all_tasks(layout):
            box = layout.task_box(key.tier, key.row, key.column)
            for level in layout.tier_levels(key.tier):
                steps = level - key.tier * layout.depth
                shard = (level, (box.y0 >> steps) // layout.shard(level), (box.x0 >> steps) // layout.shard(level))
                assert (box.y0 >> steps) % layout.shard(level) == 0
                assert shard not in written
                written.add(shard)
        for level in range(layout.n_levels):
            height, width = layout.level_size(level)
            n = -(-height // layout.shard(level)) * -(-width // layout.shard(level))
            assert sum(1 for entry in written if entry[0] == level) == n
