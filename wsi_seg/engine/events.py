"""What a run tells whoever listens (the progress bar, a log): plain values, no printing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from wsi_seg.engine.receipt import Receipt


@dataclass(frozen=True, slots=True)
class RunStarted:
    """The plan is made and work begins, or goes on."""

    n_tasks: int
    n_done: int
    """Tasks already finished by an earlier run of the same identity."""
    n_tiles: int
    """Tiles to predict in all, by the plan."""
    n_tiles_done: int
    canvas_pixels: int
    analysed_share: float
    """Part of the canvas that gets labels, 0 … 1."""


@dataclass(frozen=True, slots=True)
class TilesPredicted:
    """Some more tiles of the plan are settled, here or on a worker."""

    n: int


@dataclass(frozen=True, slots=True)
class TaskDone:
    """A block or a pyramid task is written and marked."""

    receipt: Receipt


@dataclass(frozen=True, slots=True)
class Note:
    """Something the user should know."""

    text: str


Event = RunStarted | TilesPredicted | TaskDone | Note
Listener = Callable[[Event], None]


def ignore(_: Event) -> None:
    """The listener that does nothing."""
