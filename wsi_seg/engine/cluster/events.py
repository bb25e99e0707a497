"""What a run on a cluster tells whoever listens: plain values, by the number of the slide."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from wsi_seg.engine.cluster.messages import TaskReceipt
from wsi_seg.engine.events import RunStarted
from wsi_seg.engine.job import TaskKey
from wsi_seg.engine.report import RunReport
from wsi_seg.errors import WsiSegError


class Phase(StrEnum):
    """How far a slide is."""

    WAITING = "waiting"
    PREPARING = "preparing"
    WORKING = "working"
    FINISHING = "finishing"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Connected:
    """The cluster answers."""

    dashboard: str
    """Address of Dask's pages; empty where there are none."""


@dataclass(frozen=True, slots=True)
class SlideChanged:
    """A slide has reached another phase."""

    slide: int
    phase: Phase
    report: RunReport | None = None
    """Of a slide that is done."""
    error: WsiSegError | None = None
    """Of a slide that failed."""


@dataclass(frozen=True, slots=True)
class SlideBegan:
    """A slide is planned and its tasks begin, or go on."""

    slide: int
    started: RunStarted


@dataclass(frozen=True, slots=True)
class SlideNote:
    """Something the user should know of a slide."""

    slide: int
    text: str


@dataclass(frozen=True, slots=True)
class TaskEnded:
    """A block or a pyramid task is written and marked."""

    slide: int
    key: TaskKey
    receipt: TaskReceipt


@dataclass(frozen=True, slots=True)
class WorkersChanged:
    """Workers came or went."""

    threads: Mapping[str, int]
    """By address."""


ClusterEvent = Connected | SlideChanged | SlideBegan | SlideNote | TaskEnded | WorkersChanged
ClusterListener = Callable[[ClusterEvent], None]
