"""A folder as a store: the discipline of `durable`, locks of the kernel. POSIX file systems."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from wsi_seg.output.durable import file_record, remove_durably, write_durably
from wsi_seg.output.store.flock import FileLock, lock_owner
from wsi_seg.output.store.hold import Hold
from wsi_seg.output.store.protocol import Record, T


class PosixStore:
    """The files below a folder; see `Store`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def describe(self, key: str = "") -> str:
        """The path."""
        return str(self.root / key)

    def read(self, key: str) -> bytes:
        """The bytes of a file. Raises FileNotFoundError, OSError."""
        try:
            return (self.root / key).read_bytes()
        except NotADirectoryError as error:
            raise FileNotFoundError(*error.args) from error

    def write(self, key: str, content: bytes, *, exclusive: bool = False) -> None:
        """Write a whole file; makes its folders. Raises FileExistsError, WriteError."""
        write_durably(self.root / key, content, exclusive=exclusive)

    def remove(self, key: str) -> None:
        """Remove a file if it is there. Raises WriteError."""
        remove_durably(self.root / key)

    def record(self, key: str) -> Record | None:
        """Hash and size of a file; None where there is none. Raises WriteError."""
        return file_record(self.root / key)

    def has(self, key: str) -> bool:
        """Whether there is such a file."""
        return (self.root / key).is_file()

    def keys(self, prefix: str = "") -> list[str]:
        """Of all files below a folder."""
        files = (path for path in (self.root / prefix).rglob("*") if path.is_file())
        return sorted(path.relative_to(self.root).as_posix() for path in files)

    def each(self, work: Callable[[str], T], keys: Sequence[str]) -> list[T]:
        """One after the other: all wait for the same disk."""
        return [work(key) for key in keys]

    def zarr(self) -> Any:
        """The folder, for zarr."""
        from zarr.storage import LocalStore

        return LocalStore(self.root, read_only=True)

    def hold(self, key: str, subject: str) -> Hold:
        """Lock a file. Raises OutputExistsError, WriteError."""
        return FileLock(self.root / key, subject)

    def holder(self, key: str) -> str:
        """Host and pid of whoever has locked a file."""
        return lock_owner(self.root / key)

    def confirm(self, key: str, token: str) -> None:
        """The kernel does not take a lock away from who has it."""
