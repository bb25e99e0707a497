"""Runs the task graph of one slide on Dask, in threads of this process.

Owns order and dependencies. Knows tasks by key only; what a task does is a function it is given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from threading import Event
from typing import Any

from wsi_seg.engine.hands import Hands
from wsi_seg.engine.job import TaskKey
from wsi_seg.engine.receipt import Receipt
from wsi_seg.geometry import PyramidLayout


def all_tasks(layout: PyramidLayout) -> Iterator[TaskKey]:
    """Every task of a run, tier by tier, row by row."""
    for tier in range(layout.n_tiers):
        rows, columns = layout.grid(tier)
        yield from (TaskKey(tier, row, column) for row in range(rows) for column in range(columns))


def run_in_threads(
    layout: PyramidLayout,
    todo: Iterable[TaskKey],
    work: Callable[[TaskKey], Receipt],
    hands: Hands,
    stop: Event,
) -> list[Receipt]:
    """Run `todo` on dask's threaded scheduler, in the threads of `hands`, and answer their receipts.

    After an error, which is raised, threads may still be at work: leave `hands` to wait for them.
    """
    import dask.threaded

    graph, names = _graph(layout, todo, work)
    try:
        return list(dask.threaded.get(graph, names, pool=hands.pool, num_workers=hands.n_threads))
    except BaseException:
        stop.set()
        raise


def _graph(
    layout: PyramidLayout, todo: Iterable[TaskKey], work: Callable[[TaskKey], Receipt]
) -> tuple[dict[str, Any], list[str]]:
    """A dask graph in which a pyramid task waits for the tasks below it that are still to be done."""
    names = {key: f"tier{key.tier}-{key.row:05d}-{key.column:05d}" for key in todo}

    def after(key: TaskKey, _: list[Receipt]) -> Receipt:
        return work(key)

    graph: dict[str, Any] = {}
    for key, name in names.items():
        children = layout.children(key.tier, key.row, key.column) if key.tier else ()
        below = [TaskKey(key.tier - 1, *child) for child in children]
        graph[name] = (after, key, [names[child] for child in below if child in names])
    return graph, list(names.values())
