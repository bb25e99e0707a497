"""What travels between the driver and its workers: small, plain values that pickle.

Slides and plans travel sealed, as bytes: a slide that is unpickled is opened, which may take long or fail, and that is
to happen in a task and not in the event loop of a scheduler or worker.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

from wsi_seg.engine.job import RunJob, TaskKey
from wsi_seg.engine.options import RunOptions
from wsi_seg.engine.target import Target
from wsi_seg.output.status import TileStatus

if TYPE_CHECKING:
    from wsi_seg.engine.events import RunStarted
    from wsi_seg.engine.prepare import Planned
    from wsi_seg.geometry import PyramidLayout
    from wsi_seg.output.run_directory import RunIdentity
    from wsi_seg.slide import Slide

T = TypeVar("T")
TileKey = tuple[int, int]
"""(row, column) in the grid of tiles."""


@dataclass(frozen=True, slots=True)
class Sealed(Generic[T]):
    """A value that stays closed until somebody who means to use it opens it."""

    content: bytes

    @classmethod
    def of(cls, value: T) -> Sealed[T]:
        """Close a value."""
        return cls(pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL))

    def open(self) -> T:
        """A new copy of the value. Raises whatever its making raises, such as SlideOpenError."""
        value: T = pickle.loads(self.content)
        return value


@dataclass(frozen=True, slots=True)
class Orders:
    """What holds for every task of one driver."""

    token: str
    """Whoever knows it can stop the tasks."""
    stall_s: float = 60.0
    """Seconds without any progress after which a worker process is ended, at the least."""
    memory_share: float = 0.75
    """Part of a worker's memory limit that a plan may use; Dask pauses a worker at 0.8."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """One slide to be segmented, of which nothing is opened yet."""

    source: Path | Sealed[Slide]
    """A path that means the same file on every worker, or a slide that pickles."""
    target: Target
    options: RunOptions
    orders: Orders


@dataclass(frozen=True, slots=True)
class Outline:
    """What the driver knows of a planned slide."""

    identity: RunIdentity
    layout: PyramidLayout
    started: RunStarted
    """As told to listeners, before anything is known to be done."""
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PreparedSlide:
    """What preparing a slide leaves on the worker that did it."""

    outline: Outline
    job: SealedJob
    planned: Sealed[Planned]


@dataclass(frozen=True, slots=True)
class SealedJob:
    """A job that a process opens once, however many of its tasks it runs."""

    name: str
    """Differs between jobs that differ in anything a session depends on."""
    content: Sealed[RunJob]
    orders: Orders


@dataclass(frozen=True, slots=True)
class Began:
    """What a claimed folder holds from earlier."""

    done: tuple[TaskKey, ...]
    started: RunStarted


@dataclass(frozen=True, slots=True)
class TaskReceipt:
    """What the driver hears of a finished task; the whole receipt lies beside its shards."""

    n_predicted: int
    n_failed: int
    """Tiles of the block that could not be read or predicted."""
    pixels: int
    """Canvas px that the task labelled."""
    seconds: float
    worker: str
    notes: tuple[str, ...] = ()
    condemned: Mapping[TileKey, TileStatus] = field(default_factory=dict)
    """Tiles that end the process which tries them, found in isolation."""
