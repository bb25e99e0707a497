"""The progress bar: listens to a run's events."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from wsi_seg.engine.events import Event, Listener, Note, RunStarted, TaskDone, TilesPredicted, ignore


@contextmanager
def progress_bar(*, enabled: bool = True) -> Iterator[Listener]:
    """A listener that draws on standard error while the `with` lasts; one that does nothing when not `enabled`."""
    if not enabled:
        yield ignore
        return
    console = Console(file=sys.stderr)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TextColumn("{task.fields[speed]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )
    with bar:
        yield _Bar(bar, console).hear


class _Bar:
    """Turns events into the bar's numbers."""

    def __init__(self, bar: Progress, console: Console) -> None:
        self._bar, self._console = bar, console
        text = "preparing (the first run also compiles)"
        self._preparing = bar.add_task(text, total=None, speed="")
        self._task: TaskID | None = None
        self._began = monotonic()
        self._tiles = 0
        self._px_per_tile = 0.0

    def hear(self, event: Event) -> None:
        """Take in one event; called from any thread."""
        match event:
            case RunStarted():
                self._start(event)
            case TilesPredicted(n=n):
                self._advance(n)
            case TaskDone():
                pass
            case Note(text=text):
                self._console.print(f"note: {text}", highlight=False, markup=False, style="yellow", soft_wrap=True)

    def _start(self, event: RunStarted) -> None:
        self._bar.remove_task(self._preparing)
        self._began = monotonic()
        self._px_per_tile = event.canvas_pixels * event.analysed_share / max(1, event.n_tiles)
        tiles = "1 tile" if event.n_tiles == 1 else f"{event.n_tiles} tiles"
        skipped = f"{100 * (1 - event.analysed_share):.0f} % of the area skipped"
        resumed = f", resuming: {event.n_done} of {event.n_tasks} tasks were done" if event.n_done else ""
        self._console.print(f"{tiles}, {skipped}{resumed}", highlight=False)
        self._task = self._bar.add_task("tiles", total=event.n_tiles, completed=event.n_tiles_done, speed="")

    def _advance(self, n: int) -> None:
        if self._task is None:
            return
        self._tiles += n
        seconds = max(1e-3, monotonic() - self._began)
        rate = self._tiles / seconds
        speed = f"{rate:.1f} tiles/s, {rate * self._px_per_tile / 1e6:.2f} Mpx/s"
        self._bar.update(self._task, advance=n, speed=speed)
