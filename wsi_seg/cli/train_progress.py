"""The progress of a training: a bar where there is a terminal, a line per epoch anywhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from wsi_seg.train.record.events import EpochDone, Event, Listener, Note, StepDone, TrainingStarted, ignore


@contextmanager
def training_progress(*, enabled: bool = True) -> Iterator[Listener]:
    """A listener that tells on standard error while the `with` lasts; one that does nothing when not `enabled`."""
    if not enabled:
        yield ignore
        return
    console = Console(file=sys.stderr)
    bar = Progress(
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"),
        TextColumn("{task.fields[facts]}"), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
        console=console, disable=not console.is_terminal,
    )  # fmt: skip
    with bar:
        yield _Teller(bar, console).hear


class _Teller:
    """Turns events into lines and the bar's numbers."""

    def __init__(self, bar: Progress, console: Console) -> None:
        self._bar, self._console = bar, console
        self._task: TaskID | None = None
        self._n_epochs = self._n_steps = 0

    def hear(self, event: Event) -> None:
        """Take in one event."""
        match event:
            case TrainingStarted():
                self._start(event)
            case StepDone():
                self._step(event)
            case EpochDone():
                self._line(_epoch_line(event, self._n_epochs))
            case Note(text=text):
                self._line(f"note: {text}", style="yellow")

    def _start(self, event: TrainingStarted) -> None:
        self._n_epochs, self._n_steps = event.n_epochs, event.n_steps
        self._line(f"training:   {event.train}")
        self._line(f"validation: {event.validation}")
        resumed = f", resuming after epoch {event.epoch}" if event.epoch else ""
        if event.epoch == event.n_epochs:
            resumed = ", all done before: only card and program are written anew"
        self._line(f"{event.n_parameters:,} parameters, {event.n_epochs} epochs of {event.n_steps} steps{resumed}")
        done, total = event.epoch * event.n_steps, event.n_epochs * event.n_steps
        self._task = self._bar.add_task("steps", total=total, completed=done, facts="")

    def _step(self, event: StepDone) -> None:
        if self._task is not None:
            facts = f"epoch {event.epoch + 1}, loss {event.loss:.4f}, {event.px_per_s / 1e6:.2f} Mpx/s"
            done = event.epoch * self._n_steps + event.step
            self._bar.update(self._task, completed=done, facts=facts)

    def _line(self, text: str, style: str | None = None) -> None:
        self._console.print(text, highlight=False, markup=False, soft_wrap=True, style=style)


def _epoch_line(event: EpochDone, n_epochs: int) -> str:
    row = event.row
    parts = [f"epoch {row['epoch']:.0f}/{n_epochs}: loss {row['loss']:.4f}"]
    parts += [f"{name} {row[name]:.4f}" for name in ("validation loss", "dice", "iou") if name in row]
    parts += [f"{row['bad steps']:.0f} steps skipped"] if row["bad steps"] else []
    parts += [f"{row['seconds']:.0f} s, {row['Mpx/s']:.2f} Mpx/s"]
    return ", ".join(parts) + (" (best)" if event.is_best else "")
