"""Runs the task graph on Dask: threads of this process, or the workers of a cluster.

Owns order, dependencies and back-pressure. Knows tasks by key only; what a task does is a function it is given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from threading import Event
from typing import Any

from wsi_seg.engine.job import RunJob, TaskKey
from wsi_seg.engine.receipt import Receipt
from wsi_seg.engine.stopping import check_stop
from wsi_seg.errors import UsageError
from wsi_seg.geometry import PyramidLayout

WINDOW_PER_THREAD = 3
"""Futures in flight per worker thread: enough to keep it fed, few enough to hold back (RELIABILITY §2)."""


def all_tasks(layout: PyramidLayout) -> Iterator[TaskKey]:
    """Every task of a run, tier by tier, row by row."""
    for tier in range(layout.n_tiers):
        rows, columns = layout.grid(tier)
        yield from (TaskKey(tier, row, column) for row in range(rows) for column in range(columns))


def run_in_threads(
    layout: PyramidLayout, todo: Iterable[TaskKey], work: Callable[[TaskKey], Receipt], n_workers: int, stop: Event
) -> list[Receipt]:
    """Run `todo` on dask's threaded scheduler and answer their receipts.

    Returns only when every thread has come to rest, also after an error, which is raised then.
    """
    import dask.threaded

    graph, names = _graph(layout, todo, work)
    with ThreadPoolExecutor(n_workers, thread_name_prefix="wsi-seg") as pool:
        try:
            receipts: list[Receipt] = list(dask.threaded.get(graph, names, pool=pool, num_workers=n_workers))
        except BaseException:
            stop.set()
            raise
    return receipts


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


def run_on_cluster(
    client: Any, job: RunJob, todo: Iterable[TaskKey], work: Callable[[RunJob, TaskKey], Receipt], stop: Event
) -> Iterator[Receipt]:
    """Run `todo` on a `distributed.Client`, yielding receipts as they come.

    A sliding window of futures is the back-pressure; a tier begins when the one below is done.
    """
    tiers: dict[int, list[TaskKey]] = {}
    for key in todo:
        tiers.setdefault(key.tier, []).append(key)
    for tier in sorted(tiers):
        yield from _run_window(client, job, tiers[tier], work, stop)


def _run_window(
    client: Any, job: RunJob, keys: list[TaskKey], work: Callable[[RunJob, TaskKey], Receipt], stop: Event
) -> Iterator[Receipt]:
    from distributed import as_completed

    waiting = iter(keys)
    window = WINDOW_PER_THREAD * max(1, sum(client.nthreads().values()))

    def submitted(n: int) -> list[Any]:
        # Impure: a future must never be answered from a result the scheduler remembers of another run.
        return [client.submit(work, job, key, pure=False, retries=2) for key in islice(waiting, n)]

    live = set(submitted(window))
    running = as_completed(live)
    try:
        for future in running:
            live.discard(future)
            yield future.result()
            check_stop(stop)
            for successor in submitted(1):
                live.add(successor)
                running.add(successor)
    finally:
        client.cancel(list(live))


@contextmanager
def connect(address: str) -> Iterator[Any]:
    """A `distributed.Client` of the scheduler at `address`. Raises UsageError where none answers."""
    from distributed import Client

    try:
        client = Client(address, timeout=10)
    except (OSError, TimeoutError, ValueError) as error:
        raise UsageError(
            f"no Dask scheduler at {address}: {error}", remedy="start one with `dask scheduler`"
        ) from error
    with client:
        if not client.nthreads():
            client.wait_for_workers(1, timeout=60)
        yield client
