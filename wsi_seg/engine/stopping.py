"""The one way a run is stopped: somebody sets an event, the work looks at it where stopping loses little."""

from __future__ import annotations

from threading import Event

from wsi_seg.errors import RunStopped


def check_stop(stop: Event | None) -> None:
    """Raise RunStopped once `stop` is set."""
    if stop is not None and stop.is_set():
        raise RunStopped(
            "the run was stopped",
            rule="what is finished is kept",
            remedy="run the same command again to resume",
        )
