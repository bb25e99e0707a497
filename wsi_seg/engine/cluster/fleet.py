"""The workers of a connection: who is there, and who has room for another task.

Owns the window of tasks per worker, which is the back-pressure, and notices when all workers, or the scheduler, are
gone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from time import monotonic

from wsi_seg.engine.cluster.connecting import Connection
from wsi_seg.engine.cluster.events import ClusterListener, WorkersChanged
from wsi_seg.engine.cluster.work_queue import WorkQueue
from wsi_seg.engine.job import TaskKey
from wsi_seg.errors import ClusterError

WINDOW_PER_THREAD = 2
"""Tasks given to a worker per thread: one that runs, and one that is there when it ends."""
LOOK_S = 2.0
"""Seconds between two looks at who is there."""
LOST_S = 60.0
"""Seconds without any worker after which the run gives up; a queue of jobs may take any time to start some."""
_KEPT = "start it again and run the same command: what is finished is kept"


class Fleet:
    """Hands the work of a queue to workers."""

    def __init__(self, connection: Connection, queue: WorkQueue, listener: ClusterListener) -> None:
        self._client, self._expected = connection.client, connection.expected_threads
        self._look_at_jobs = connection.look
        self._queue, self._listener = queue, listener
        self._threads: dict[str, int] = {}
        self._given: Counter[str] = Counter()
        self._looked = float("-inf")
        self._last_seen = monotonic()

    @property
    def n_workers(self) -> int:
        """Worker processes there are."""
        return len(self._threads)

    def look(self) -> None:
        """Notice who came and who left, once in a while. Raises ClusterError where nobody is left."""
        now = monotonic()
        if now - self._looked < LOOK_S:
            return
        self.check_client()
        try:
            self._looked, threads = now, dict(self._client.nthreads())
        except OSError as error:  # Dask's CommClosedError is one
            raise self._gone() from error
        self._look_at_jobs(bool(threads))
        if threads or self._expected:
            self._last_seen = now
        elif now - self._last_seen > LOST_S:
            raise ClusterError(f"no worker has been there for {LOST_S:.0f} s", remedy=_KEPT)
        if threads != self._threads:
            for gone in self._threads.keys() - threads.keys():
                self._queue.release(gone)
                del self._given[gone]
            self._threads = threads
            self._listener(WorkersChanged(threads))

    def check_client(self) -> None:
        """Raise ClusterError where the scheduler is gone."""
        if self._client.status != "running":
            raise self._gone()

    def _gone(self) -> ClusterError:
        return ClusterError(
            f"the scheduler at {self._client.scheduler.address} is gone",
            rule="a scheduler keeps nothing; results on disk are the only state",
            remedy=_KEPT,
        )

    def free_places(self) -> Iterator[tuple[str, int, TaskKey]]:
        """Take tasks from the queue as long as there is room: (worker, number of the slide, task).

        Everybody gets something to run before anybody gets something to wait: the last tasks are done side by side.
        """
        # In a cluster that grows with its work, more is handed out than is there to do it: else it would not grow.
        ahead = -(-WINDOW_PER_THREAD * self._expected // max(1, len(self._threads)))
        for share in range(1, WINDOW_PER_THREAD + 1):
            for address, n_threads in self._threads.items():
                window = -(-share * max(WINDOW_PER_THREAD * n_threads, ahead) // WINDOW_PER_THREAD)
                while self._given[address] < window:
                    if (taken := self._queue.take(address)) is None:
                        return  # for nobody: a queue that holds anything has something for everybody
                    self._given[address] += 1
                    yield address, *taken

    def came_back(self, address: str) -> None:
        """A task that a worker was given has been answered."""
        if self._given[address]:
            self._given[address] -= 1
