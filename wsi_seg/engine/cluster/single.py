"""One slide on the workers of a scheduler that runs already: `wsi-seg run --scheduler`."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from wsi_seg.engine.cluster.connecting import connected
from wsi_seg.engine.cluster.events import ClusterEvent, SlideBegan, SlideChanged, SlideNote, TaskEnded
from wsi_seg.engine.cluster.loop import Loop
from wsi_seg.engine.cluster.messages import Assignment, Orders, Sealed
from wsi_seg.engine.events import Listener, Note, TilesPredicted
from wsi_seg.engine.options import RunOptions
from wsi_seg.engine.report import RunReport

if TYPE_CHECKING:
    from wsi_seg.engine.target import Target
    from wsi_seg.errors import WsiSegError
    from wsi_seg.slide import Slide


def run_on_scheduler(
    source: Path | Slide, target: Target, options: RunOptions, listener: Listener, stop: threading.Event
) -> RunReport:
    """Segment a slide on the workers of `options.scheduler`. Raises WsiSegError."""
    assert options.scheduler is not None
    heard = _Heard(listener)
    where = Path(source).absolute() if isinstance(source, str | Path) else Sealed.of(source)
    anywhere = replace(target, out=target.out.absolute())
    assignment = Assignment(where, anywhere, options.for_anywhere(), Orders(uuid4().hex))
    with connected(options.scheduler) as connection:
        Loop(connection, [assignment], heard, stop).carry_out()
    if heard.error is not None:
        raise heard.error
    assert heard.report is not None
    return replace(heard.report, out=target.out)


class _Heard:
    """Turns what is told of the first slide into the events of a run, and keeps what became of it."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self.report: RunReport | None = None
        self.error: WsiSegError | None = None

    def __call__(self, event: ClusterEvent) -> None:
        match event:
            case SlideNote(text=text):
                self._listener(Note(text))
            case SlideBegan(started=started):
                self._listener(started)
            case TaskEnded(receipt=receipt):
                self._listener(TilesPredicted(receipt.n_predicted))
            case SlideChanged(report=report, error=error):
                self.report, self.error = report or self.report, error or self.error
            case _:
                pass
