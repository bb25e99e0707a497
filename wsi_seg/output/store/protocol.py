"""What a store of results is to its users: whole objects by key, durable when a call returns.

Owns the contract that `posix` and `objects` keep; tests hold both against it. Keys are relative paths with slashes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

from wsi_seg.output.store.hold import Hold
from wsi_seg.output.store.location import Location

T = TypeVar("T")
Record = tuple[str, int]
"""(SHA-256 in hex, bytes) of a stored object."""


class Store(Protocol):
    """The objects below one root. May be called from several threads; `store_at(root)` makes it anywhere.

    What a store itself refuses is WriteError, unless said otherwise: what failed, the rule, the remedy.
    """

    @property
    def root(self) -> Location:
        """What the keys are relative to."""

    def describe(self, key: str = "") -> str:
        """An object's whole name, for people."""

    def read(self, key: str) -> bytes:
        """The bytes of an object. Raises FileNotFoundError where there is none; OSError."""

    def write(self, key: str, content: bytes, *, exclusive: bool = False) -> None:
        """Store a whole object; it is durable when this returns, and nobody ever sees a part of it.

        With `exclusive` FileExistsError is raised where there is one, which stays.
        """

    def remove(self, key: str) -> None:
        """Remove an object if it is there."""

    def record(self, key: str) -> Record | None:
        """Hash and size of the bytes as they are stored now; None where there are none."""

    def has(self, key: str) -> bool:
        """Whether there is such an object."""

    def keys(self, prefix: str = "") -> list[str]:
        """Keys below a prefix (a folder, or all), sorted."""

    def each(self, work: Callable[[str], T], keys: Sequence[str]) -> list[T]:
        """What `work` answers for each key, in their order; several are worked on at a time where requests travel."""

    def zarr(self) -> Any:
        """The root as a read-only store of zarr's."""

    def hold(self, key: str, subject: str) -> Hold:
        """Be the one process that works on `subject`; `key` is where that is written.

        Raises OutputExistsError, naming who does, where another process works on it.
        """

    def holder(self, key: str) -> str:
        """Who holds `key`, in words; empty where nobody does."""

    def confirm(self, key: str, token: str) -> None:
        """Make sure, for a process that was given a hold's `token`, that it is still held under that.

        Raises OutputExistsError.
        """
