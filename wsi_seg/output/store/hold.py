"""That one process, and no other, works on something: what its users know of it, and how others are refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from wsi_seg.errors import OutputExistsError


class Hold(Protocol):
    """Held until it is released, or lost."""

    @property
    def token(self) -> str:
        """Proves the hold to `Store.confirm` in another process; empty where nothing needs proof."""

    def on_loss(self, tell: Callable[[], None]) -> None:
        """Call `tell`, from whatever thread, when the hold is lost; at once where it is."""

    def confirm(self) -> None:
        """Make sure that it is still held. Raises OutputExistsError where it was lost, WriteError."""

    def release(self) -> None:
        """Let go; harmless where it is lost, and a second time."""


def held_by_another(subject: str, owner: str) -> OutputExistsError:
    """The error of whoever comes second."""
    return OutputExistsError(
        f"another process works on {subject}: {owner}",
        rule="one run writes a result",
        remedy="wait for it, stop it, or choose another --out",
    )
