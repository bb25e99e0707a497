"""What a site is to a run: the store that it works in, what is refused, and the last step."""

from __future__ import annotations

from typing import Any, Protocol

from wsi_seg.output.store import Location, Store


class Site(Protocol):
    """The place of one result. Every call may raise WriteError."""

    def __init__(self, out: Any) -> None:
        """`out`: the path, or the URL, of the finished result."""

    @classmethod
    def unfinished_below(cls, folder: Any) -> list[Location]:
        """Places of the unfinished results at any depth below a folder or prefix, sorted."""

    @property
    def out(self) -> Location:
        """The finished result."""

    @property
    def unfinished(self) -> Location:
        """Where it lies until it is finished."""

    @property
    def store(self) -> Store:
        """Of the unfinished result."""

    def make_place(self) -> None:
        """Make what the result is to lie in, where there are such things as folders."""

    def check_place(self) -> None:
        """Refuse a place where nothing can be. Raises UsageError."""

    def exists(self) -> bool:
        """Whether something bears the result's name."""

    def is_settled(self) -> bool:
        """Whether nothing unfinished is left."""

    def refuse_existing(self, *, overwrite: bool) -> None:
        """Raise OutputExistsError where the result is there, unless it is one of ours to be written over."""

    def refuse_foreign(self) -> None:
        """Raise OutputExistsError where somebody else's things lie where the result is to be built."""

    def empty(self) -> None:
        """Throw the unfinished result away, but for who holds it."""

    def sweep(self) -> None:
        """Remove what stopped processes have left half-done; for who holds the result."""

    def attach(self, name: str, content: bytes) -> None:
        """Put a companion (`overview.png`, `summary.json`) into the unfinished result."""

    def publish(self, root: bytes, *, overwrite: bool) -> None:
        """Write the root metadata and give the complete result its name. Raises OutputExistsError."""
