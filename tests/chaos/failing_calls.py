"""Makes the nth call of this process that changes the disk fail, once, with an error of the system.

Counted are the calls that Python code makes below a folder: opening for writing, `write` of such a file, `close` of it
(where network file systems tell late), `fsync`, `ftruncate`, `rename`, `replace`, `link`, `unlink`, `rmdir`, `mkdir`.
Each fails before anything has happened, but for `close`, which has closed by then.
"""

from __future__ import annotations

import builtins
import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

WRITING = frozenset("wax+")


class Call(NamedTuple):
    """One of the calls."""

    kind: str
    path: str
    """Below the folder."""


@dataclass(slots=True)
class Calls:
    """The calls so far, and the one that is to fail."""

    below: Path
    fails: int | None = None
    """Index of the call that fails; None: none does."""
    error: int = 0
    """Its errno."""
    seen: list[Call] = field(default_factory=list)

    def count(self, kind: str, path: str) -> None:
        """Count a call, and fail where it is its turn."""
        if not _is_below(path, self.below):
            return
        self.seen.append(Call(kind, os.path.relpath(path, self.below)))
        if len(self.seen) - 1 == self.fails:
            raise OSError(self.error, os.strerror(self.error), path)


@contextmanager
def counted_calls(calls: Calls) -> Iterator[None]:
    """Count, and fail, while it lasts."""
    real_open = io.open

    def opened(file: Any, mode: str = "r", buffering: int = -1, *rest: Any, **named: Any) -> Any:
        if not WRITING & set(mode) or isinstance(file, int) or not _is_below(file, calls.below):
            return real_open(file, mode, buffering, *rest, **named)
        calls.count("open", os.fspath(file))
        raw = _CountedFile(calls, os.fspath(file), mode.replace("b", "").replace("t", ""))
        if "b" not in mode:
            return io.TextIOWrapper(io.BufferedWriter(raw), *rest[:1], **named)
        if buffering == 0:
            return raw
        return io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)

    replaced = {name: _counting(calls, name, getattr(os, name)) for name in _BY_PATH}
    replaced |= {name: _counting_handle(calls, name, getattr(os, name)) for name in ("fsync", "write", "ftruncate")}
    replaced["open"] = _counting_open(calls, os.open)
    with patch.multiple(os, **replaced), patch.object(io, "open", opened), patch.object(builtins, "open", opened):
        yield


_BY_PATH = {"mkdir": 0, "rename": 1, "replace": 1, "link": 1, "unlink": 0, "rmdir": 0}
"""Call -> which argument is the path that it makes or takes away."""


class _CountedFile(io.FileIO):
    def __init__(self, calls: Calls, path: str, mode: str) -> None:
        self._calls, self._path = calls, path
        super().__init__(path, mode)

    def write(self, content: Any, /) -> int:
        self._calls.count("write", self._path)
        return super().write(content)

    def close(self) -> None:
        first = not self.closed
        super().close()
        if first:
            self._calls.count("close", self._path)


def _counting(calls: Calls, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
    def call(*arguments: Any, **named: Any) -> Any:
        path, folder = os.fspath(arguments[_BY_PATH[name]]), named.get("dir_fd")
        calls.count(name, path if folder is None else os.path.join(_path_of(folder), path))  # noqa: PTH118
        return real(*arguments, **named)

    return call


def _counting_handle(calls: Calls, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
    def call(handle: int, *rest: Any) -> Any:
        calls.count(name, _path_of(handle))
        return real(handle, *rest)

    return call


def _counting_open(calls: Calls, real: Callable[..., int]) -> Callable[..., int]:
    def call(path: Any, flags: int, *rest: Any, **named: Any) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            calls.count("open", os.fspath(path))
        return real(path, flags, *rest, **named)

    return call


def _path_of(handle: int) -> str:
    return os.readlink(f"/proc/self/fd/{handle}")  # noqa: PTH115


def _is_below(file: Any, folder: Path) -> bool:
    return Path(file).absolute().is_relative_to(folder)
