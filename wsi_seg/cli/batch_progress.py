"""The live table of a batch: what the tally says, drawn on standard error a few times a second."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from wsi_seg.cli.printable import printable

if TYPE_CHECKING:
    from wsi_seg.batch import Tally
    from wsi_seg.engine.cluster.events import ClusterEvent

ROWS = 12
"""Slides under way in the table, at most."""
WORKERS = 8
"""Workers in the table, at most."""
_PLAIN_EVERY_S = 30.0
"""Seconds between lines where there is no terminal."""


@contextmanager
def batch_table(*, quiet: bool, notes: Sequence[str] = ()) -> Iterator[Callable[..., None]]:
    """A watcher for `run_batch` that draws while the `with` lasts; a line now and then where there is no terminal."""
    if quiet:
        yield lambda *_: None
        return
    console = Console(file=sys.stderr)
    drawn = _Table(console)
    for note in notes:
        drawn.say(f"note: {note}", "yellow")
    if not console.is_terminal:
        with drawn.telling():
            yield drawn.watch
        return
    with Live(get_renderable=drawn.render, console=console, refresh_per_second=4, transient=True):
        yield drawn.watch


class _Table:
    """Draws a tally."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._tally: Tally | None = None
        self._n_notes = 0

    def say(self, text: str, style: str) -> None:
        """A line of its own, above the table."""
        whole = not self._console.is_terminal  # a pipe gets a line as it is, a terminal no broken words
        self._console.print(printable(text), style=style, markup=False, highlight=False, soft_wrap=whole)

    def watch(self, tally: Tally, event: ClusterEvent | None) -> None:
        """Take in where the figures are; notes and failures are printed above the table."""
        from wsi_seg.engine.cluster.events import SlideChanged

        self._tally = tally
        for note in tally.notes[self._n_notes :]:
            self.say(f"note: {note}", "yellow")
        self._n_notes = len(tally.notes)
        if isinstance(event, SlideChanged) and event.error is not None:
            name = tally.slides[event.slide].name
            self.say(f"failed: {name}: {type(event.error).__name__}: {event.error.what}", "red")

    @contextmanager
    def telling(self) -> Iterator[None]:
        """Without a terminal: a line of sums now and then, whether anything happens or not."""
        ended = threading.Event()

        def tell() -> None:
            while not ended.wait(_PLAIN_EVERY_S):
                told = "starting workers ..." if self._tally is None else _sums(self._tally).plain
                self._console.print(told, markup=False, highlight=False, soft_wrap=True)

        teller = threading.Thread(target=tell, daemon=True)
        teller.start()
        try:
            yield
        finally:
            ended.set()
            teller.join()

    def render(self) -> Group | Text:
        """The table as it is now."""
        tally = self._tally
        if tally is None:
            return Text("starting workers …")
        return Group(_sums(tally), _slides(tally), _workers(tally))


def _sums(tally: Tally) -> Text:
    count = {phase.value: n for phase, n in tally.count().items()}
    settled = sum(count.get(phase, 0) for phase in ("waiting", "done", "failed"))
    left = tally.seconds_left
    parts = [
        f"{count.get('done', 0)} done",
        f"{count.get('failed', 0)} failed",
        f"{len(tally.slides) - settled} running",
        f"{count.get('waiting', 0)} waiting",
        f"{tally.mpx_per_s:.1f} Mpx/s",
        "time left unknown" if left is None else f"{_clock(left)} left",
    ]
    if tally.n_before:
        parts.append(f"{tally.n_before} settled before")
    return Text(f"{len(tally.slides)} slides: {', '.join(parts)}", style="bold")


def _slides(tally: Tally) -> Table:
    table = Table("slide", "state", "done", "failed tiles", box=None, pad_edge=False)
    running = [slide for slide in tally.slides if slide.phase not in ("waiting", "done", "failed")]
    for slide in running[:ROWS]:
        failed = str(slide.n_failed_tiles) if slide.n_failed_tiles else ""
        table.add_row(escape(printable(slide.name)), slide.phase.value, f"{100 * slide.share:.0f} %", failed)
    if len(running) > ROWS:
        table.add_row(f"… and {len(running) - ROWS} more", "", "", "")
    return table


def _workers(tally: Tally) -> Table:
    table = Table("worker", "threads", "tasks", "busy", box=None, pad_edge=False)
    now = monotonic()
    for address, worker in list(tally.workers.items())[:WORKERS]:
        share = f"{100 * worker.utilisation(now):.0f} %"
        table.add_row(escape(address), str(worker.threads), str(worker.n_tasks), share)
    if len(tally.workers) > WORKERS:
        table.add_row(f"… and {len(tally.workers) - WORKERS} more", "", "", "")
    return table


def _clock(seconds: float) -> str:
    """Hours, minutes and seconds.

    >>> _clock(59), _clock(3725)
    ('0:59', '1:02:05')
    """
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
