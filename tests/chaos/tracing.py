"""Makes the program under test tell, from inside, which tasks begin and end; and runs some of them twice if asked.

A line per event goes to a log of the result's own in the folder that LOG names (see `log_of`), in one append, so that a
`kill -9` cuts no line in half::

    begin <seconds since 1970> <pid> <tier> <row> <column>     a task is entered
    done  <seconds since 1970> <pid> <tier> <row> <column>     its marker is on the disk: now the work is acknowledged

`python -m tests.chaos.traced` loads it into the driver, `dask worker --preload tests.chaos.tracing` into workers.
Nothing else of the program is changed.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

LOG = "WSI_SEG_CHAOS_LOG"
"""Environment variable: the folder of the logs."""
TWICE = "WSI_SEG_CHAOS_TWICE"
"""Environment variable: share of the tasks, 0 … 1, that are run a second time, half of them at the same time."""


class Task(NamedTuple):
    """A task's place in the pyramid."""

    tier: int
    row: int
    column: int


class Event(NamedTuple):
    """A line of the log."""

    kind: str
    at: float
    pid: int
    task: Task


@dataclass(frozen=True, slots=True)
class Trace:
    """What the log tells."""

    events: tuple[Event, ...]

    @classmethod
    def read(cls, log: Path) -> Trace:
        """The whole lines of a log; nothing where there is none yet."""
        if not log.exists():
            return cls(())
        whole, _, _ = log.read_text().rpartition("\n")
        words = (line.split() for line in whole.splitlines())
        return cls(tuple(Event(kind, float(at), int(pid), Task(*map(int, place))) for kind, at, pid, *place in words))

    def of(self, kind: str, tiers: Callable[[int], bool] = lambda _: True) -> list[Task]:
        """Tasks of the events of a kind, as they came."""
        return [event.task for event in self.events if event.kind == kind and tiers(event.task.tier)]

    def begun(self) -> Counter[Task]:
        """How often each task was entered."""
        return Counter(self.of("begin"))

    def acknowledged(self) -> set[Task]:
        """Tasks whose marker was written."""
        return set(self.of("done"))

    def in_flight(self, pids: set[int] | None = None) -> Counter[int]:
        """Tasks entered and not acknowledged, by process."""
        open_tasks: Counter[tuple[int, Task]] = Counter()
        for kind, _, pid, task in self.events:
            open_tasks[pid, task] += 1 if kind == "begin" else -1
        return Counter(pid for (pid, _), n in open_tasks.items() if n > 0 and (pids is None or pid in pids))


def install(environment: Mapping[str, str] = os.environ) -> None:
    """Wrap what runs a task and what writes a marker, once per process."""
    if LOG not in environment or getattr(install, "done", False):
        return
    install.done = True  # type: ignore[attr-defined]
    from wsi_seg.engine import block, pyramid
    from wsi_seg.output.run_directory import Markers

    share, write = float(environment.get(TWICE, "0")), Markers.write
    block.run_block = _traced(block.run_block, lambda row, column: Task(0, row, column), share)
    pyramid.run_pyramid = _traced(pyramid.run_pyramid, lambda key: Task(key.tier, key.row, key.column), share)

    def told(self: Markers, receipt: Mapping[str, Any]) -> None:
        write(self, receipt)
        tell(self.path, "done", Task(receipt["tier"], receipt["row"], receipt["column"]))

    Markers.write = told  # type: ignore[method-assign]


def _traced(work: Callable[..., Any], place: Callable[..., Task], share: float) -> Callable[..., Any]:
    def once(session: Any, *arguments: Any) -> Any:
        tell(session.job.folder, "begin", place(*arguments))
        return work(session, *arguments)

    def as_often_as_asked(session: Any, *arguments: Any) -> Any:
        lot = _lot(place(*arguments))
        if lot >= share:
            return once(session, *arguments)
        if lot < share / 2:  # at the same time
            twin = threading.Thread(target=once, args=(session, *arguments))
            twin.start()
            answer = once(session, *arguments)
            twin.join()
            return answer
        once(session, *arguments)
        return once(session, *arguments)

    return as_often_as_asked


def _lot(task: Task) -> float:
    """A number in 0 … 1 that is a task's own in every process."""
    return int.from_bytes(sha256(repr(tuple(task)).encode()).digest()[:4], "big") / 2**32


def log_of(result: Path, logs: Path) -> Path:
    """The log of a result, finished or not: named after the folder that it lies in."""
    return logs / f"{result.parent.name}.log"


def tell(result: Path, kind: str, task: Task) -> None:
    """Append a line."""
    handle = os.open(log_of(result, Path(os.environ[LOG])), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(handle, f"{kind} {time.time():.4f} {os.getpid()} {task.tier} {task.row} {task.column}\n".encode())
    finally:
        os.close(handle)


def dask_setup(_: Any) -> None:
    """What `dask worker --preload` calls."""
    install()
