"""One slide as its driver sees it: which phase it is in, what is left of it, what it has cost.

Owns that state. Knows no scheduler: futures are kept, never asked.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from threading import Event
from time import monotonic
from typing import TYPE_CHECKING, Any

from wsi_seg.engine.cluster.events import Phase
from wsi_seg.engine.cluster.messages import Assignment, TileKey
from wsi_seg.engine.job import TaskKey
from wsi_seg.engine.schedule import all_tasks
from wsi_seg.engine.steps import Spent
from wsi_seg.geometry import PyramidLayout
from wsi_seg.output.status import TileStatus

if TYPE_CHECKING:
    from wsi_seg.output.run_directory import RunDirectory


@dataclass(slots=True)
class SlideRun:
    """The state of one slide."""

    number: int
    assignment: Assignment
    phase: Phase = Phase.WAITING
    prepared: Any = None
    """Future of a PreparedSlide."""
    job: Any = None
    """Future of its SealedJob."""
    folder: RunDirectory | None = None
    """The claimed folder, held by this process."""
    lost: Event = field(default_factory=Event)
    """Set when another process may go on with the folder."""
    condemned: dict[TileKey, TileStatus] = field(default_factory=dict)
    layout: PyramidLayout | None = None
    began: float = 0.0
    """`monotonic` when preparing began."""
    working_since: float = 0.0
    resumed: frozenset[TaskKey] = frozenset()
    _tiers: list[list[TaskKey]] = field(default_factory=list)
    _left: int = 0

    def take(self, folder: RunDirectory) -> None:
        """Take in the claimed folder."""
        self.folder = folder
        folder.on_loss(self.lost.set)

    @property
    def permit(self) -> str:
        """Lets a worker finish the slide in the folder that this process holds."""
        return "" if self.folder is None else self.folder.permit

    def start_clock(self) -> None:
        """The slide's turn begins; what was spent on it before still counts."""
        self.began = self.began or monotonic()

    def plan_tiers(self, done: Iterable[TaskKey]) -> None:
        """Take in what is to be done, tier by tier."""
        layout = self.layout
        assert layout is not None
        self.resumed = frozenset(done)
        self._tiers = [[] for _ in range(layout.n_tiers)]
        for key in all_tasks(layout):
            if key not in self.resumed:
                self._tiers[key.tier].append(key)
        self.working_since = monotonic()

    def next_tier(self) -> list[TaskKey]:
        """The tasks that can be started, now that the tier before is done; empty where all tiers are."""
        while self._tiers:
            keys = self._tiers.pop(0)
            if keys:
                self._left = len(keys)
                return keys
        return []

    def task_done(self) -> bool:
        """Count a finished task; True where its tier is done."""
        self._left -= 1
        return not self._left

    def spent(self) -> Spent:
        """What the run has cost until now."""
        now = monotonic()
        return Spent(now - self.began, now - self.working_since, self.resumed)

    def release(self) -> None:
        """Let go of the folder and of what workers keep for this slide."""
        if self.folder is not None:
            self.folder.close()
        self.folder = self.prepared = self.job = None
