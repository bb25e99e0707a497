"""What simulated workers do in place of segmenting: sleep for as long as a GPU would take. Slides need no file.

Owns slides, their steps and the speed of a worker; `benchmarks.cluster_simulation` measures what schedules them.
"""

from __future__ import annotations

import math
import random
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from distributed import get_worker

from wsi_seg.engine.cluster.messages import Began, Orders, TaskReceipt
from wsi_seg.engine.job import TaskKey
from wsi_seg.engine.schedule import all_tasks
from wsi_seg.geometry import PyramidLayout

BLOCK = 8192
"""Side of a block, px."""
PLAN_BYTES = 50_000
"""Size of a sealed job: plan, card and slide."""


@dataclass(frozen=True)
class Pace:
    """How long steps take on a worker of ordinary speed, s."""

    block_s: float
    """A block; those of the pyramid take a fifth."""
    jitter: float = 0.2
    """Sigma of the logarithm of a block's time; the mean stays."""
    prepare_s: float = 1.0
    begin_s: float = 0.05
    finish_s: float = 0.3

    def seconds(self, slide: int, key: TaskKey) -> float:
        """Of one task: the same whoever does it, and however often."""
        chance = random.Random(f"{slide}/{key.tier}/{key.row}/{key.column}")
        mean = self.block_s * (0.2 if key.tier else 1.0)
        return mean * math.exp(chance.gauss(0.0, self.jitter) - self.jitter**2 / 2)


@dataclass(frozen=True)
class SimulatedSlide:
    """In place of an assignment, and of all that is made of it."""

    number: int
    n_blocks: int
    """Wanted; the canvas is nearly square and whole blocks."""
    pace: Pace
    orders: Orders

    @property
    def layout(self) -> PyramidLayout:
        """Cut like a real canvas."""
        rows = max(1, round(math.sqrt(self.n_blocks)))
        return PyramidLayout((rows * BLOCK, max(1, round(self.n_blocks / rows)) * BLOCK), BLOCK)

    def work_s(self) -> float:
        """Of all its steps, on an ordinary worker."""
        around = self.pace.prepare_s + self.pace.begin_s + self.pace.finish_s
        return around + sum(self.pace.seconds(self.number, key) for key in all_tasks(self.layout))


@dataclass(frozen=True)
class SimulatedOutline:
    """What the loop reads of an outline."""

    slide: SimulatedSlide
    notes: tuple[str, ...] = ()

    @cached_property
    def layout(self) -> PyramidLayout:
        """Of the slide."""
        return self.slide.layout


@dataclass(frozen=True)
class SimulatedJob:
    """As large as a real one."""

    slide: SimulatedSlide
    plan: bytes


class Folder:
    """Nothing to hold."""

    path = Path()
    permit = ""

    def on_loss(self, tell: Any) -> None:
        """Nobody takes it away."""

    def close(self) -> None:
        """Nothing to let go of."""


def slowness() -> float:
    """Of the worker this runs on, from its name: `w-3-x2.5` takes 2.5 times as long."""
    return float(str(get_worker().name).rsplit("-x", 1)[1])


def _sleep(seconds: float) -> None:
    time.sleep(seconds * slowness())


def prepare(slide: SimulatedSlide) -> SimulatedJob:
    """Open and plan."""
    _sleep(slide.pace.prepare_s)
    return SimulatedJob(slide, bytes(PLAN_BYTES))


def outline(prepared: SimulatedJob) -> SimulatedOutline:
    """Nothing but the layout."""
    return SimulatedOutline(prepared.slide)


def job(prepared: SimulatedJob) -> SimulatedJob:
    """The same again, which travels to every worker that has tasks of it."""
    return prepared


def begin(prepared: SimulatedJob) -> Began:
    """Nothing is there from earlier."""
    _sleep(prepared.slide.pace.begin_s)
    return Began((), None)  # type: ignore[arg-type]


def work(prepared: SimulatedJob, key: TaskKey, condemned: Any) -> TaskReceipt:  # noqa: ARG001 - as the loop calls it
    """A block, or a piece of the pyramid."""
    seconds = prepared.slide.pace.seconds(prepared.slide.number, key)
    _sleep(seconds)
    return TaskReceipt(n_predicted=64, n_failed=0, pixels=BLOCK**2, seconds=seconds, worker=str(get_worker().name))


def finish(prepared: SimulatedJob, assignment: SimulatedSlide, spent: Any, permit: str) -> None:  # noqa: ARG001 - as above
    """Commit."""
    _sleep(prepared.slide.pace.finish_s)


def claim(assignment: Any, outlined: Any) -> Folder:  # noqa: ARG001 - as above
    """Nobody else wants a slide that is not there."""
    return Folder()
